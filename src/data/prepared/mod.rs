//! TODO

pub mod cache;
pub mod corpus;
pub mod folder;
