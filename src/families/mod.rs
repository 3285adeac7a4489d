//! Whatever differs between GPT, BERT and DeiT outside of their forward code.
//!
//! | | |
//! |---|---|
//! | [`build`] | builds the models of all levels from a configuration |
//! | `from_pretrained` | builds level 1 with the sizes of the checkpoint that `model.from` names |
//! | [`dataset`] | opens the data that a model family trains on: text, labelled texts or images |
//! | [`labelled`] | labelled texts for fine-tuning BERT, and their batches |
//! | `sources` | batches of masked text (BERT) and of image patches (DeiT) |
//!
//! The forward code itself is in [`crate::model`].

pub mod build;
pub mod dataset;
pub(crate) mod from_pretrained;
pub mod labelled;
pub(crate) mod sources;
