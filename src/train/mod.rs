//! Trains one level after another, as a plan of stages says.
//!
//! | | |
//! |---|---|
//! | [`plan`] | the stages of a V-cycle, how each stage begins, the search for alpha |
//! | [`state`] | the parameters, gradients and optimizer state of the level in training; one training step |
//! | [`trainer`] | the loop over stages and steps of one branch of a run: steps, evaluations, log entries |
//! | [`checkpoint`] | writes and reads the checkpoints from which a stopped run resumes |
//! | [`validate`] | checks that a checkpoint is consistent with the plan |
//! | [`settings`] | compares the configuration with that of a checkpoint: which keys may change |
//! | [`memory_estimate`] | how much device memory a run will need |
//!
//! A run has one or two branches ([`Branch`](crate::runlog::Branch)): the V-cycle, and optionally the baseline, which trains level 1
//! from scratch. [`crate::run`] trains both in one folder.

pub mod checkpoint;
mod clock;
mod evaluation;
mod idle;
pub mod memory_estimate;
pub mod plan;
mod saving;
pub mod settings;
pub mod state;
pub mod trainer;
pub mod updater;
pub mod validate;
