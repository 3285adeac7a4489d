//! Batches and prefetching.
//!
//! [`batch`] defines what all sources of batches have in common: the buffers ([`batch::Field`]), the trait
//! [`batch::Source`] and its implementation for next-token prediction ([`batch::NextToken`]). [`prefetch`] fills the
//! next training batches on worker threads while the current step runs.

pub mod batch;
pub mod prefetch;
