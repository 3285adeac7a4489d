//! The gradient of attention: `kernels/attention_backward.cu`.

use super::attention::{COLUMNS, aligned, grid, pairs, rows};
use super::launch::Launch;
use super::places::Places;
use crate::device::ops::AttentionBackward;

/// A warp per query for dq, a warp per key for dk and dv.
pub fn naive(op: &AttentionBackward, places: &Places, out: &mut Vec<Launch>) {
    let (_, tq, tk, ..) = op.forward.sizes();
    out.push(delta(op, places));
    out.push(dq(op, places, grid(&op.forward, "attention_dq_naive_f32", tq, 4, 128)));
    out.push(dkdv(op, places, grid(&op.forward, "attention_dkdv_naive_f32", tk, 4, 128)));
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
    out.push(delta(op, places));
    out.push(dq(op, places, grid(for_queries, tq)).flag(aligned));
    out.push(dkdv(op, places, grid(for_keys, tk)).flag(aligned));
}

fn delta(op: &AttentionBackward, places: &Places) -> Launch {
    let f = &op.forward;
    let (_, tq, _, _, d) = f.sizes();
    let launch = rows(f, places, grid(f, "attention_delta_f32", tq, 4, 128), &op.dout);
    rows(f, places, launch, &f.out).ptr(places.ptr(&op.delta)).int(tq).int(d)
}

fn dq(op: &AttentionBackward, places: &Places, launch: Launch) -> Launch {
    rows(&op.forward, places, inputs(op, places, launch), &op.dq)
}

fn dkdv(op: &AttentionBackward, places: &Places, launch: Launch) -> Launch {
    let launch = rows(&op.forward, places, inputs(op, places, launch), &op.dk);
    rows(&op.forward, places, launch, &op.dv)
}

/// `INPUT_PARAMETERS`.
fn inputs(op: &AttentionBackward, places: &Places, launch: Launch) -> Launch {
    let f = &op.forward;
    let launch = [&f.q, &f.k, &f.v, &op.dout].into_iter().fold(launch, |launch, t| rows(f, places, launch, t));
    pairs(f, places, launch.ptr(places.ptr(&f.lse)).ptr(places.ptr(&op.delta)))
}
