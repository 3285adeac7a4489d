//! Trains transformers in multi-level V-cycles on its own CUDA and CPU kernels, without a deep-learning framework.
//!
//! The modules, from the bottom up:
//!
//! - [`tensor`]: typed, strided views into memory arenas.
//! - [`device`]: memory arenas and the operations that run on them. [`device::ops`] defines each operation once; the
//!   f64 reference, the CPU and CUDA (on a GPU or in the emulator) implement it.
//! - [`parity`]: compares every operation of a device with the f64 reference.
//! - [`tape`]: records the operations of a training step, plans their memory and derives the backward pass.
//! - [`data`]: readers for text and images, tokenizers, token shards, labelled data, the loader that builds batches.
//! - [`model`]: GPT, BERT and DeiT: parameter tables and forward code.
//! - [`hub`]: reads and writes checkpoints in the Hugging Face and timm formats.
//! - [`multilevel`]: the operators of a V-cycle: coalesce, de-coalesce and interpolate.
//! - [`eval`]: held-out loss, perplexity, accuracy metrics and text generation.
//! - [`families`]: what differs between model families outside of the forward code: building levels, opening data,
//!   starting from a checkpoint.
//! - [`config`]: the TOML configuration of a run and its checks.
//! - [`train`]: training: the plan of stages, optimizer steps, evaluation, checkpoints, memory estimates.
//! - [`run`]: the folder of a run: start, resume, lock, final report.
//! - [`runlog`]: the metrics log (`metrics.jsonl`), TensorBoard events and progress output.
//! - [`report`]: compares runs and renders `report.html`.
//! - [`mod@bench`]: benchmarks of operations and of whole training steps.
//! - [`cli`]: the subcommands of the `vcycle` binary.
//!
//! [`error`], [`files`], [`memory`], [`signals`] and [`allocator`] support all of them.
//!
//! `docs/architecture.md` follows one training step through these modules.

#![warn(missing_docs)]

#[macro_use]
mod operations;

pub mod allocator;
pub mod bench;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod families;
pub mod files;
pub mod hub;
pub mod memory;
pub mod model;
pub mod multilevel;
pub mod optim;
pub mod parity;
pub mod report;
pub mod run;
pub mod runlog;
pub mod signals;
pub mod tape;
pub mod tensor;
pub mod train;
