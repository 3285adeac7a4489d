//! `adamw`.

use super::launch::Launch;
use super::places::Places;
use crate::device::ops::{ALIGN, AdamW};

/// Elements of a block, four for each thread.
const TILE: usize = 1024;

pub fn naive(op: &AdamW, places: &Places, out: &mut Vec<Launch>) {
    let n = op.params.numel();
    out.push(
        Launch::new("adamw_f32", n.div_ceil(TILE), 256)
            .ptr(places.ptr(&op.params))
            .ptr(places.ptr(&op.grads))
            .ptr(places.ptr(&op.m))
            .ptr(places.ptr(&op.v))
            .ptr(places.ptr(&op.decay_mask))
            .ptr(places.ptr(&op.norm))
            .ptr(places.ptr(&op.state))
            .int(n / ALIGN)
            .float(op.beta1)
            .float(1.0 - op.beta1)
            .float(op.beta2)
            .float(1.0 - op.beta2)
            .float(op.eps)
            .float(op.weight_decay)
            .float(op.max_norm),
    );
}
