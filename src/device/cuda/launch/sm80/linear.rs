//! Matrix products in bf16 on tensor cores: `kernels/linear_sm80.cu`.

use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::Launch;
use crate::device::cuda::launch::addresses::{Addresses, TICKETS};
use crate::device::cuda::launch::linear;
use crate::device::ops::{Epilogue, Linear};
use crate::tensor::{DType, Tensor};

/// Steps of K in a tile.
const DEPTH: usize = 32;
/// `kStages` of the kernels: tiles of both operands in shared memory.
const STAGES: usize = 4;

/// Addresses and pitches of both factors are multiples of 16 bytes, so every matrix of a batch begins at one; all else may lie
/// anywhere, and the pitch of a single row may be any.
pub fn aligned(op: &Linear) -> bool {
    op.sizes().2 > 0 && begins_at(&op.a, 8) && begins_at(&op.b, 8)
}

/// Rows begin at multiples of so many elements; the pitch of a single one does not matter.
pub(in crate::device::cuda) fn begins_at(t: &Tensor, multiple: usize) -> bool {
    t.offset().is_multiple_of(multiple) && (t.rows() < 2 || t.pitch().is_multiple_of(multiple))
}

/// Aligned, and better cut along K.
pub fn divided(op: &Linear) -> bool {
    aligned(op) && parts(sizes(op)) > 1
}

/// Tiles of 128 x 128 in blocks of four warps.
pub fn mma128(op: &Linear, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(launch(op, addresses, 128).int(depth(sizes(op))).ptr(0));
}

/// Tiles of 64 x 64.
pub fn mma64(op: &Linear, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(launch(op, addresses, 64));
}

/// Tiles of 128 x 128, K in parts.
pub fn splitk(op: &Linear, addresses: &Addresses, out: &mut Vec<Launch>) {
    let parts = parts(sizes(op));
    let whole = launch(op, addresses, 128).int(depth(sizes(op)).div_ceil(parts)).ptr(addresses.workspace());
    let [x, _, z] = whole.grid;
    out.push(whole.grid(x as usize, parts, z as usize));
}

/// Bytes of scratch memory of `splitk`: tickets, then the sums of every part of every tile.
pub fn workspace(op: &Linear) -> usize {
    let sizes = sizes(op);
    4 * (TICKETS + parts(sizes) * tiles(sizes, 128) * 128 * 128)
}

fn launch(op: &Linear, addresses: &Addresses, side: usize) -> Launch {
    let kernel = match (side, op.ta, op.tb, op.out.dtype()) {
        (128, false, false, DType::F32) => "linear_mma128_nn_bf16_f32",
        (128, false, true, DType::F32) => "linear_mma128_nt_bf16_f32",
        (128, true, false, DType::F32) => "linear_mma128_tn_bf16_f32",
        (128, true, true, DType::F32) => "linear_mma128_tt_bf16_f32",
        (128, false, false, _) => "linear_mma128_nn_bf16",
        (128, false, true, _) => "linear_mma128_nt_bf16",
        (128, true, false, _) => "linear_mma128_tn_bf16",
        (128, true, true, _) => "linear_mma128_tt_bf16",
        (_, false, false, DType::F32) => "linear_mma64_nn_bf16_f32",
        (_, false, true, DType::F32) => "linear_mma64_nt_bf16_f32",
        (_, true, false, DType::F32) => "linear_mma64_tn_bf16_f32",
        (_, true, true, DType::F32) => "linear_mma64_tt_bf16_f32",
        (_, false, false, _) => "linear_mma64_nn_bf16",
        (_, false, true, _) => "linear_mma64_nt_bf16",
        (_, true, false, _) => "linear_mma64_tn_bf16",
        (_, true, true, _) => "linear_mma64_tt_bf16",
    };
    let shared = STAGES * 2 * side * DEPTH * DType::BF16.bytes();
    // A single row may have any pitch: 0, so that the addresses of rows beyond it, which are not read, are aligned too.
    let pitch = |t: &Tensor| if t.rows() < 2 { 0 } else { t.pitch() };
    let launch = linear::tiles(op, kernel, (side, side), 128).shared(shared);
    linear::with_pitches([pitch(&op.a), pitch(&op.b)], op, addresses, launch)
}

