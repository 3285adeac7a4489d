//! Attention: `kernels/attention.cu`. What its backward pass launches alike is here too.

use super::Launch;
use super::addresses::Addresses;
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::ops::{Attention, Op};
use crate::tensor::{DType, Tensor};

/// Rows of the tiles that pass by: `kColumns` in `kernels/common/attention.cuh`.
pub(in crate::device::cuda) const COLUMNS: usize = 32;

/// Queries of a block: `kQueries` in `kernels/attention.cu`.
const QUERIES: usize = 64;

/// A warp per query.
pub fn naive(op: &Attention, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = if is_bf16(op) { "attention_naive_bf16" } else { "attention_naive_f32" };
    out.push(parameters(op, addresses, grid(op, kernel, op.sizes().1, 4, 128)));
}

/// What `naive` is expected to take: every lane reads a row of its own, 16 bytes of which a cache delivers per clock.
pub fn naive_seconds(op: &Attention, gpu: &GpuSpec) -> f64 {
    arithmetic(Op::from(*op), gpu, 0.02, 1)
}

/// What `tiled` is expected to take.
pub fn tiled_seconds(op: &Attention, gpu: &GpuSpec) -> f64 {
    arithmetic(Op::from(*op), gpu, 0.3, 1)
}

/// Seconds of multiply-adds in f32 that reach `part` of their pipes.
pub(in crate::device::cuda) fn arithmetic(op: Op, gpu: &GpuSpec, part: f64, launches: usize) -> f64 {
    let cost = op.cost();
    gpu.arithmetic(cost.flops, cost.bytes, part, launches)
}

/// Whether it computes in bf16.
pub(in crate::device::cuda) fn is_bf16(op: &Attention) -> bool {
    op.q.dtype() == DType::BF16
}

/// Whether a head fits the widest tile.
pub fn fits_tile(op: &Attention) -> bool {
    op.sizes().4 <= 128
}

/// A block per 64 queries.
pub fn tiled(op: &Attention, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (_, tq, _, _, d) = op.sizes();
    let (kernel, width) = match d {
        0..=32 => ("attention_tiled_32_f32", 32),
        33..=64 => ("attention_tiled_64_f32", 64),
        _ => ("attention_tiled_128_f32", 128),
    };
    let launch = grid(op, kernel, tq, QUERIES, 128).shared(4 * ((QUERIES + 2 * COLUMNS) * width + QUERIES * COLUMNS));
    out.push(parameters(op, addresses, launch).flag(aligned(op, addresses, &[&op.q, &op.k, &op.v])));
}

/// A grid of blocks that own `rows` of `time` queries or keys, for each head of each batch.
pub(in crate::device::cuda) fn grid(
    op: &Attention,
    kernel: &'static str,
    time: usize,
    rows: usize,
    threads: u32,
) -> Launch {
    let (batch, _, _, heads, _) = op.sizes();
    Launch::new(kernel, 0, threads).grid(time.div_ceil(rows), heads, batch)
}

/// `FORWARD_PARAMETERS`.
pub(in crate::device::cuda) fn parameters(op: &Attention, addresses: &Addresses, launch: Launch) -> Launch {
    let launch = [&op.q, &op.k, &op.v, &op.out].into_iter().fold(launch, |launch, t| rows(op, addresses, launch, t));
    pairs(op, addresses, launch.ptr(addresses.ptr(&op.lse)))
}

/// An operand and its pitch.
pub(in crate::device::cuda) fn rows(op: &Attention, addresses: &Addresses, launch: Launch, t: &Tensor) -> Launch {
    launch.ptr(addresses.ptr(t)).int(pitch(op, t))
}

/// `PAIR_PARAMETERS`, scale and head size.
pub(in crate::device::cuda) fn pairs(op: &Attention, addresses: &Addresses, launch: Launch) -> Launch {
    which(op, addresses, launch).float(op.scale).int(op.sizes().4)
}

/// `PAIR_PARAMETERS`.
pub(in crate::device::cuda) fn which(op: &Attention, addresses: &Addresses, launch: Launch) -> Launch {
    let (_, tq, tk, ..) = op.sizes();
    let (state, site, p) = op.dropout.map_or((0, 0, 0.0), |mask| (addresses.ptr(&mask.state), mask.site, mask.p));
    launch
        .ptr(addresses.maybe(&op.key_mask))
        .int(op.key_mask.map_or(0, |mask| mask.pitch()))
        .ptr(state)
        .word(site)
        .float(f64::from(p))
        .flag(op.causal)
        .int(tq)
        .int(tk)
}

/// Elements from the row of one (batch, time) to the next.
pub(in crate::device::cuda) fn pitch(op: &Attention, t: &Tensor) -> usize {
    let (_, _, _, heads, d) = op.sizes();
    if t.is_contiguous() { heads * d } else { t.pitch() }
}

/// Whether every row of every head starts at a multiple of 16 bytes and is whole in pieces of 16 bytes.
pub(in crate::device::cuda) fn aligned(op: &Attention, addresses: &Addresses, operands: &[&Tensor]) -> bool {
    let d = op.sizes().4;
    d.is_multiple_of(4)
        && operands.iter().all(|t| addresses.ptr(t).is_multiple_of(16) && pitch(op, t).is_multiple_of(4))
}
