//! TODO

pub mod build;
pub mod dataset;
pub(crate) mod from_pretrained;
pub mod labelled;
pub(crate) mod sources;
