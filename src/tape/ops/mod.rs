//! The forward and backward pass of each operation, one file for each.

mod attention;
mod cross_entropy;
mod dropout;
mod embedding;
mod layernorm;
mod linear;
pub(super) mod linear_cross_entropy;
mod squared_error;

pub use cross_entropy::LossOptions;
pub use linear::{Affine, Weight};
