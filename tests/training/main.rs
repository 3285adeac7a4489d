//! Whole runs: against an oracle in plain f64, stopped and resumed, in every family.

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
