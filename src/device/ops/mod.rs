//! The operations: what a device runs. One file each: operands, shapes, the check, the cost. Once for all devices.
//!
//! An operation is a plain `Copy` struct of views and constants. It says of every operand whether it is read, written or
//! both, from which the tape derives lifetimes, and devices derive bounds and aliasing. Nothing in it changes from step to
//! step: what does (learning rate, RNG counter) lies in device memory, see [`StepState`].
//!
//! Notation in the files: `N` rows (batch x time), `C` width, `V` vocabulary, `B` batch, `T` time, `H` heads, `D` head size.
//! Types: *floats* of an operation share one type, in which it computes; what is marked *wide* has [`DType::wide`] of it.
//! FLOPs: a multiply-add is 2, masked causal work is not counted. Bytes: every operand read or written once.

mod accumulate;
mod activation;
mod adamw;
mod attention;
mod column_sum;
mod cross_entropy;
mod dropout;
mod embedding;
mod fill;
mod global_norm;
mod layernorm;
mod linear;
mod multilevel;
pub mod philox;
mod squared_error;
mod state;

pub use accumulate::Accumulate;
pub use activation::{Activation, ActivationBackward};
pub use adamw::AdamW;
pub use attention::{Attention, AttentionBackward};
pub use column_sum::ColumnSum;
pub use cross_entropy::{CrossEntropy, Mix};
pub use dropout::{Dropout, Mask};
pub use embedding::{Embedding, EmbeddingBackward};
pub use fill::Fill;
pub use global_norm::GlobalNorm;
pub use layernorm::{LayerNorm, LayerNormBackward};
pub use linear::{Epilogue, Linear};
pub use multilevel::{IDENTITY, Item, Multilevel};
pub use squared_error::SquaredError;
pub use state::StepState;

use crate::bail;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// Parameters start at multiples of this many elements; AdamW's decay mask has one entry per so many.
pub const ALIGN: usize = 64;

/// What an operation does to an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Every element of the view is written, none is read.
    Write,
    /// Read and written.
    Update,
}

/// What [`Operation::named_operands`] calls with the name of an operand, the operand, and what is done to it.
pub type Visit<'a> = &'a mut dyn FnMut(&'static str, &mut Tensor, Access);

/// Floating-point operations, and bytes when each operand moves once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub flops: u64,
    pub bytes: u64,
}

/// What every operation answers about itself.
pub trait Operation {
    /// The stem of the operation's files in every room.
    const NAME: &'static str;
    /// Visits every operand, with the name that its field has. Mutable, so that the tape can move virtual buffers to their place.
    fn named_operands(&mut self, visit: Visit);
    /// As [`Operation::named_operands`], without the names.
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        self.named_operands(&mut |_, t, access| visit(t, access));
    }
    /// Shapes and types fit each other.
    fn check(&self) -> Result<()>;
    /// Floating-point operations. Their definition is the mathematics, not a device's way of computing it.
    fn flops(&self) -> u64;
    /// An updated operand of which all but padding is overwritten unread: it moves once.
    fn overwritten(&self) -> Option<Tensor> {
        None
    }
    /// An input and an output that may share memory when the input is not needed afterwards.
    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        None
    }
}

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// Any operation.
        #[derive(Clone, Copy, Debug, PartialEq)]
        // `Copy` and free of pointers, so that recording a step allocates nothing; lists of a few hundred are small.
        #[allow(clippy::large_enum_variant)]
        pub enum Op { $($name($name)),* }

        $(impl From<$name> for Op { fn from(op: $name) -> Op { Op::$name(op) } })*

        /// The stems of all operations.
        pub const NAMES: &[&str] = &[$($name::NAME),*];

        impl Op {
            pub fn name(&self) -> &'static str {
                match self { $(Op::$name(_) => $name::NAME),* }
            }

            /// Position of its name in [`NAMES`].
            pub fn number(&self) -> usize {
                enum Number { $($name),* }
                match self { $(Op::$name(_) => Number::$name as usize),* }
            }

            pub fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
                match self { $(Op::$name(op) => op.operands(visit)),* }
            }

            /// As [`Op::operands`], with the name of each.
            pub fn named_operands(&mut self, visit: Visit) {
                match self { $(Op::$name(op) => op.named_operands(visit)),* }
            }

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