/// Products, and M, N, K of each.
type Sizes = [usize; 4];

fn sizes(op: &Linear) -> Sizes {
    let (m, n, k) = op.sizes();
    [op.batch, m, n, k]
}

/// Of all products.
fn tiles([batch, m, n, _]: Sizes, side: usize) -> usize {
    batch * m.div_ceil(side) * n.div_ceil(side)
}

/// Tiles along K.
fn depth([.., k]: Sizes) -> usize {
    k.div_ceil(DEPTH)
}

/// In how many parts `splitk` cuts K: those that take the least time on an A100, whatever runs it, since the order of sums
/// follows. Never more than fill it four times, which bounds the workspace to 28 MiB, nor fewer than four tiles in a part.
fn parts(sizes: Sizes) -> usize {
    let gpu = &GpuSpec::A100;
    let (tiles, depth) = (tiles(sizes, 128), depth(sizes));
    let most = (depth / 4).min(4 * gpu.sms / tiles.max(1)).min(32);
    let seconds = |parts: &usize| MMA128.products(sizes, *parts, gpu) + adding(sizes, *parts, gpu);
    // No part is empty.
    let all = (1..=most).filter(|&parts| depth.div_ceil(depth.div_ceil(parts)) == parts);
    all.min_by(|a, b| seconds(a).total_cmp(&seconds(b))).unwrap_or(1)
}

/// What a block of one kernel makes of an SM's tensor cores. Figures of what such kernels are known to reach on an A100; none
/// of ours has been measured.
struct Tiles {
    side: usize,
    /// Blocks that fit an SM.
    resident: usize,
    /// Part of the rate that one block reaches alone, and that all reach together.
    alone: f64,
    together: f64,
}

const MMA128: Tiles = Tiles { side: 128, resident: 2, alone: 0.55, together: 0.7 };
const MMA64: Tiles = Tiles { side: 64, resident: 4, alone: 0.3, together: 0.45 };

impl Tiles {
    /// The products alone: the SM with most blocks is the last.
    fn products(&self, sizes: Sizes, parts: usize, gpu: &GpuSpec) -> f64 {
        let rate = gpu.mma() / gpu.sms as f64;
        let blocks = (tiles(sizes, self.side) * parts).div_ceil(gpu.sms);
        let depth = depth(sizes).div_ceil(parts);
        let flops = 2 * self.side * self.side * DEPTH * depth;
        let part = (self.alone * blocks.min(self.resident) as f64).min(self.together);
        // Until the first tiles are there.
        const FILL: f64 = 1e-6;
        FILL + blocks as f64 * flops as f64 / (rate * part)
    }

    fn seconds(&self, op: &Linear, parts: usize, gpu: &GpuSpec) -> f64 {
        let sizes = sizes(op);
        let [batch, m, n, _] = sizes;
        let bytes = |t: &Tensor| t.bytes() as f64;
        let (kept, pointwise) = match &op.epilogue {
            Epilogue::None => (0.0, 0),
            Epilogue::Activate { pre, .. } => (pre.as_ref().map_or(0.0, bytes), 30 * batch * m * n),
            Epilogue::ActivateGrad { pre, value, .. } => {
                (bytes(pre) + value.as_ref().map_or(0.0, bytes), 50 * batch * m * n)
            }
        };
        let writes = if op.accumulate { 2.0 } else { 1.0 };
        let around = writes * bytes(&op.out) + op.residual.as_ref().map_or(0.0, bytes) + kept;
        let all = (bytes(&op.a) + bytes(&op.b) + around) / gpu.bandwidth;
        // Epilogues hide behind the products of other blocks, but for those of the last wave.
        let waves = (tiles(sizes, self.side) * parts).div_ceil(gpu.sms * self.resident).max(1) as f64;
        let last = (around / gpu.bandwidth + pointwise as f64 / gpu.vector) / waves;
        gpu.launch + self.products(sizes, parts, gpu).max(all) + last
    }
}

