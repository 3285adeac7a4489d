//! `DType`, `Shape` and `Tensor`: a view into an arena. No memory is owned here and nothing is computed.

mod view;

pub use view::{Place, Shape, Tensor};

/// Element types. `float` tensors have the type their device computes in: `F64` on `reference`, `F32` elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F64,
    F32,
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
            DType::U8 => 1,
        }
    }

    pub const fn is_float(self) -> bool {
        matches!(self, DType::F64 | DType::F32)
    }
}