operations!(
    Accumulate,
    ActivationBackward,
    AdamW,
    Attention,
    AttentionBackward,
    ColumnSum,
    CrossEntropy,
    Dropout,
    Embedding,
    EmbeddingBackward,
    Fill,
    GlobalNorm,
    LayerNorm,
    LayerNormBackward,
    Linear,
    Multilevel,
    SquaredError,
);

impl Op {
    /// FLOPs by definition, bytes with every operand moved once (twice where updated).
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

    /// The type in which it computes: the narrowest of its floats.
    pub fn float(&self) -> Option<DType> {
        let (mut found, mut op) = (None, *self);
        op.operands(&mut |t, _| {
            if t.dtype().is_float() && (found.is_none() || t.dtype() == DType::BF16) {
                found = Some(t.dtype());
            }
        });
        found
    }

    /// Shapes fit, and nothing that is written overlaps another operand (but for the pair of [`Operation::in_place`],
    /// which may be one and the same view; a third operand there too would be read after it was overwritten).
    ///
    /// # Errors
    /// Names the operation and what does not fit.
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
                    bail!("{}: an operand that is written overlaps another one ({a:?} and {b:?})", self.name());
                }
            }
        }
        Ok(())
    }
}

fn same_elements(a: &Tensor, b: &Tensor) -> bool {
    let place = |t: &Tensor| (t.place(), t.dtype(), t.offset(), t.width(), t.pitch(), t.numel());
    place(a) == place(b)
}

/// `t` has these dimensions, for messages like `weight is [3, 4] but [5, 4] is needed`.
fn expect_shape(what: &str, t: &Tensor, dims: &[usize]) -> Result<()> {
    if t.dims() != dims {
        bail!("{what} is {:?} but {dims:?} is needed", t.shape());
    }
    Ok(())
}

/// `t` has as many elements in rows of the same width, which are also its rows in memory.
fn expect_rows(what: &str, t: &Tensor, rows: usize, width: usize) -> Result<()> {
    if t.shape().last() != width || t.numel() != rows * width {
        bail!("{what} is {:?} but {rows} rows of {width} are needed", t.shape());
    }
    if t.width() != width {
        bail!("{what} has rows of {} elements in memory but {width} are needed", t.width());
    }
    Ok(())
}

fn expect_dtype(what: &str, t: &Tensor, dtype: DType) -> Result<()> {
    if t.dtype() != dtype {
        bail!("{what} holds {:?} but {dtype:?} is needed", t.dtype());
    }
    Ok(())
}

fn expect_floats(all: &[(&str, &Tensor)]) -> Result<()> {
    let first = all[0].1.dtype();
    for (what, t) in all {
        if !t.dtype().is_float() || t.dtype() != first {
            return Err(Error::new(format!(
                "{what} holds {:?}; all of an operation's floats share one type",
                t.dtype()
            )));
        }
    }
    Ok(())
}

/// Each is as wide as what goes with `first` has to be.
fn expect_wide(first: &Tensor, all: &[(&str, &Tensor)]) -> Result<()> {
    let wide = first.dtype().wide();
    for (what, t) in all {
        if t.dtype() != wide {
            bail!("{what} holds {:?} but {wide:?} is needed beside {:?}", t.dtype(), first.dtype());
        }
    }
    Ok(())
}

/// Each holds floats of some type.
fn expect_any_floats(all: &[(&str, &Tensor)]) -> Result<()> {
    for (what, t) in all {
        if !t.dtype().is_float() {
            bail!("{what} holds {:?} but floats are needed", t.dtype());
        }
    }
    Ok(())
}

fn expect_contiguous(what: &str, t: &Tensor) -> Result<()> {
    if !t.is_contiguous() {
        bail!("{what} must be contiguous");
    }
    Ok(())
}
