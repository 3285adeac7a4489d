//! Models: gradients compared with finite differences, FLOPs with formulas derived by hand, results with those of the
//! published implementation; the multi-level operators; mixed precision.

mod flops;
mod golden;
mod gradients;
mod mixed_precision;
mod multilevel;
