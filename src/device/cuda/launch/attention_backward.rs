//! Launch code of the backward pass of attention without tensor cores: `kernels/attention_backward.cu`.
//!
//! There are three launches: delta (the row sums of dout x out), then dq, then dk and dv.

use super::Launch;
use super::addresses::Addresses;
use super::attention::{COLUMNS, aligned, arithmetic, grid, is_bf16, pair_and_scale_parameters, rows};
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::ops::{AttentionBackward, Op};

/// Variant `naive`: one warp per query for dq, one warp per key for dk and dv.
pub fn naive(op: &AttentionBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (_, tq, tk, ..) = op.forward.sizes();
    let (for_delta, for_queries, for_keys) = if is_bf16(&op.forward) {
        ("attention_delta_bf16", "attention_dq_naive_bf16", "attention_dkdv_naive_bf16")
    } else {
        ("attention_delta_f32", "attention_dq_naive_f32", "attention_dkdv_naive_f32")
    };
    out.push(delta(op, addresses, for_delta));
    out.push(dq(op, addresses, grid(&op.forward, for_queries, tq, 4, 128)));
    out.push(dkdv(op, addresses, grid(&op.forward, for_keys, tk, 4, 128)));
}

/// Returns the predicted seconds of [`naive`], at 1 % of the peak f32 rate.
pub fn naive_seconds(op: &AttentionBackward, gpu: &GpuSpec) -> f64 {
    arithmetic(Op::from(*op), gpu, 0.01, 3)
}

/// Returns the predicted seconds of [`tiled`], at 30 % of the peak f32 rate.
pub fn tiled_seconds(op: &AttentionBackward, gpu: &GpuSpec) -> f64 {
    arithmetic(Op::from(*op), gpu, 0.3, 3)
}

/// Returns whether the head size fits the widest tile (128), as `tiled` needs.
pub fn fits_tile(op: &AttentionBackward) -> bool {
    super::attention::fits_tile(&op.forward)
}

/// Variant `tiled`: one block per 64 queries for dq and per 64 keys for dk and dv; 32 at head sizes above 64.
pub fn tiled(op: &AttentionBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let f = &op.forward;
    let (_, tq, tk, _, d) = f.sizes();
    // `owned`: queries or keys per block, `kRows` in the kernels.
    let (for_queries, for_keys, width, owned) = match d {
        0..=32 => ("attention_dq_tiled_32_f32", "attention_dkdv_tiled_32_f32", 32, 64),
        33..=64 => ("attention_dq_tiled_64_f32", "attention_dkdv_tiled_64_f32", 64, 64),
        _ => ("attention_dq_tiled_128_f32", "attention_dkdv_tiled_128_f32", 128, 32),
    };
    let (threads, bytes) = (2 * owned as u32, 4 * (2 * (owned + COLUMNS) * width + owned * COLUMNS));
    let aligned = aligned(f, addresses, &[&f.q, &f.k, &f.v, &op.dout]);
    let grid = |kernel, time| grid(f, kernel, time, owned, threads).shared(bytes);
    out.push(delta(op, addresses, "attention_delta_f32"));
    out.push(dq(op, addresses, grid(for_queries, tq)).flag(aligned));
    out.push(dkdv(op, addresses, grid(for_keys, tk)).flag(aligned));
}

/// Builds the launch of the kernel that computes delta, with one warp per query.
pub(in crate::device::cuda) fn delta(op: &AttentionBackward, addresses: &Addresses, kernel: &'static str) -> Launch {
    let f = &op.forward;
    let (_, tq, _, _, d) = f.sizes();
    let launch = rows(f, addresses, grid(f, kernel, tq, 4, 128), &op.dout);
    rows(f, addresses, launch, &f.out).ptr(addresses.ptr(&op.delta)).int(tq).int(d)
}

/// Appends the parameters of a kernel that computes dq.
fn dq(op: &AttentionBackward, addresses: &Addresses, launch: Launch) -> Launch {
    rows(&op.forward, addresses, inputs(op, addresses, launch), &op.dq)
}

/// Appends the parameters of a kernel that computes dk and dv.
pub(in crate::device::cuda) fn dkdv(op: &AttentionBackward, addresses: &Addresses, launch: Launch) -> Launch {
    let launch = rows(&op.forward, addresses, inputs(op, addresses, launch), &op.dk);
    rows(&op.forward, addresses, launch, &op.dv)
}

/// Appends `INPUT_PARAMETERS` of the kernels.
fn inputs(op: &AttentionBackward, addresses: &Addresses, launch: Launch) -> Launch {
    let f = &op.forward;
    let launch = [&f.q, &f.k, &f.v, &op.dout].into_iter().fold(launch, |launch, t| rows(f, addresses, launch, t));
    pair_and_scale_parameters(f, addresses, launch.ptr(addresses.ptr(&f.lse)).ptr(addresses.ptr(&op.delta)))
}
