//! The gradient of attention in bf16 by Hopper's warpgroups: `kernels/attention_backward_sm90.cu`.

use super::attention::{rows, which};
use super::attention_backward_sm80;
use super::attention_sm90::{HALF, blocks, heads, map, unproven, width};
use super::chip::Chip;
use super::launch::Launch;
use super::places::Places;
use crate::device::ops::AttentionBackward;

/// Rows that pass by at a time: `kPassing`.
const PASSING: usize = 64;

/// 128 queries after others for delta and dq, then as many keys for dk and dv.
pub fn wgmma(op: &AttentionBackward, places: &Places, out: &mut Vec<Launch>) {
    let f = &op.forward;
    let (_, tq, tk, _, d) = f.sizes();
    let width = width(f);
    let (for_queries, for_keys, stages) = match width {
        64 => ("attention_dq_wgmma_64_bf16", "attention_dkdv_wgmma_64_bf16", 8),
        _ => ("attention_dq_wgmma_128_bf16", "attention_dkdv_wgmma_128_bf16", 6),
    };
    // Twice two operands of two warpgroups, and stages.
    let shared = 2 * width * (8 * HALF + stages * PASSING);
    let map = |t, rows| map(f, places, t, rows);
    let (q, k, v, dout) = (map(&f.q, 64), map(&f.k, 64), map(&f.v, 64), map(&op.dout, 64));
    let launch = blocks(f, places, for_queries, tq).shared(shared);
    let launch = launch.map(q).map(k).map(v).map(dout).map(map(&op.dq, HALF));
    let launch = rows(f, places, rows(f, places, launch, &op.dout), &f.out);
    let launch = launch.ptr(places.ptr(&f.lse)).ptr(places.ptr(&op.delta));
    out.push(heads(f, which(f, places, launch).float(f.scale).int(d)));
    let launch = blocks(f, places, for_keys, tk).shared(shared);
    let launch = launch.map(q).map(k).map(v).map(dout).map(map(&op.dk, HALF)).map(map(&op.dv, HALF));
    let launch = launch.ptr(places.ptr(&f.lse)).ptr(places.ptr(&op.delta));
    out.push(heads(f, which(f, places, launch).float(f.scale)));
}

/// No GPU has run them yet, as the forward pass.
pub fn seconds(op: &AttentionBackward, chip: &Chip) -> f64 {
    unproven(attention_backward_sm80::seconds(op, chip), chip)
}
