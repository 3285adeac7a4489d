//! An independent f64 implementation of everything that a run trains. It shares no code with the program: GPT, BERT and
//! DeiT, their differentiation, FLOPs counted by hand for every operation, random numbers, and the operators between
//! levels. `tests/training/oracle` checks both implementations against each other: they must agree to about nine
//! digits.

pub mod batch;
pub mod config;
pub mod graph;
pub mod models;
pub mod operators;
pub mod random;
