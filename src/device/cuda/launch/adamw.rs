//! Launch code of `adamw`: `kernels/adamw.cu`.

use super::Launch;
use super::addresses::Addresses;
use super::elements::rows_aligned;
use crate::device::ops::{ALIGN, AdamW};
use crate::tensor::DType;

const THREADS: usize = 256;

/// Returns whether the low-precision copy of the parameters, if there is one, is bf16: the only type the kernels write.
pub fn fits_copy(op: &AdamW) -> bool {
    op.copy.is_none_or(|t| t.dtype() == DType::BF16)
}

/// Variant `naive`: four elements per thread, any alignment.
pub fn naive(op: &AdamW, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(operands("adamw_f32", 4, op, addresses));
}

/// Returns whether `vector` supports the operation: [`fits_copy`] holds, and all operands are aligned to four elements
/// (16 bytes, or 8 bytes of a bf16 copy).
pub fn is_whole(op: &AdamW) -> bool {
    let all = [Some(op.params), Some(op.grads), Some(op.m), Some(op.v), op.copy];
    fits_copy(op) && all.iter().flatten().all(|t| rows_aligned(t, 4))
}

/// Variant `vector`: each thread processes two vectors of four elements.
pub fn vector(op: &AdamW, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(operands("adamw_vec16_f32", 8, op, addresses));
}

/// Builds the launch of `kernel`, whose threads process `each` elements.
fn operands(kernel: &'static str, each: usize, op: &AdamW, addresses: &Addresses) -> Launch {
    let n = op.params.numel();
    Launch::new(kernel, n.div_ceil(each * THREADS), THREADS as u32)
        .ptr(addresses.ptr(&op.params))
        .ptr(addresses.ptr(&op.grads))
        .ptr(addresses.ptr(&op.m))
        .ptr(addresses.ptr(&op.v))
        .ptr(addresses.ptr(&op.decay_mask))
        .ptr(addresses.ptr(&op.norm))
        .ptr(addresses.ptr(&op.state))
        .ptr(addresses.maybe(&op.copy))
        .int(n / ALIGN)
        .float(op.beta1)
        .float(1.0 - op.beta1)
        .float(op.beta2)
        .float(1.0 - op.beta2)
        .float(op.eps)
        .float(op.weight_decay)
        .float(op.max_norm)
}
