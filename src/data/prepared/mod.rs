//! Data that was tokenized once and is kept on disk.
//!
//! [`cache`] tokenizes the text that a configuration names (`data.text`) and caches the result in a folder whose name
//! contains a hash of everything it depends on. [`folder`] writes and reads the folders of `vcycle data prepare`, which
//! hold texts of any size as numbered shards. [`corpus`] opens the training and the held-out split for a run, from
//! either of these or from token files. [`manifest`] is the `data.json` of both.

pub mod cache;
pub mod corpus;
pub mod folder;
pub mod manifest;
