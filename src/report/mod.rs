//! Comparing runs.

pub mod savings;
