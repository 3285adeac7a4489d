//! Parity: compares every operation of a device with the f64 reference, over shapes, options and strides. The cases are
//! used by the tests and by `vcycle kernels check`.

mod accumulate;
mod activation;
mod adamw;
mod attention;
mod column_sum;
mod cross_entropy;
mod differences;
mod dropout;
mod embedding;
mod fill;
mod global_norm;
pub mod harness;
pub mod kernels;
mod layernorm;
mod linear;
mod multilevel;
pub mod random;
mod squared_error;
#[cfg(emulated)]
pub mod swaps;
mod update;

use crate::device::ops::Op;
use harness::Harness;

/// The size of an operation's sample.
#[derive(Clone, Copy, PartialEq)]
pub enum Size {
    /// For tests of invalid operations.
    Small,
    /// Large enough for many chunks on `cpu`.
    Large,
}

/// The cases of one operation.
pub struct Stem {
    /// The operation's name.
    pub name: &'static str,
    /// Compares many shapes and options with the reference.
    pub cases: fn(&mut Harness),
    /// Returns one operation with as many optional operands as can be combined.
    pub sample: fn(&mut Harness, Size) -> Op,
}

macro_rules! stems {
    ($($stem:ident: $cases:path, $sample:path;)*) => {
        /// The cases of all operations.
        pub const STEMS: &[Stem] = &[$(Stem { name: stringify!($stem), cases: $cases, sample: $sample }),*];
    };
}

stems! {
    accumulate: accumulate::cases, accumulate::sample;
    activation: activation::cases, activation::sample;
    adamw: adamw::cases, adamw::sample;
    attention: attention::cases, attention::sample;
    attention_backward: attention::cases, attention::sample_backward;
    column_sum: column_sum::cases, column_sum::sample;
    cross_entropy: cross_entropy::cases, cross_entropy::sample;
    dropout: dropout::cases, dropout::sample;
    embedding: embedding::cases, embedding::sample;
    embedding_backward: embedding::cases_backward, embedding::sample_backward;
    fill: fill::cases, fill::sample;
    global_norm: global_norm::cases, global_norm::sample;
    layernorm: layernorm::cases, layernorm::sample;
    layernorm_backward: layernorm::cases_backward, layernorm::sample_backward;
    linear: linear::cases, linear::sample;
    multilevel: multilevel::cases, multilevel::sample;
    squared_error: squared_error::cases, squared_error::sample;
    update: update::cases, update::sample;
}

/// Finds the cases of an operation by its name.
pub fn stem(name: &str) -> Option<&'static Stem> {
    STEMS.iter().find(|s| s.name == name)
}
