//! Models: gradients against finite differences, FLOPs against formulas worked out by hand, the published
//! implementation's numbers, the multi-level operators, mixed precision.

mod flops;
mod golden;
mod gradients;
mod mixed_precision;
mod multilevel;
