//! `vcycle`
pub mod device;
pub mod error;
pub mod tape;
pub mod tensor;
