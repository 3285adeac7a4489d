//! The operations that devices run. Each file defines one operation for all devices: its operands, their shapes, the
//! checks and the cost.
//!
//! An operation is a `Copy` struct of tensor views and constants. It declares for every operand whether it is read,
//! written or both; the tape derives buffer lifetimes from that, and devices derive bounds and aliasing checks. Nothing
//! in the struct changes from step to step. Values that do (the learning rate, the RNG counter) are in device memory,
//! in a [`StepState`].
//!
//! Notation: `N` rows (batch x time), `C` width, `V` vocabulary size, `B` batch size, `T` sequence length, `H` heads,
//! `D` head size. All shapes are row-major, outermost dimension first. Rows may be padded (a pitch above the width)
//! unless an operand is documented as contiguous.
//!
//! Types: unless documented otherwise, operands are floats of one type, the *compute type* of the operation (f32 or
//! bf16; f64 in the reference). Operands of the *accumulator type* have the type [`DType::accumulator`] of it: f32 for
//! f32 and bf16, f64 for f64.
//!
//! Cost: a multiply-add is 2 FLOPs, and work masked out by a causal mask is not counted. Bytes count every operand once
//! for each time it must be read or written.

/// A file for each operation; what it makes public is public here.
macro_rules! modules {
    ($($stem:ident { $($name:ident: $op:ident),+ })+) => { $(mod $stem; pub use $stem::*;)+ };
}

operations!(modules);

pub mod philox;
mod state;

pub use state::StepState;

use crate::bail;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// Alignment of parameters within an arena, in elements. AdamW's decay mask has one entry for each block of this many
/// elements.
pub const ALIGN: usize = 64;

/// What an operation does to an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Elements are only read.
    Read,
    /// Every element of the view is written and none is read.
    Write,
    /// Elements are read and written.
    Update,
}

/// Callback of [`Operation::named_operands`]: it receives the name of an operand, the operand, and how it is accessed.
pub type Visit<'a> = &'a mut dyn FnMut(&'static str, &mut Tensor, Access);

/// The cost of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes moved if every operand is read or written only once.
    pub bytes: u64,
}

/// Common interface of all operations.
pub trait Operation {
    /// Name of the operation, which is also the stem of its file names in every module.
    const NAME: &'static str;
    /// Calls `visit` for every operand with the name of its field. Operands are mutable so that the tape can replace
    /// buffer numbers by addresses.
    fn named_operands(&mut self, visit: Visit);
    /// Like [`Operation::named_operands`], without the names.
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        self.named_operands(&mut |_, t, access| visit(t, access));
    }
    /// Checks that shapes, types and options fit each other.
    ///
    /// # Errors
    /// When something does not fit; the message names the operand or option.
    fn check(&self) -> Result<()>;
    /// Returns the number of floating-point operations. They are defined by the mathematics, not by how a device
    /// computes it.
    fn flops(&self) -> u64;
    /// Returns an operand with access `Update` that is overwritten without being read, except for padding that stays as
    /// it is. Its bytes count once instead of twice.
    fn overwritten(&self) -> Option<Tensor> {
        None
    }
    /// Returns an input and an output that may be the same view, so that the operation overwrites its input in place.
    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        None
    }
}

macro_rules! op {
    ($($stem:ident { $($short:ident: $name:ident),+ })+) => { op! { $($($name),+),+ } };
    ($($name:ident),+) => {
        /// Any operation.
        #[derive(Clone, Copy, Debug, PartialEq)]
        // `Copy` and free of pointers, so that recording a step allocates nothing; lists of a few hundred are small.
        #[allow(clippy::large_enum_variant)]
        pub enum Op {
            $(
                /// The operation that the struct of the same name describes.
                $name($name),
            )*
        }

        $(impl From<$name> for Op { fn from(op: $name) -> Op { Op::$name(op) } })*

        /// Names of all operations.
        pub const NAMES: &[&str] = &[$($name::NAME),*];

        impl Op {
            /// Returns the name of the operation.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$name(_) => $name::NAME),* }
            }

            /// Returns the position of the operation's name in [`NAMES`].
            pub fn number(&self) -> usize {
                enum Number { $($name),* }
                match self { $(Op::$name(_) => Number::$name as usize),* }
            }

            /// Calls `visit` for every operand ([`Operation::operands`]).
            pub fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
                match self { $(Op::$name(op) => op.operands(visit)),* }
            }

            /// Calls `visit` for every operand with its name ([`Operation::named_operands`]).
            pub fn named_operands(&mut self, visit: Visit) {
                match self { $(Op::$name(op) => op.named_operands(visit)),* }
            }

            /// Returns an input and an output that may be the same view ([`Operation::in_place`]).
            pub fn in_place(&self) -> Option<(Tensor, Tensor)> {
                match self { $(Op::$name(op) => op.in_place()),* }
            }

            fn overwritten(&self) -> Option<Tensor> {
                match self { $(Op::$name(op) => op.overwritten()),* }
            }

            fn check_shapes(&self) -> Result<()> {
                match self { $(Op::$name(op) => op.check()),* }
            }

            fn flops(&self) -> u64 {
                match self { $(Op::$name(op) => op.flops()),* }
            }
        }
    };
}

