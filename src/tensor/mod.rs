//! Tensors: views into arenas, with their element types and shapes. They own no memory and compute nothing.

mod view;

pub use view::{Place, Shape, Tensor};

/// Element types. Floats are `F64` on `reference` and `F32` on `cpu`. On `cuda` they are `F32`, or `BF16` for the
/// values that are computed in a bf16 step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit bfloat.
    BF16,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 8-bit integer.
    U8,
}

impl DType {
    /// Returns the size of an element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::BF16 => 2,
            DType::U8 => 1,
        }
    }

    /// Returns whether this is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::BF16)
    }

    /// Returns the accumulator type that belongs to this type: F32 for BF16, and the type itself for all others.
    /// Statistics, losses, sums and parameter gradients have this type.
    pub const fn accumulator(self) -> Self {
        match self {
            DType::BF16 => DType::F32,
            other => other,
        }
    }
}
