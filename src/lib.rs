//! `vcycle`
pub mod cli;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod files;
pub mod hub;
pub mod model;
pub mod multilevel;
pub mod report;
pub mod tape;
pub mod tensor;
pub mod train;
