//! Launch code of the backward pass of bf16 attention on tensor cores: `kernels/sm80/attention_backward.cu`.

use super::attention::{THREADS, fits, matmul_seconds, width};
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::Launch;
use crate::device::cuda::launch::addresses::Addresses;
use crate::device::cuda::launch::attention::{grid, pair_and_scale_parameters, rows};
use crate::device::cuda::launch::attention_backward::dkdv;
use crate::device::ops::AttentionBackward;

/// Returns whether the tensor-core variants support the operation: see [`fits`].
pub fn supports(op: &AttentionBackward) -> bool {
    let f = &op.forward;
    fits(f, &[&f.q, &f.k, &f.v, &f.out, &op.dout, &op.dq, &op.dk, &op.dv])
}

/// Returns the queries (or keys) per block: 16 M for each of four warps, with M = 2 up to a width of 64, else 1.
fn owned(width: usize) -> usize {
    if width <= 64 { 128 } else { 64 }
}

/// Variant `flash`: one block per 128 queries for delta and dq, then one per 128 keys for dk and dv; 64 at head sizes
/// above 64.
pub fn flash(op: &AttentionBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let f = &op.forward;
    let (_, tq, tk, _, d) = f.sizes();
    let width = width(d);
    // `streamed`: rows of a streamed tile.
    let (for_queries, for_keys, streamed) = match width {
        32 => ("attention_dq_flash_32_bf16", "attention_dkdv_flash_32_bf16", 64),
        64 => ("attention_dq_flash_64_bf16", "attention_dkdv_flash_64_bf16", 64),
        80 => ("attention_dq_flash_80_bf16", "attention_dkdv_flash_80_bf16", 64),
        96 => ("attention_dq_flash_96_bf16", "attention_dkdv_flash_96_bf16", 64),
        _ => ("attention_dq_flash_128_bf16", "attention_dkdv_flash_128_bf16", 32),
    };
    // Shared memory: two tiles that the block owns and two double-buffered streamed tiles. The kernel for keys also
    // double-buffers the lse and delta of its queries.
    let tiles = 2 * width * (2 * owned(width) + 4 * streamed);
    let launch = grid(f, for_queries, tq, owned(width), THREADS).shared(tiles);
    let launch =
        [&f.q, &f.k, &f.v, &op.dout, &f.out].into_iter().fold(launch, |launch, t| rows(f, addresses, launch, t));
    let launch =
        pair_and_scale_parameters(f, addresses, launch.ptr(addresses.ptr(&f.lse)).ptr(addresses.ptr(&op.delta)));
    out.push(rows(f, addresses, launch, &op.dq));
    out.push(dkdv(op, addresses, grid(f, for_keys, tk, owned(width), THREADS).shared(tiles + 4 * 4 * streamed)));
}

/// Returns the predicted seconds of both kernels of [`flash`]: seven matmuls at 50 % of the `mma.sync` peak, and two
/// launch gaps.
pub fn seconds(op: &AttentionBackward, gpu: &GpuSpec) -> f64 {
    let f = &op.forward;
    // Seven matmuls instead of five, because both kernels compute the scores and dP.
    matmul_seconds(f, gpu, owned(width(f.sizes().4)), 7.0, 0.5) + 2.0 * gpu.launch
}
