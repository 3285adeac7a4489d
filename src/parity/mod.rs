//! Parity: compares every operation of a device with the f64 reference, over shapes, options and strides. The cases are
//! used by the tests and by `vcycle kernels check`.

/// A file for each operation.
macro_rules! modules {
    ($($stem:ident { $($name:ident: $op:ident),+ })+) => { $(mod $stem;)+ };
}

operations!(modules);

mod differences;
pub mod harness;
pub mod kernels;
pub mod random;
#[cfg(emulated)]
pub mod swaps;

use crate::device::ops::Op;
use harness::Harness;

/// The size of an operation's sample.
#[derive(Clone, Copy, PartialEq)]
pub enum Size {
    /// For tests of invalid operations.
    Small,
    /// Large enough for many chunks on `cpu`.
    Large,
}

/// The cases of one operation.
pub struct Stem {
    /// The operation's name.
    pub name: &'static str,
    /// Compares many shapes and options with the reference.
    pub cases: fn(&mut Harness),
    /// Returns one operation with as many optional operands as can be combined.
    pub sample: fn(&mut Harness, Size) -> Op,
}

macro_rules! all {
    ($($stem:ident { $($name:ident: $op:ident),+ })+) => { &[$($stem::STEMS),+] };
}

/// The cases of all operations, by file.
const ALL: &[&[Stem]] = operations!(all);

/// Iterates over the cases of all operations.
pub fn stems() -> impl Iterator<Item = &'static Stem> {
    ALL.iter().copied().flatten()
}

/// Finds the cases of an operation by its name.
pub fn stem(name: &str) -> Option<&'static Stem> {
    stems().find(|s| s.name == name)
}
