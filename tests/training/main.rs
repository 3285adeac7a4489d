//! Whole training runs of every model family: compared with an oracle in plain f64, stopped and resumed.

mod accumulation;
mod checkpoints;
mod emulated_run;
mod families;
mod finetune;
mod memory_estimate;
mod metrics;
mod oracle;
#[cfg(unix)]
mod resume;
mod scores;
mod settings;
mod stages;
