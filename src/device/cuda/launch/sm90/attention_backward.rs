//! The gradient of attention in bf16 by Hopper's warpgroups: `kernels/attention_backward_sm90.cu`.

use super::attention::{HALF, blocks, heads, map, width};
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::addresses::{Addresses, TICKETS};
use crate::device::cuda::launch::attention::{pitch, rows, which};
use crate::device::cuda::launch::attention_backward::delta;
use crate::device::cuda::launch::fill;
use crate::device::cuda::launch::sm80::attention_backward;
use crate::device::cuda::launch::{Launch, TensorMap};
use crate::device::ops::AttentionBackward;

/// Rows that pass by at a time: `kPassing`.
const PASSING: usize = 64;

/// 128 queries after others for delta and dq, then as many keys for dk and dv.
pub fn wgmma(op: &AttentionBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let f = &op.forward;
    let (_, tq, tk, _, d) = f.sizes();
    let width = width(f);
    let (for_queries, for_keys, stages) = match width {
        64 => ("attention_dq_wgmma_64_bf16", "attention_dkdv_wgmma_64_bf16", 8),
        _ => ("attention_dq_wgmma_128_bf16", "attention_dkdv_wgmma_128_bf16", 6),
    };
    // Twice two operands of two warpgroups, and stages.
    let shared = 2 * width * (8 * HALF + stages * PASSING);
    let map = |t, rows| map(f, addresses, t, rows);
    let (q, k, v, dout) = (map(&f.q, 64), map(&f.k, 64), map(&f.v, 64), map(&op.dout, 64));
    let launch = blocks(f, addresses, for_queries, tq).shared(shared);
    let launch = launch.map(q).map(k).map(v).map(dout).map(map(&op.dq, HALF));
    let launch = rows(f, addresses, rows(f, addresses, launch, &op.dout), &f.out);
    let launch = launch.ptr(addresses.ptr(&f.lse)).ptr(addresses.ptr(&op.delta));
    out.push(heads(f, which(f, addresses, launch).float(f.scale).int(d)));
    out.push(works_of_keys(op, addresses, blocks(f, addresses, for_keys, tk).shared(shared)));
}

/// `DKDV_PARAMETERS`.
fn works_of_keys(op: &AttentionBackward, addresses: &Addresses, launch: Launch) -> Launch {
    let f = &op.forward;
    let map = |t, rows| map(f, addresses, t, rows);
    let launch = launch.map(map(&f.q, PASSING)).map(map(&f.k, HALF)).map(map(&f.v, HALF)).map(map(&op.dout, PASSING));
    let launch = launch.map(map(&op.dk, HALF)).map(map(&op.dv, HALF));
    let launch = launch.ptr(addresses.ptr(&f.lse)).ptr(addresses.ptr(&op.delta));
    heads(f, which(f, addresses, launch).float(f.scale))
}

/// 128 keys after others for dk and dv, which add to a dq in f32, zero before, that is rounded at last.
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
    // Two operands of two warpgroups, once or twice, and stages; twice the weights of both, and 64 columns that each adds.
    let shared = 2 * width * (owned * 4 * HALF + stages * PASSING) + 2 * PASSING * (4 * HALF) + 2 * 4 * PASSING * 64;
    let dq = TensorMap::new(sums, [tq, d], 4 * columns, PASSING).of_floats();
    let dq = dq.of_many([batch, of_heads], [tq * 4 * columns, 4 * d]);
    out.push(works_of_keys(op, addresses, blocks(f, addresses, for_keys, tk).shared(shared).map(dq)));
    let launch = Launch::new("attention_dq_round_bf16", (rows * columns / 8).div_ceil(256), 256);
    let launch = launch.ptr(sums).ptr(addresses.ptr(&op.dq)).int(pitch(f, &op.dq)).int(rows).int(columns);
    out.push(launch.float(f.scale));
}

/// Bytes of scratch memory of `reduce`.
pub fn workspace_reduce(op: &AttentionBackward) -> usize {
    let (batch, tq, _, heads, d) = op.forward.sizes();
    4 * (TICKETS + batch * tq * heads * d)
}

/// Beside those of `flash`.
pub fn seconds(op: &AttentionBackward, gpu: &GpuSpec) -> f64 {
    gpu.unproven(attention_backward::seconds(op, gpu))
}
