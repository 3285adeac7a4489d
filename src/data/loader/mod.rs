//! TODO

pub mod batch;
pub mod prefetch;
