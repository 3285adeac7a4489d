//! Launch code of the backward pass of bf16 attention by Hopper's `wgmma`: `kernels/sm90/attention_backward.cu`.

use super::attention::{GROUP_ROWS, blocks, heads, map, width};
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::addresses::{Addresses, TICKETS};
use crate::device::cuda::launch::attention::{pair_parameters, pitch, rows};
use crate::device::cuda::launch::attention_backward::delta;
use crate::device::cuda::launch::fill;
use crate::device::cuda::launch::sm80::attention_backward;
use crate::device::cuda::launch::{Launch, TensorMap};
use crate::device::ops::AttentionBackward;

/// Rows of a streamed tile: `kStreamed` in the kernels.
const STREAMED: usize = 64;

/// Variant `wgmma`: a persistent kernel for delta and dq with work items of 128 queries, then one for dk and dv with
/// work items of 128 keys.
pub fn wgmma(op: &AttentionBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let f = &op.forward;
    let (_, tq, tk, _, d) = f.sizes();
    let width = width(f);
    let (for_queries, for_keys, stages) = match width {
        64 => ("attention_dq_wgmma_64_bf16", "attention_dkdv_wgmma_64_bf16", 8),
        _ => ("attention_dq_wgmma_128_bf16", "attention_dkdv_wgmma_128_bf16", 6),
    };
    // Shared memory: two double-buffered operands of both warpgroups, and pipeline stages of streamed tiles.
    let shared = 2 * width * (8 * GROUP_ROWS + stages * STREAMED);
    let map = |t, rows| map(f, addresses, t, rows);
    let (q, k, v, dout) = (map(&f.q, 64), map(&f.k, 64), map(&f.v, 64), map(&op.dout, 64));
    let launch = blocks(f, addresses, for_queries, tq).shared(shared);
    let launch = launch.map(q).map(k).map(v).map(dout).map(map(&op.dq, GROUP_ROWS));
    let launch = rows(f, addresses, rows(f, addresses, launch, &op.dout), &f.out);
    let launch = launch.ptr(addresses.ptr(&f.lse)).ptr(addresses.ptr(&op.delta));
    out.push(heads(f, pair_parameters(f, addresses, launch).float(f.scale).int(d)));
    out.push(dkdv(op, addresses, blocks(f, addresses, for_keys, tk).shared(shared)));
}

/// Appends `DKDV_PARAMETERS` of the kernels.
fn dkdv(op: &AttentionBackward, addresses: &Addresses, launch: Launch) -> Launch {
    let f = &op.forward;
    let map = |t, rows| map(f, addresses, t, rows);
    let launch = launch
        .map(map(&f.q, STREAMED))
        .map(map(&f.k, GROUP_ROWS))
        .map(map(&f.v, GROUP_ROWS))
        .map(map(&op.dout, STREAMED));
    let launch = launch.map(map(&op.dk, GROUP_ROWS)).map(map(&op.dv, GROUP_ROWS));
    let launch = launch.ptr(addresses.ptr(&f.lse)).ptr(addresses.ptr(&op.delta));
    heads(f, pair_parameters(f, addresses, launch).float(f.scale))
}

/// Variant `reduce`: one persistent kernel with work items of 128 keys computes dk and dv, and adds to an f32 dq in the
/// workspace by TMA, in a nondeterministic order. Launches before it compute delta and zero that dq; a last one scales
/// and rounds it.
pub fn reduce(op: &AttentionBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let f = &op.forward;
    let (batch, tq, tk, of_heads, d) = f.sizes();
    let (rows, columns, sums) = (batch * tq, of_heads * d, addresses.workspace() + 4 * TICKETS as u64);
    out.push(delta(op, addresses, "attention_delta_bf16"));
    out.push(fill::zeros(sums, rows * columns));
    let width = width(f);
    let (for_keys, owned, stages) = match width {
        64 => ("attention_dkdvdq_wgmma_64_bf16", 2, 8),
        _ => ("attention_dkdvdq_wgmma_128_bf16", 1, 6),
    };
    // Shared memory: two operands of both warpgroups, double-buffered if `owned` is 2, and pipeline stages of streamed
    // tiles; dS of both warpgroups, double-buffered; and for each warpgroup a tile of 64 f32 columns of dq.
    let shared = 2 * width * (owned * 4 * GROUP_ROWS + stages * STREAMED)
        + 2 * STREAMED * (4 * GROUP_ROWS)
        + 2 * 4 * STREAMED * 64;
    let dq = TensorMap::new(sums, [tq, d], 4 * columns, STREAMED).of_floats();
    let dq = dq.of_many([batch, of_heads], [tq * 4 * columns, 4 * d]);
    out.push(dkdv(op, addresses, blocks(f, addresses, for_keys, tk).shared(shared).map(dq)));
    let launch = Launch::new("attention_dq_round_bf16", (rows * columns / 8).div_ceil(256), 256);
    let launch = launch.ptr(sums).ptr(addresses.ptr(&op.dq)).int(pitch(f, &op.dq)).int(rows).int(columns);
    out.push(launch.float(f.scale));
}

/// Returns the workspace of [`reduce`] in bytes: the ticket counters, then dq in f32.
pub fn workspace_reduce(op: &AttentionBackward) -> usize {
    let (batch, tq, _, heads, d) = op.forward.sizes();
    4 * (TICKETS + batch * tq * heads * d)
}

/// Returns the predicted seconds of the variants here: those of `flash`, which they would replace. None has been measured.
pub fn seconds(op: &AttentionBackward, gpu: &GpuSpec) -> f64 {
    attention_backward::seconds(op, gpu)
}
