//! A reference model in f64, of which the program's own knows nothing: GPT, BERT and DeiT, their differentiation, and FLOPs counted
//! by hand beside every operation. The oracle trains it.

pub mod graph;
pub mod models;
pub mod random;
