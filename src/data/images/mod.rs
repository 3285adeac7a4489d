//! From image files to batches of patches.
//!
//! [`source`] reads the files of others (`idx`, `cifar`, `csv`, `folder`) once, into a [`shard`] that is kept by what it
//! was made from. [`sampler`] takes training and validation batches out of it: [`augment`] says how images are changed on the
//! way, [`view`] cuts and resizes, [`randaugment`] and [`mixing`] do what they are called, [`random`](super::random)
//! decides.

pub mod augment;
mod cifar;
mod csv;
mod folder;
mod idx;
mod jpeg;
mod jpeg_scan;
pub mod mixing;
pub mod randaugment;
pub mod sampler;
pub mod shard;
mod shard_writer;
pub mod source;
pub mod view;

pub use augment::AugmentConfig;
pub use csv::LabelPlace;
pub use sampler::{ImageBatch, ImageSampler, PatchShape};
pub use shard::Images;
pub use source::{ImageFiles, ImageSpec, prepare};
pub use view::ViewConfig;
