//! The gradient of attention: `kernels/attention_backward.cu`.

use super::Launch;
use super::addresses::Places;
use super::attention::{COLUMNS, aligned, arithmetic, grid, is_bf16, pairs, rows};
use crate::device::cuda::gpu_spec::Chip;
use crate::device::ops::{AttentionBackward, Op};

/// A warp per query for dq, a warp per key for dk and dv.
pub fn naive(op: &AttentionBackward, places: &Places, out: &mut Vec<Launch>) {
    let (_, tq, tk, ..) = op.forward.sizes();
    let (for_delta, for_queries, for_keys) = if is_bf16(&op.forward) {
        ("attention_delta_bf16", "attention_dq_naive_bf16", "attention_dkdv_naive_bf16")
    } else {
        ("attention_delta_f32", "attention_dq_naive_f32", "attention_dkdv_naive_f32")
    };
    out.push(delta(op, places, for_delta));
    out.push(dq(op, places, grid(&op.forward, for_queries, tq, 4, 128)));
    out.push(dkdv(op, places, grid(&op.forward, for_keys, tk, 4, 128)));
}

/// What `naive` is expected to take.
pub fn naive_seconds(op: &AttentionBackward, chip: &Chip) -> f64 {
    arithmetic(Op::from(*op), chip, 0.01, 3)
}

/// What `tiled` is expected to take.
pub fn tiled_seconds(op: &AttentionBackward, chip: &Chip) -> f64 {
    arithmetic(Op::from(*op), chip, 0.3, 3)
}

/// Whether a head fits the widest tile.
pub fn fits_tile(op: &AttentionBackward) -> bool {
    super::attention::fits_tile(&op.forward)
}

/// A block per 64 or 32 queries for dq, as many keys for dk and dv.
pub fn tiled(op: &AttentionBackward, places: &Places, out: &mut Vec<Launch>) {
    let f = &op.forward;
    let (_, tq, tk, _, d) = f.sizes();
    // Rows that a block owns: `kRows` in the kernels.
    let (for_queries, for_keys, width, owned) = match d {
        0..=32 => ("attention_dq_tiled_32_f32", "attention_dkdv_tiled_32_f32", 32, 64),
        33..=64 => ("attention_dq_tiled_64_f32", "attention_dkdv_tiled_64_f32", 64, 64),
        _ => ("attention_dq_tiled_128_f32", "attention_dkdv_tiled_128_f32", 128, 32),
    };
    let (threads, bytes) = (2 * owned as u32, 4 * (2 * (owned + COLUMNS) * width + owned * COLUMNS));
    let aligned = aligned(f, places, &[&f.q, &f.k, &f.v, &op.dout]);
    let grid = |kernel, time| grid(f, kernel, time, owned, threads).shared(bytes);
    out.push(delta(op, places, "attention_delta_f32"));
    out.push(dq(op, places, grid(for_queries, tq)).flag(aligned));
    out.push(dkdv(op, places, grid(for_keys, tk)).flag(aligned));
}

pub(in crate::device::cuda) fn delta(op: &AttentionBackward, places: &Places, kernel: &'static str) -> Launch {
    let f = &op.forward;
    let (_, tq, _, _, d) = f.sizes();
    let launch = rows(f, places, grid(f, kernel, tq, 4, 128), &op.dout);
    rows(f, places, launch, &f.out).ptr(places.ptr(&op.delta)).int(tq).int(d)
}

fn dq(op: &AttentionBackward, places: &Places, launch: Launch) -> Launch {
    rows(&op.forward, places, inputs(op, places, launch), &op.dq)
}

pub(in crate::device::cuda) fn dkdv(op: &AttentionBackward, places: &Places, launch: Launch) -> Launch {
    let launch = rows(&op.forward, places, inputs(op, places, launch), &op.dk);
    rows(&op.forward, places, launch, &op.dv)
}

/// `INPUT_PARAMETERS`.
fn inputs(op: &AttentionBackward, places: &Places, launch: Launch) -> Launch {
    let f = &op.forward;
    let launch = [&f.q, &f.k, &f.v, &op.dout].into_iter().fold(launch, |launch, t| rows(f, places, launch, t));
    pairs(f, places, launch.ptr(places.ptr(&f.lse)).ptr(places.ptr(&op.delta)))
}
