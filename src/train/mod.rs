//! Training: one step of one level (`learner`), the rate (`schedule`), the stages of a V-cycle or of its twin (`side`),
//! both of them in a folder (`run`, `folder`), stopped and gone on with (`checkpoint`).

pub mod checkpoint;
pub mod memory_estimate;
pub mod plan;
mod sample;
mod saving;
pub mod settings;
pub mod state;
pub mod trainer;
pub mod validate;
