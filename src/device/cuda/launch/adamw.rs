//! `adamw`.

use super::Launch;
use super::addresses::Addresses;
use super::elements::begin_at;
use crate::device::ops::{ALIGN, AdamW};
use crate::tensor::DType;

const THREADS: usize = 256;

/// The copy is one in bf16, if there is one.
pub fn fits_copy(op: &AdamW) -> bool {
    op.copy.is_none_or(|t| t.dtype() == DType::BF16)
}

/// Four elements for each thread.
pub fn naive(op: &AdamW, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(operands("adamw_f32", 4, op, addresses));
}

/// As [`fits_copy`], and every four elements are 16 bytes, or 8 of the copy, at a multiple of as many.
pub fn is_whole(op: &AdamW) -> bool {
    let all = [Some(op.params), Some(op.grads), Some(op.m), Some(op.v), op.copy];
    fits_copy(op) && all.iter().flatten().all(|t| begin_at(t, 4))
}

/// Two times four elements for each thread.
pub fn vector(op: &AdamW, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(operands("adamw_vector_f32", 8, op, addresses));
}

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
