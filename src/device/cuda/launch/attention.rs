//! Launch code of attention without tensor cores (`kernels/attention.cu`), and helpers that all attention launches
//! share.

use super::Launch;
use super::addresses::Addresses;
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::ops::{Attention, Op};
use crate::tensor::{DType, Tensor};

/// Rows of a streamed tile (keys in the forward pass): `kColumns` in `kernels/common/attention.cuh`.
pub(in crate::device::cuda) const COLUMNS: usize = 32;

/// Queries per block: `kQueries` in `kernels/attention.cu`.
const QUERIES: usize = 64;

/// Variant `naive`: one warp per query.
pub fn naive(op: &Attention, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = if is_bf16(op) { "attention_naive_bf16" } else { "attention_naive_f32" };
    out.push(parameters(op, addresses, grid(op, kernel, op.sizes().1, 4, 128)));
}

/// Returns the predicted seconds of [`naive`], at 2 % of the peak f32 rate: every lane reads a row of its own, of which
/// the cache delivers 16 bytes per clock.
pub fn naive_seconds(op: &Attention, gpu: &GpuSpec) -> f64 {
    arithmetic(Op::from(*op), gpu, 0.02, 1)
}

/// Returns the predicted seconds of [`tiled`], at 30 % of the peak f32 rate.
pub fn tiled_seconds(op: &Attention, gpu: &GpuSpec) -> f64 {
    arithmetic(Op::from(*op), gpu, 0.3, 1)
}

/// Returns the predicted seconds of an operation that reaches the fraction `efficiency` of the peak f32 multiply-add
/// rate ([`GpuSpec::arithmetic`]).
pub(in crate::device::cuda) fn arithmetic(op: Op, gpu: &GpuSpec, efficiency: f64, launches: usize) -> f64 {
    let cost = op.cost();
    gpu.arithmetic(cost.flops, cost.bytes, efficiency, launches)
}

/// Returns whether the operands are bf16.
pub(in crate::device::cuda) fn is_bf16(op: &Attention) -> bool {
    op.q.dtype() == DType::BF16
}

/// Returns whether the head size fits the widest tile (128), as `tiled` needs.
pub fn fits_tile(op: &Attention) -> bool {
    op.sizes().4 <= 128
}

/// Variant `tiled`: one block per 64 queries.
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

/// Builds a launch with one block per `rows` of the `time` queries or keys along x, heads along y and batches along z.
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

/// Appends `FORWARD_PARAMETERS` of the kernels.
pub(in crate::device::cuda) fn parameters(op: &Attention, addresses: &Addresses, launch: Launch) -> Launch {
    let launch = [&op.q, &op.k, &op.v, &op.out].into_iter().fold(launch, |launch, t| rows(op, addresses, launch, t));
    pair_and_scale_parameters(op, addresses, launch.ptr(addresses.ptr(&op.lse)))
}

/// Appends the address of an operand and its pitch.
pub(in crate::device::cuda) fn rows(op: &Attention, addresses: &Addresses, launch: Launch, t: &Tensor) -> Launch {
    launch.ptr(addresses.ptr(t)).int(pitch(op, t))
}

/// Appends `PAIR_PARAMETERS`, the scale and the head size.
pub(in crate::device::cuda) fn pair_and_scale_parameters(
    op: &Attention,
    addresses: &Addresses,
    launch: Launch,
) -> Launch {
    pair_parameters(op, addresses, launch).float(op.scale).int(op.sizes().4)
}

/// Appends `PAIR_PARAMETERS`: what decides which pairs of query and key count (key mask, dropout, causality, lengths).
pub(in crate::device::cuda) fn pair_parameters(op: &Attention, addresses: &Addresses, launch: Launch) -> Launch {
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

/// Returns the elements from the row of one (batch, time) to the next. A row holds all heads.
pub(in crate::device::cuda) fn pitch(op: &Attention, t: &Tensor) -> usize {
    let (_, _, _, heads, d) = op.sizes();
    if t.is_contiguous() { heads * d } else { t.pitch() }
}

/// Returns whether every row of every head of these f32 operands consists of whole, aligned 16-byte vectors.
pub(in crate::device::cuda) fn aligned(op: &Attention, addresses: &Addresses, operands: &[&Tensor]) -> bool {
    let d = op.sizes().4;
    d.is_multiple_of(4)
        && operands.iter().all(|t| addresses.ptr(t).is_multiple_of(16) && pitch(op, t).is_multiple_of(4))
}
