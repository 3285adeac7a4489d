//! Training: one step of one level (`learner`), the rate (`schedule`), the run through all stages of a V-cycle (`run`).

pub mod config;
pub mod data_config;
pub mod learner;
pub mod metrics;
pub mod progress;
pub mod run;
pub mod schedule;
