//! The gradient of attention in bf16 on tensor cores: `kernels/attention_backward_sm80.cu`.

use super::attention::{THREADS, fits, products, width};
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::Launch;
use crate::device::cuda::launch::addresses::Addresses;
use crate::device::cuda::launch::attention::{grid, pairs, rows};
use crate::device::cuda::launch::attention_backward::dkdv;
use crate::device::ops::AttentionBackward;

/// Whether heads fit the widest tile and come in pieces of 16 bytes.
pub fn supports(op: &AttentionBackward) -> bool {
    let f = &op.forward;
    fits(f, &[&f.q, &f.k, &f.v, &f.out, &op.dout, &op.dq, &op.dk, &op.dv])
}

/// Rows that a block owns: 16 M for each of four warps.
fn owned(width: usize) -> usize {
    if width <= 64 { 128 } else { 64 }
}

/// A block per 128 or 64 queries for delta and dq, then as many keys for dk and dv.
pub fn flash(op: &AttentionBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let f = &op.forward;
    let (_, tq, tk, _, d) = f.sizes();
    let width = width(d);
    // Rows that pass by at a time.
    let (for_queries, for_keys, passing) = match width {
        32 => ("attention_dq_flash_32_bf16", "attention_dkdv_flash_32_bf16", 64),
        64 => ("attention_dq_flash_64_bf16", "attention_dkdv_flash_64_bf16", 64),
        80 => ("attention_dq_flash_80_bf16", "attention_dkdv_flash_80_bf16", 64),
        96 => ("attention_dq_flash_96_bf16", "attention_dkdv_flash_96_bf16", 64),
        _ => ("attention_dq_flash_128_bf16", "attention_dkdv_flash_128_bf16", 32),
    };
    // Two tiles of what is owned, twice two of what passes by; twice lse and delta of its queries.
    let tiles = 2 * width * (2 * owned(width) + 4 * passing);
    let launch = grid(f, for_queries, tq, owned(width), THREADS).shared(tiles);
    let launch =
        [&f.q, &f.k, &f.v, &op.dout, &f.out].into_iter().fold(launch, |launch, t| rows(f, addresses, launch, t));
    let launch = pairs(f, addresses, launch.ptr(addresses.ptr(&f.lse)).ptr(addresses.ptr(&op.delta)));
    out.push(rows(f, addresses, launch, &op.dq));
    out.push(dkdv(op, addresses, grid(f, for_keys, tk, owned(width), THREADS).shared(tiles + 4 * 4 * passing)));
}

/// What the two kernels are expected to take.
pub fn seconds(op: &AttentionBackward, gpu: &GpuSpec) -> f64 {
    let f = &op.forward;
    // Seven products instead of the five that there are: scores and dP are computed twice.
    products(f, gpu, owned(width(f.sizes().4)), 7.0, 0.5) + 2.0 * gpu.launch
}
