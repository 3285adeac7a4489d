//! Training: one step of one level (`learner`), the rate (`schedule`), the stages of a V-cycle or of its twin (`side`),
//! both of them in a folder (`run`, `folder`), stopped and gone on with (`checkpoint`).

pub mod budget;
pub mod checkpoint;
pub mod config;
pub mod data_config;
mod enter;
pub mod feed;
pub mod folder;
pub mod labelled;
pub mod learner;
pub mod level_config;
pub mod levels;
pub mod metrics;
pub mod progress;
pub mod run;
mod sample;
mod saving;
pub mod schedule;
pub mod search;
pub mod settings;
pub mod side;
pub mod soundness;
mod sources;
mod start;
pub mod tensorboard;
