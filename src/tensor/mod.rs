//! `DType`, `Shape` and `Tensor`: a view into an arena. No memory is owned here and nothing is computed.

mod view;

pub use view::{Place, Shape, Tensor};

/// Element types. Floats are `F64` on `reference` and `F32` on `cpu`; on `cuda`, `F32` or, of what a step in bf16 computes, `BF16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F64,
    F32,
    BF16,
    I32,
    U32,
    U8,
}

impl DType {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::BF16 => 2,
            DType::U8 => 1,
        }
    }

    pub const fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32 | DType::BF16)
    }

    /// The type of what goes with numbers of this type but needs more bits: statistics, losses, sums, gradients of parameters.
    pub const fn wide(self) -> Self {
        match self {
            DType::BF16 => DType::F32,
            other => other,
        }
    }
}
