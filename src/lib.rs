//! Transformers trained in multi-level V-cycles, with no framework underneath.
//!
//! Rooms, from the bottom up; a room knows only those below it:
//!
//! - [`tensor`]: views into arenas.
//! - [`device`]: memory, and the operations that run on it. [`device::ops`] defines each operation once, for all devices.
//! - [`parity`]: every operation of a device against the f64 reference.
//! - [`tape`]: the operations of a step, recorded, placed, walked backwards.
//! - [`model`]: tables of parameters with roles, and forward code. [`multilevel`]: coalesce, de-coalesce, interpolate over
//!   these roles. [`data`]: text to tokens, images to patches, both to batches. [`hub`]: Hugging Face form.
//! - [`train`], [`eval`], [`report`]: runs, and what they are worth. [`mod@bench`]: what operations and steps take.
//! - [`cli`]: the commands.
//!
//! `docs/architecture.md` shows the path of one step through them.

#![warn(clippy::undocumented_unsafe_blocks)]

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
pub mod parity;
pub mod report;
pub mod run;
pub mod runlog;
pub mod signals;
pub mod tape;
pub mod tensor;
pub mod train;
