//! Turns image files into batches of patches.
//!
//! [`source`] reads one of the [`formats`] once and writes a [`shard`], which is
//! cached under a hash of its inputs. [`sampler`] cuts training and validation batches out of the shard: [`augment`]
//! configures the augmentation, [`view`] crops and resizes, [`randaugment`] and [`mixing`] implement RandAugment, mixup
//! and CutMix, and [`random`](super::random) supplies the random numbers.

pub mod augment;
pub mod formats;
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
pub use formats::{ImageFiles, LabelColumn};
pub use sampler::{ImageBatch, ImageSampler, PatchShape};
pub use shard::Images;
pub use source::{ImageSpec, prepare};
pub use view::ViewConfig;
