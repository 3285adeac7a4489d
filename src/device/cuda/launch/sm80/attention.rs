//! Launch code of bf16 attention on tensor cores (`kernels/sm80/attention.cu`), and helpers that its backward pass
//! shares.

use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::Launch;
use crate::device::cuda::launch::addresses::Addresses;
use crate::device::cuda::launch::attention::{grid, parameters, pitch};
use crate::device::ops::Attention;
use crate::tensor::Tensor;

/// Threads per block: `kFlashThreads` in `kernels/common/attention_sm80.cuh`.
pub(in crate::device::cuda) const THREADS: u32 = 128;

/// Queries per block: 16 M (M = 2) for each of four warps.
const QUERIES: usize = 128;

/// Returns whether the tensor-core variants support the operation: see [`fits`].
pub fn supports(op: &Attention) -> bool {
    fits(op, &[&op.q, &op.k, &op.v, &op.out])
}

/// Returns whether the head size is at most 128 and each row of each head of these operands consists of whole, aligned
/// 16-byte vectors (arenas are aligned to 256 bytes). The scale must be positive: the kernels find the largest score
/// before scaling, and a negative scale would make it the smallest.
pub(in crate::device::cuda) fn fits(op: &Attention, operands: &[&Tensor]) -> bool {
    let (d, scale) = (op.sizes().4, op.scale as f32);
    let whole = |n: usize| n.is_multiple_of(8);
    scale.is_normal()
        && scale > 0.0
        && d <= 128
        && whole(d)
        && operands.iter().all(|t| whole(t.offset()) && whole(pitch(op, t)))
}

/// Returns the width of the narrowest tile that fits a head size of `d`.
pub(in crate::device::cuda) fn width(d: usize) -> usize {
    [32, 64, 80, 96].into_iter().find(|&width| d <= width).unwrap_or(128)
}

/// Variant `flash`: one block per 128 queries.
pub fn flash(op: &Attention, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (_, tq, _, _, d) = op.sizes();
    // Shared memory: the queries, and two tiles each of keys and values. `keys`: rows of such a tile.
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

/// Returns the predicted seconds of [`flash`]: two matmuls at 60 % of the `mma.sync` peak, and one launch gap.
pub fn seconds(op: &Attention, gpu: &GpuSpec) -> f64 {
    matmul_seconds(op, gpu, QUERIES, 2.0, 0.6) + gpu.launch
}

/// Returns the predicted seconds of `matmuls` matmuls of Tq x Tk x D multiply-adds per head.
///
/// Each block owns `rows` queries (or keys). Two blocks share an SM, and together they reach the fraction `efficiency`
/// of the peak rate of `mma.sync` ([`GpuSpec::mma`]). Dropout adds 30 instructions per score at the peak f32 rate.
/// Launch gaps are not included.
pub(in crate::device::cuda) fn matmul_seconds(
    op: &Attention,
    gpu: &GpuSpec,
    rows: usize,
    matmuls: f64,
    efficiency: f64,
) -> f64 {
    let (batch, tq, tk, heads, d) = op.sizes();
    // The fraction of the scores that is computed: with a causal mask half of them, plus the tiles on the diagonal.
    let seen = if op.causal { (1.0 - tq.saturating_sub(rows) as f64 / (2 * tk) as f64).max(0.5) } else { 1.0 };
    let tiles = batch * heads * tq.div_ceil(rows);
    // Seconds per score, with all SMs busy: 2 D FLOPs for each matmul, and the random numbers of dropout.
    let score = 2.0 * matmuls * width(d) as f64 / (gpu.mma() * efficiency);
    let dropout = if op.dropout.is_some() { 2.0 * 30.0 / gpu.vector } else { 0.0 };
    // `slots` blocks run at a time, and each computes `tile` scores. At least one full wave; with more blocks than
    // slots, half a wave is added for the uneven end.
    let (slots, tile) = (2 * gpu.sms, (rows * tk.next_multiple_of(32)) as f64 * seen);
    let waves = (tiles as f64 / slots as f64).max(1.0) + if tiles > slots { 0.5 } else { 0.0 };
    waves * slots as f64 * tile * (score + dropout)
}

#[cfg(test)]
mod tests {
    use crate::device::cuda::gpu_spec::GpuSpec;
    use crate::device::cuda::variants::choose;
    use crate::device::ops::{Attention, AttentionBackward, Op};
    use crate::tensor::{DType, Place, Tensor};

    /// Heads of GPT-2, BERT and DeiT; then a head size that is no multiple of 8 elements, and one above 128.
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
                let chosen = choose(&op, &GpuSpec::A100).map(|v| (v.name, v.seconds(&op, &GpuSpec::A100)));
                assert!(chosen.is_some_and(|(chosen, s)| chosen == name && s > 0.0), "{time} {d}: {chosen:?}");
            }
        }
    }
}
