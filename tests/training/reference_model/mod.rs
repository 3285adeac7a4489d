//! A second implementation in f64 of what a run trains, which shares no code with the program: GPT, BERT and DeiT, their
//! differentiation, FLOPs counted by hand beside every operation, random numbers, and the operators between levels. Whether
//! it is right shows in `tests/training/oracle`: two implementations have to agree to ten digits.

pub mod batch;
pub mod config;
pub mod graph;
pub mod models;
pub mod operators;
pub mod random;