/// The sums of all parts written, and read by the block that comes last: through the second-level cache, of which an SM has
/// three times its part of the memory's bandwidth.
fn adding(sizes: Sizes, parts: usize, gpu: &GpuSpec) -> f64 {
    if parts < 2 {
        return 0.0;
    }
    let tile = (4 * 128 * 128) as f64;
    let (cache, sms) = (3.0 * gpu.bandwidth, gpu.sms as f64);
    let written = (tiles(sizes, 128) * parts) as f64 * tile / cache;
    let rounds = tiles(sizes, 128).div_ceil(gpu.sms) * parts;
    2e-6 + written + rounds as f64 * tile / (cache / sms)
}

/// Seconds of `mma128`.
pub fn seconds_mma128(op: &Linear, gpu: &GpuSpec) -> f64 {
    MMA128.seconds(op, 1, gpu)
}

/// Seconds of `mma64`.
pub fn seconds_mma64(op: &Linear, gpu: &GpuSpec) -> f64 {
    MMA64.seconds(op, 1, gpu)
}

/// Seconds of `splitk`.
pub fn seconds_splitk(op: &Linear, gpu: &GpuSpec) -> f64 {
    let parts = parts(sizes(op));
    MMA128.seconds(op, parts, gpu) + adding(sizes(op), parts, gpu)
}

#[cfg(test)]
mod tests {
    use crate::device::cuda::launch::sm80::linear::*;
    use crate::device::cuda::variants;
    use crate::device::ops::Op;
    use crate::tensor::Place;

    /// The variant for products of matrices of these sizes, one after another in memory, and its parts of K.
    fn choice(sizes: Sizes, out: DType) -> (&'static str, usize) {
        let [batch, m, n, k] = sizes;
        let matrix = |dtype, rows, columns| Tensor::new(Place::Arena(0), dtype, 0, &[rows, columns]);
        let (a, b) = (matrix(DType::BF16, batch * m, k), matrix(DType::BF16, batch * k, n));
        let op: Op = Linear::product(a, b, matrix(out, batch * m, n), (false, false)).batched(batch).into();
        let chosen = variants::choose(&op, &GpuSpec::A100).expect("a variant");
        (chosen.name, if chosen.name == "splitk" { parts(sizes) } else { 1 })
    }

    #[test]
    fn tiles_follow_from_the_shape() {
        // GPT-2's layers over 8192 tokens, gradients of weights, few tokens, and what is not aligned.
        assert_eq!(choice([1, 8192, 2304, 768], DType::BF16), ("mma128", 1));
        assert_eq!(choice([1, 8192, 768, 3072], DType::BF16), ("mma128", 1));
        assert_eq!(choice([1, 768, 768, 8192], DType::F32), ("splitk", 6));
        assert_eq!(choice([1, 3072, 768, 8192], DType::F32), ("splitk", 3));
        assert_eq!(choice([1, 50304, 768, 8192], DType::F32), ("mma128", 1));
        assert_eq!(choice([1, 128, 768, 768], DType::BF16).0, "mma64");
        assert_eq!(choice([1, 8192, 2304, 765], DType::BF16), ("naive", 1));
        // Products of a batch fill the chip together.
        assert_eq!(choice([12, 768, 768, 8192], DType::F32), ("mma128", 1));
        assert_eq!(choice([12, 768, 768, 768], DType::BF16), ("mma128", 1));
    }

    #[test]
    fn parts_are_whole_and_few() {
        for (batch, m) in [(1, 1), (1, 100), (3, 100), (1, 128), (1, 300), (20, 300), (1, 1000), (1, 5000)] {
            for k in [1, 31, 255, 500, 1000, 4097, 100_000] {
                let sizes = [batch, m, 200, k];
                let (parts, depth, tiles) = (parts(sizes), depth(sizes), tiles(sizes, 128));
                assert!(parts >= 1 && (parts == 1 || parts * tiles <= 432), "{sizes:?}: {parts}");
                assert_eq!(depth.div_ceil(depth.div_ceil(parts)), parts, "{sizes:?}: none is empty");
            }
        }
    }
}
