//! Launch code of bf16 attention by Hopper's `wgmma` (`kernels/sm90/attention.cu`), and helpers that its backward pass
//! shares.

use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::addresses::Addresses;
use crate::device::cuda::launch::attention::{pair_parameters, pitch};
use crate::device::cuda::launch::sm80::attention;
use crate::device::cuda::launch::{Launch, TensorMap};
use crate::device::ops::Attention;
use crate::tensor::Tensor;

/// Threads per block: two consumer warpgroups and one producer warpgroup.
pub(in crate::device::cuda) const THREADS: u32 = 384;

/// Rows (queries or keys) per consumer warpgroup.
pub(in crate::device::cuda) const GROUP_ROWS: usize = 64;
/// Rows of a work item: one head's queries (or keys) that both consumer warpgroups process together.
const OWNED: usize = 128;
/// Keys of a streamed tile.
const KEYS: usize = 128;

/// Variant `wgmma`: persistent blocks, one per SM. A work item is 128 queries of a head.
pub fn wgmma(op: &Attention, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (_, tq, ..) = op.sizes();
    let width = width(op);
    // Shared memory: double-buffered queries, and pipeline stages for keys and values.
    let (kernel, stages) = if width == 64 { ("attention_wgmma_64_bf16", 8) } else { ("attention_wgmma_128_bf16", 4) };
    let launch = blocks(op, addresses, kernel, tq).shared(2 * width * (2 * OWNED + stages * KEYS));
    let map = |t, rows| map(op, addresses, t, rows);
    let launch =
        launch.map(map(&op.q, GROUP_ROWS)).map(map(&op.k, KEYS)).map(map(&op.v, KEYS)).map(map(&op.out, GROUP_ROWS));
    out.push(heads(op, pair_parameters(op, addresses, launch.ptr(addresses.ptr(&op.lse))).float(op.scale)));
}

/// Returns the predicted seconds of the variants here: those of `flash`, which they would replace. None has been measured.
pub fn seconds(op: &Attention, gpu: &GpuSpec) -> f64 {
    attention::seconds(op, gpu)
}

/// Returns the width of the tile that fits the head size: 64 or 128 columns.
pub(in crate::device::cuda) fn width(op: &Attention) -> usize {
    if op.sizes().4 <= 64 { 64 } else { 128 }
}

/// Builds a persistent launch: one block per SM, but no more than there are work items in `time` queries or keys.
pub(in crate::device::cuda) fn blocks(
    op: &Attention,
    addresses: &Addresses,
    kernel: &'static str,
    time: usize,
) -> Launch {
    Launch::new(kernel, work_items(op, time).min(addresses.sms), THREADS)
}

/// Appends the numbers of heads and batches, the last parameters of these kernels.
pub(in crate::device::cuda) fn heads(op: &Attention, launch: Launch) -> Launch {
    let (batch, _, _, heads, _) = op.sizes();
    launch.int(heads).int(batch)
}

/// Builds the TMA descriptor of an operand: a matrix `[time, head size]` per head and batch, in boxes of `rows` x 64.
pub(in crate::device::cuda) fn map(op: &Attention, addresses: &Addresses, t: &Tensor, rows: usize) -> TensorMap {
    let (batch, _, _, heads, d) = op.sizes();
    let (time, head, pitch) = (t.numel() / (batch * heads * d), 2 * d, 2 * pitch(op, t));
    TensorMap::new(addresses.ptr(t), [time, d], pitch, rows).of_many([batch, heads], [time * pitch, head])
}

/// Returns the number of work items: groups of 128 rows, over all heads and batches.
fn work_items(op: &Attention, time: usize) -> usize {
    let (batch, _, _, heads, _) = op.sizes();
    batch * heads * time.div_ceil(OWNED)
}