operations!(op);

impl Op {
    /// Returns the cost: FLOPs by definition, and the bytes of all operands, counted twice for operands that are read
    /// and written.
    pub fn cost(&self) -> Cost {
        let mut bytes = 0;
        let mut op = *self;
        let overwritten = self.overwritten();
        op.operands(&mut |t, access| {
            let once = t.bytes() as u64;
            let twice = access == Access::Update && Some(*t) != overwritten;
            bytes += if twice { 2 * once } else { once };
        });
        Cost { flops: self.flops(), bytes }
    }

    /// Returns the compute type: BF16 if any operand has it, otherwise the type of the first float operand. `None` if
    /// no operand holds floats.
    pub fn float(&self) -> Option<DType> {
        let (mut found, mut op) = (None, *self);
        op.operands(&mut |t, _| {
            if t.dtype().is_float() && (found.is_none() || t.dtype() == DType::BF16) {
                found = Some(t.dtype());
            }
        });
        found
    }

    /// Checks that operands fit each other and that none that is written overlaps another one. The exception is the
    /// pair of [`Operation::in_place`], which may be the same view, but only while no third operand overlaps it: that
    /// one would be read after it was overwritten.
    ///
    /// # Errors
    /// When operands do not fit or overlap; the message names the operation and the operands.
    pub fn check(&self) -> Result<()> {
        self.check_shapes().map_err(|e| e.at(self.name()))?;
        const MOST: usize = 16;
        let mut all: [Option<(Tensor, Access)>; MOST] = [None; MOST];
        let mut count = 0;
        let mut op = *self;
        op.operands(&mut |t, access| {
            all[count] = Some((*t, access));
            count += 1;
        });
        let mut pairs = 0;
        for (i, (a, how_a)) in all.iter().flatten().enumerate() {
            for (b, how_b) in all.iter().flatten().skip(i + 1) {
                let written = *how_a != Access::Read || *how_b != Access::Read;
                let allowed =
                    |(x, y): (Tensor, Tensor)| (x == *a && y == *b || x == *b && y == *a) && same_elements(a, b);
                if !written || !a.overlaps(b) {
                    continue;
                }
                pairs += 1;
                if pairs > 1 || !self.in_place().is_some_and(allowed) {
                    bail!("{}: an output overlaps another operand ({a:?} and {b:?})", self.name());
                }
            }
        }
        Ok(())
    }
}

/// Returns whether two views have the same elements in the same rows.
fn same_elements(a: &Tensor, b: &Tensor) -> bool {
    let place = |t: &Tensor| (t.place(), t.dtype(), t.offset(), t.width(), t.pitch(), t.numel());
    place(a) == place(b)
}

/// Checks that `t` has the dimensions `dims`. Messages look like `weight is [3, 4] but must be [5, 4]`.
fn expect_shape(what: &str, t: &Tensor, dims: &[usize]) -> Result<()> {
    if t.dims() != dims {
        bail!("{what} is {:?} but must be {dims:?}", t.shape());
    }
    Ok(())
}

/// Checks that `t` has `rows` rows of `width` elements by its shape, and also as rows in memory.
fn expect_rows(what: &str, t: &Tensor, rows: usize, width: usize) -> Result<()> {
    if t.shape().last() != width || t.numel() != rows * width {
        bail!("{what} is {:?} but must have {rows} rows of {width} elements", t.shape());
    }
    if t.width() != width {
        bail!("{what} has rows of {} elements in memory but must have rows of {width}", t.width());
    }
    Ok(())
}

/// Checks that `t` has the type `dtype`.
fn expect_dtype(what: &str, t: &Tensor, dtype: DType) -> Result<()> {
    if t.dtype() != dtype {
        bail!("{what} has type {:?} but must be {dtype:?}", t.dtype());
    }
    Ok(())
}

/// Checks that all tensors hold floats of the type of the first one.
fn expect_floats(all: &[(&str, &Tensor)]) -> Result<()> {
    let first = all[0].1.dtype();
    for (what, t) in all {
        if !t.dtype().is_float() || t.dtype() != first {
            return Err(Error::new(format!("{what} has type {:?}; all float operands must share one type", t.dtype())));
        }
    }
    Ok(())
}

/// Checks that all tensors have the accumulator type that belongs to the type of `first`.
fn expect_accumulator(first: &Tensor, all: &[(&str, &Tensor)]) -> Result<()> {
    let wide = first.dtype().accumulator();
    for (what, t) in all {
        if t.dtype() != wide {
            bail!("{what} has type {:?} but must be {wide:?}, the accumulator type of {:?}", t.dtype(), first.dtype());
        }
    }
    Ok(())
}

/// Checks that all tensors hold floats, of any type.
fn expect_any_floats(all: &[(&str, &Tensor)]) -> Result<()> {
    for (what, t) in all {
        if !t.dtype().is_float() {
            bail!("{what} has type {:?} but must hold floats", t.dtype());
        }
    }
    Ok(())
}

/// Checks that the rows of `t` follow each other without padding.
fn expect_contiguous(what: &str, t: &Tensor) -> Result<()> {
    if !t.is_contiguous() {
        bail!("{what} must be contiguous");
    }
    Ok(())
}
