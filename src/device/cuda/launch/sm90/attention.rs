//! Attention in bf16 by Hopper's warpgroups: `kernels/attention_sm90.cu`. What its backward pass asks alike is here too.

use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::addresses::Addresses;
use crate::device::cuda::launch::attention::{pitch, which};
use crate::device::cuda::launch::sm80::attention;
use crate::device::cuda::launch::{Launch, TensorMap};
use crate::device::ops::Attention;
use crate::tensor::Tensor;

/// Threads of a block: two warpgroups that compute, one that copies.
pub(in crate::device::cuda) const THREADS: u32 = 384;

/// Rows of a warpgroup, of what a block owns, and keys that pass by at a time.
pub(in crate::device::cuda) const HALF: usize = 64;
const OWNED: usize = 128;
const KEYS: usize = 128;

/// A block for each multiprocessor, which takes 128 queries of a head after others.
pub fn wgmma(op: &Attention, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (_, tq, ..) = op.sizes();
    let width = width(op);
    // Twice the queries, and stages for keys and values.
    let (kernel, stages) = if width == 64 { ("attention_wgmma_64_bf16", 8) } else { ("attention_wgmma_128_bf16", 4) };
    let launch = blocks(op, addresses, kernel, tq).shared(2 * width * (2 * OWNED + stages * KEYS));
    let map = |t, rows| map(op, addresses, t, rows);
    let launch = launch.map(map(&op.q, HALF)).map(map(&op.k, KEYS)).map(map(&op.v, KEYS)).map(map(&op.out, HALF));
    out.push(heads(op, which(op, addresses, launch.ptr(addresses.ptr(&op.lse))).float(op.scale)));
}

/// Beside those of `flash`: `VCYCLE_VARIANT_attention=wgmma` chooses it.
pub fn seconds(op: &Attention, gpu: &GpuSpec) -> f64 {
    gpu.unproven(attention::seconds(op, gpu))
}

/// Columns of the tile that a head fits.
pub(in crate::device::cuda) fn width(op: &Attention) -> usize {
    if op.sizes().4 <= 64 { 64 } else { 128 }
}

/// As many blocks as multiprocessors, or as 128 rows there are of all heads.
pub(in crate::device::cuda) fn blocks(
    op: &Attention,
    addresses: &Addresses,
    kernel: &'static str,
    time: usize,
) -> Launch {
    Launch::new(kernel, works(op, time).min(addresses.sms), THREADS)
}

/// Heads and batches, the last parameters.
pub(in crate::device::cuda) fn heads(op: &Attention, launch: Launch) -> Launch {
    let (batch, _, _, heads, _) = op.sizes();
    launch.int(heads).int(batch)
}

/// The heads of an operand in boxes of 64 columns and so many rows.
pub(in crate::device::cuda) fn map(op: &Attention, addresses: &Addresses, t: &Tensor, rows: usize) -> TensorMap {
    let (batch, _, _, heads, d) = op.sizes();
    let (time, head, pitch) = (t.numel() / (batch * heads * d), 2 * d, 2 * pitch(op, t));
    TensorMap::new(addresses.ptr(t), [time, d], pitch, rows).of_many([batch, heads], [time * pitch, head])
}

fn works(op: &Attention, time: usize) -> usize {
    let (batch, _, _, heads, _) = op.sizes();
    batch * heads * time.div_ceil(OWNED)
}
