//! `vcycle`
pub mod error;
