//! Types of operands, and what accesses of 16 bytes ask of them.

use crate::tensor::{DType, Tensor};

/// The kernel for operands of this type.
pub(in crate::device::cuda) fn typed(t: &Tensor, f32: &'static str, bf16: &'static str) -> &'static str {
    if t.dtype() == DType::BF16 { bf16 } else { f32 }
}

/// Elements of 16 bytes.
pub(in crate::device::cuda) fn each(t: &Tensor) -> usize {
    16 / t.dtype().bytes()
}

/// All rows begin at multiples of so many elements. (Arenas begin at multiples of any vector.)
pub(in crate::device::cuda) fn begin_at(t: &Tensor, each: usize) -> bool {
    t.offset().is_multiple_of(each) && (t.rows() <= 1 || t.pitch().is_multiple_of(each))
}

/// All rows begin at multiples of 16 bytes and end there too.
pub(in crate::device::cuda) fn whole(t: &Tensor) -> bool {
    begin_at(t, each(t)) && t.width().is_multiple_of(each(t))
}
