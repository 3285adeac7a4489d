//! Attention in bf16 on tensor cores: `kernels/attention_sm80.cu`. What its backward pass asks alike is here too.

use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::Launch;
use crate::device::cuda::launch::addresses::Addresses;
use crate::device::cuda::launch::attention::{grid, parameters, pitch};
use crate::device::ops::Attention;
use crate::tensor::Tensor;

/// Threads of a block: `kFlashThreads` in `kernels/common/attention_sm80.cuh`.
pub(in crate::device::cuda) const THREADS: u32 = 128;

/// Queries of a block: 16 M for each of four warps.
const QUERIES: usize = 128;

/// Whether heads come in pieces of 16 bytes.
pub fn supports(op: &Attention) -> bool {
    fits(op, &[&op.q, &op.k, &op.v, &op.out])
}

/// Whether heads fit the widest tile and these operands' come in pieces of 16 bytes (arenas begin at multiples of 256
/// bytes). A scale that is not positive would turn the largest score into the smallest.
pub(in crate::device::cuda) fn fits(op: &Attention, operands: &[&Tensor]) -> bool {
    let (d, scale) = (op.sizes().4, op.scale as f32);
    let whole = |n: usize| n.is_multiple_of(8);
    scale.is_normal()
        && scale > 0.0
        && d <= 128
        && whole(d)
        && operands.iter().all(|t| whole(t.offset()) && whole(pitch(op, t)))
}

/// The narrowest tile that a head fits.
pub(in crate::device::cuda) fn width(d: usize) -> usize {
    [32, 64, 80, 96].into_iter().find(|&width| d <= width).unwrap_or(128)
}

/// A block per 128 queries.
pub fn flash(op: &Attention, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (_, tq, _, _, d) = op.sizes();
    // Beside the queries, two tiles each of keys and values.
    let (kernel, keys) = match width(d) {
        32 => ("attention_flash_32_bf16", 64),
        64 => ("attention_flash_64_bf16", 64),
        80 => ("attention_flash_80_bf16", 32),
        96 => ("attention_flash_96_bf16", 32),
        _ => ("attention_flash_128_bf16", 32),
    };
    let launch = grid(op, kernel, tq, QUERIES, THREADS).shared(2 * width(d) * (QUERIES + 4 * keys));
    out.push(parameters(op, addresses, launch));
}

/// What the kernel is expected to take.
pub fn seconds(op: &Attention, gpu: &GpuSpec) -> f64 {
    products(op, gpu, QUERIES, 2.0, 0.6) + gpu.launch
}

/// Seconds of so many products of Tq Tk D multiply-adds by blocks that own `rows`, two of them on a multiprocessor at
/// a time, which together reach `part` of its tensor cores; with dropout, beside 30 instructions a score.
pub(in crate::device::cuda) fn products(op: &Attention, gpu: &GpuSpec, rows: usize, products: f64, part: f64) -> f64 {
    let (batch, tq, tk, heads, d) = op.sizes();
    // Of a causal square, half and the diagonal of tiles.
    let seen = if op.causal { (1.0 - tq.saturating_sub(rows) as f64 / (2 * tk) as f64).max(0.5) } else { 1.0 };
    let tiles = batch * heads * tq.div_ceil(rows);
    let score = 2.0 * products * width(d) as f64 / (gpu.mma() * part);
    let drawn = if op.dropout.is_some() { 2.0 * 30.0 / gpu.vector } else { 0.0 };
    // Scores of one multiprocessor's blocks: whole waves when they are few, an even share when they are many.
    let (slots, tile) = (2 * gpu.sms, (rows * tk.next_multiple_of(32)) as f64 * seen);
    let waves = (tiles as f64 / slots as f64).max(1.0) + if tiles > slots { 0.5 } else { 0.0 };
    waves * slots as f64 * tile * (score + drawn)
}

#[cfg(test)]
mod tests {
    use crate::device::cuda::gpu_spec::GpuSpec;
    use crate::device::cuda::variants::choose;
    use crate::device::ops::{Attention, AttentionBackward, Op};
    use crate::tensor::{DType, Place, Tensor};

    /// GPT-2's, BERT's and DeiT's heads, and those that do not come in pieces of 16 bytes.
    #[test]
    fn tensor_cores_are_chosen_where_they_can_be() {
        for (time, d, causal, name) in [
            (1024, 64, true, "flash"),
            (128, 64, false, "flash"),
            (197, 64, false, "flash"),
            (2048, 128, true, "flash"),
            (64, 60, false, "naive"),
            (64, 160, false, "naive"),
        ] {
            let place = Place::Arena(0);
            let t = Tensor::new(place, DType::BF16, 0, &[8, time, 12, d]);
            let wide = Tensor::new(place, DType::F32, 0, &[8, 12, time]);
            let (scale, dropout, key_mask) = (0.125, None, None);
            let forward = Attention { q: t, k: t, v: t, out: t, lse: wide, key_mask, causal, scale, dropout };
            let backward = AttentionBackward { forward, dout: t, dq: t, dk: t, dv: t, delta: wide };
            for op in [Op::from(forward), Op::from(backward)] {
                let chosen = choose(&op, &GpuSpec::A100).map(|v| (v.name, (v.seconds)(&op, &GpuSpec::A100)));
                assert!(chosen.is_some_and(|(chosen, s)| chosen == name && s > 0.0), "{time} {d}: {chosen:?}");
            }
        }
    }
}
