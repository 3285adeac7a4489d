//! Element types, and the alignment that 16-byte accesses need.

use crate::tensor::{DType, Tensor};

/// Returns the name of the kernel for the type of `t`.
pub(in crate::device::cuda) fn typed(t: &Tensor, f32: &'static str, bf16: &'static str) -> &'static str {
    if t.dtype() == DType::BF16 { bf16 } else { f32 }
}

/// Returns the number of elements in 16 bytes.
pub(in crate::device::cuda) fn vector_len(t: &Tensor) -> usize {
    16 / t.dtype().bytes()
}

/// Returns whether all rows start at multiples of `elements` elements from the start of the arena. Arenas themselves
/// are aligned to 256 bytes.
pub(in crate::device::cuda) fn rows_aligned(t: &Tensor, elements: usize) -> bool {
    t.offset().is_multiple_of(elements) && (t.rows() <= 1 || t.pitch().is_multiple_of(elements))
}

/// Returns whether all rows consist of whole, aligned 16-byte vectors.
pub(in crate::device::cuda) fn whole(t: &Tensor) -> bool {
    rows_aligned(t, vector_len(t)) && t.width().is_multiple_of(vector_len(t))
}
