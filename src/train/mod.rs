//! Training: one step of one level (`learner`), the rate (`schedule`), the run through all stages of a V-cycle (`run`).

pub mod learner;
pub mod schedule;
