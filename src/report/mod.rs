//! Comparing runs, and where their time went.

pub mod savings;
pub mod trace;
