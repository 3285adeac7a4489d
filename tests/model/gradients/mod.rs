//! Tests of the tape: gradients of every differentiable operation against finite differences in f64, shared gradients,
//! segments and memory plans.

mod attention;
mod cross_entropy;
mod dropout;
mod embedding;
mod layernorm;
mod linear;
mod linear_cross_entropy;
mod planning;
mod rig;
mod segments;
mod sharing;
mod squared_error;
mod stack;
#[path = "../../kernels/support.rs"]
mod support;
