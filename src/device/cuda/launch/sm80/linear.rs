//! Launch code of bf16 matmuls on tensor cores: `kernels/sm80/linear.cu`.

use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::Launch;
use crate::device::cuda::launch::addresses::{Addresses, TICKETS};
use crate::device::cuda::launch::linear;
use crate::device::ops::{Epilogue, Linear};
use crate::tensor::{DType, Tensor};

/// Elements of K per tile.
const DEPTH: usize = 32;
/// Pipeline stages, each a tile of both operands in shared memory: `kStages` of the kernels.
const STAGES: usize = 4;

/// Returns whether the variants here support the matmul: K is positive, and the rows of `a` and `b` are aligned to 16
/// bytes, and so are all matrices of a batch. Other operands may have any alignment, and a single row any pitch.
pub fn aligned(op: &Linear) -> bool {
    op.sizes().2 > 0 && begins_at(&op.a, 8) && begins_at(&op.b, 8)
}

/// Returns whether all rows start at multiples of `multiple` elements. The pitch of a single row does not matter.
pub(in crate::device::cuda) fn begins_at(t: &Tensor, multiple: usize) -> bool {
    t.offset().is_multiple_of(multiple) && (t.rows() < 2 || t.pitch().is_multiple_of(multiple))
}

/// Returns whether `splitk` supports the matmul: it is [`aligned`], and cutting K into parts is predicted to be faster.
pub fn divided(op: &Linear) -> bool {
    aligned(op) && parts(sizes(op)) > 1
}

/// Variant `mma_128x128`: one tile of 128 x 128 per block of four warps.
pub fn mma_128x128(op: &Linear, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(launch(op, addresses, 128).int(depth(sizes(op))).ptr(0));
}

/// Variant `mma_64x64`: one tile of 64 x 64 per block of four warps.
pub fn mma_64x64(op: &Linear, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(launch(op, addresses, 64));
}

/// Variant `splitk`: the kernels of `mma_128x128`, with K cut into parts along y of the grid.
pub fn splitk(op: &Linear, addresses: &Addresses, out: &mut Vec<Launch>) {
    let parts = parts(sizes(op));
    let whole = launch(op, addresses, 128).int(depth(sizes(op)).div_ceil(parts)).ptr(addresses.workspace());
    let [x, _, z] = whole.grid;
    out.push(whole.grid(x as usize, parts, z as usize));
}

/// Returns the workspace of `splitk` in bytes: the ticket counters, then the f32 sums of every part of every tile.
pub fn workspace(op: &Linear) -> usize {
    let sizes = sizes(op);
    4 * (TICKETS + parts(sizes) * tiles(sizes, 128) * 128 * 128)
}

/// Builds a launch of the kernel with tiles of `side` x `side`.
fn launch(op: &Linear, addresses: &Addresses, side: usize) -> Launch {
    let kernel = match (side, op.ta, op.tb, op.out.dtype()) {
        (128, false, false, DType::F32) => "linear_mma_128x128_nn_bf16_f32",
        (128, false, true, DType::F32) => "linear_mma_128x128_nt_bf16_f32",
        (128, true, false, DType::F32) => "linear_mma_128x128_tn_bf16_f32",
        (128, true, true, DType::F32) => "linear_mma_128x128_tt_bf16_f32",
        (128, false, false, _) => "linear_mma_128x128_nn_bf16",
        (128, false, true, _) => "linear_mma_128x128_nt_bf16",
        (128, true, false, _) => "linear_mma_128x128_tn_bf16",
        (128, true, true, _) => "linear_mma_128x128_tt_bf16",
        (_, false, false, DType::F32) => "linear_mma_64x64_nn_bf16_f32",
        (_, false, true, DType::F32) => "linear_mma_64x64_nt_bf16_f32",
        (_, true, false, DType::F32) => "linear_mma_64x64_tn_bf16_f32",
        (_, true, true, DType::F32) => "linear_mma_64x64_tt_bf16_f32",
        (_, false, false, _) => "linear_mma_64x64_nn_bf16",
        (_, false, true, _) => "linear_mma_64x64_nt_bf16",
        (_, true, false, _) => "linear_mma_64x64_tn_bf16",
        (_, true, true, _) => "linear_mma_64x64_tt_bf16",
    };
    let shared = STAGES * 2 * side * DEPTH * DType::BF16.bytes();
    // A single row may have any pitch. With a pitch of 0, the addresses of rows beyond it, which are not read, are
    // aligned too.
    let pitch = |t: &Tensor| if t.rows() < 2 { 0 } else { t.pitch() };
    let launch = linear::tiles(op, kernel, (side, side), 128).shared(shared);
    linear::with_pitches([pitch(&op.a), pitch(&op.b)], op, addresses, launch)
}

/// The number of matmuls in the batch, and M, N and K of each.
type Sizes = [usize; 4];

fn sizes(op: &Linear) -> Sizes {
    let (m, n, k) = op.sizes();
    [op.batch, m, n, k]
}

/// Returns the number of output tiles of the whole batch.
fn tiles([batch, m, n, _]: Sizes, side: usize) -> usize {
    batch * m.div_ceil(side) * n.div_ceil(side)
}

/// Returns the number of tiles along K.
fn depth([.., k]: Sizes) -> usize {
    k.div_ceil(DEPTH)
}

/// Returns the number of parts that `splitk` cuts K into: the one with the shortest predicted time on an A100,
/// whichever GPU runs it, because the order of summation follows from it. The parts of all tiles are at most four
/// blocks per SM of an A100, which bounds the workspace to 28 MiB, and parts have at least four tiles along K on
/// average.
fn parts(sizes: Sizes) -> usize {
    let gpu = &GpuSpec::A100;
    let (tiles, depth) = (tiles(sizes, 128), depth(sizes));
    let most = (depth / 4).min(4 * gpu.sms / tiles.max(1)).min(32);
    let seconds =
        |parts: &usize| MMA_128X128.matmul_seconds(sizes, *parts, gpu) + reduction_seconds(sizes, *parts, gpu);
    // No part is empty.
    let all = (1..=most).filter(|&parts| depth.div_ceil(depth.div_ceil(parts)) == parts);
    all.min_by(|a, b| seconds(a).total_cmp(&seconds(b))).unwrap_or(1)
}

/// The parameters of one kernel's time model. The efficiencies are what similar kernels reach on an A100; ours have not
/// been measured.
struct Tiles {
    /// Rows and columns of a tile.
    side: usize,
    /// Blocks that fit an SM at a time.
    resident: usize,
    /// The fraction of an SM's peak `mma.sync` rate that a single resident block reaches.
    alone: f64,
    /// The upper bound of that fraction for all resident blocks of an SM together.
    together: f64,
}

const MMA_128X128: Tiles = Tiles { side: 128, resident: 2, alone: 0.55, together: 0.7 };
const MMA_64X64: Tiles = Tiles { side: 64, resident: 4, alone: 0.3, together: 0.45 };

impl Tiles {
    /// Returns the predicted seconds of the matmuls alone: those of the SM with the most blocks. It adds 1 us until the
    /// first tiles have arrived. Epilogues and launch gaps are not included.
    fn matmul_seconds(&self, sizes: Sizes, parts: usize, gpu: &GpuSpec) -> f64 {
        // Peak FLOP/s of one SM, and the blocks of the busiest one.
        let rate = gpu.mma() / gpu.sms as f64;
        let blocks = (tiles(sizes, self.side) * parts).div_ceil(gpu.sms);
        let depth = depth(sizes).div_ceil(parts);
        let flops = 2 * self.side * self.side * DEPTH * depth;
        let efficiency = (self.alone * blocks.min(self.resident) as f64).min(self.together);
        // Seconds until the first tiles have arrived.
        const FILL: f64 = 1e-6;
        FILL + blocks as f64 * flops as f64 / (rate * efficiency)
    }

    /// Returns the predicted seconds of one launch: a launch gap, then the longer of the matmuls and the memory traffic
    /// of all operands, then the epilogue of the last wave. The reduction of split K is not included.
    fn seconds(&self, op: &Linear, parts: usize, gpu: &GpuSpec) -> f64 {
        let sizes = sizes(op);
        let [batch, m, n, _] = sizes;
        let bytes = |t: &Tensor| t.bytes() as f64;
        // Bytes of the saved or read pre-activation and the recomputed activation, and FLOPs of the epilogue.
        let (saved, pointwise) = match &op.epilogue {
            Epilogue::None => (0.0, 0),
            Epilogue::Activate { pre, .. } => (pre.as_ref().map_or(0.0, bytes), 30 * batch * m * n),
            Epilogue::ActivateGrad { pre, value, .. } => {
                (bytes(pre) + value.as_ref().map_or(0.0, bytes), 50 * batch * m * n)
            }
        };
        let writes = if op.accumulate { 2.0 } else { 1.0 };
        let epilogue = writes * bytes(&op.out) + op.residual.as_ref().map_or(0.0, bytes) + saved;
        let traffic = (bytes(&op.a) + bytes(&op.b) + epilogue) / gpu.bandwidth;
        // Epilogues overlap with the matmuls of other blocks, except for those of the last wave.
        let waves = (tiles(sizes, self.side) * parts).div_ceil(gpu.sms * self.resident).max(1) as f64;
        let last = (epilogue / gpu.bandwidth + pointwise as f64 / gpu.vector) / waves;
        gpu.launch + self.matmul_seconds(sizes, parts, gpu).max(traffic) + last
    }
}

/// Returns the predicted seconds in which the sums of all parts are written and the last block of each tile reads them
/// back, 0 without parts. It assumes that they stay in L2, at three times the bandwidth of device memory, shared
/// equally by all SMs, and a latency of 2 us.
fn reduction_seconds(sizes: Sizes, parts: usize, gpu: &GpuSpec) -> f64 {
    if parts < 2 {
        return 0.0;
    }
    let tile = (4 * 128 * 128) as f64;
    let (cache, sms) = (3.0 * gpu.bandwidth, gpu.sms as f64);
    let written = (tiles(sizes, 128) * parts) as f64 * tile / cache;
    let rounds = tiles(sizes, 128).div_ceil(gpu.sms) * parts;
    2e-6 + written + rounds as f64 * tile / (cache / sms)
}

/// Returns the predicted seconds of [`mma_128x128`].
pub fn seconds_mma_128x128(op: &Linear, gpu: &GpuSpec) -> f64 {
    MMA_128X128.seconds(op, 1, gpu)
}

/// Returns the predicted seconds of [`mma_64x64`].
pub fn seconds_mma_64x64(op: &Linear, gpu: &GpuSpec) -> f64 {
    MMA_64X64.seconds(op, 1, gpu)
}

/// Returns the predicted seconds of [`splitk`].
pub fn seconds_splitk(op: &Linear, gpu: &GpuSpec) -> f64 {
    let parts = parts(sizes(op));
    MMA_128X128.seconds(op, parts, gpu) + reduction_seconds(sizes(op), parts, gpu)
}

#[cfg(test)]
mod tests {
    use crate::device::cuda::launch::sm80::linear::*;
    use crate::device::cuda::variants;
    use crate::device::ops::Op;
    use crate::tensor::Place;

    /// Returns the chosen variant for a batch of matmuls whose matrices are adjacent in memory, and its number of parts
    /// of K.
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
        // GPT-2's layers on 8192 tokens, weight gradients, few tokens, and an unaligned K.
        assert_eq!(choice([1, 8192, 2304, 768], DType::BF16), ("mma_128x128", 1));
        assert_eq!(choice([1, 8192, 768, 3072], DType::BF16), ("mma_128x128", 1));
        assert_eq!(choice([1, 768, 768, 8192], DType::F32), ("splitk", 6));
        assert_eq!(choice([1, 3072, 768, 8192], DType::F32), ("splitk", 3));
        assert_eq!(choice([1, 50304, 768, 8192], DType::F32), ("mma_128x128", 1));
        assert_eq!(choice([1, 128, 768, 768], DType::BF16).0, "mma_64x64");
        assert_eq!(choice([1, 8192, 2304, 765], DType::BF16), ("naive", 1));
        // The matmuls of a batch fill the GPU together.
        assert_eq!(choice([12, 768, 768, 8192], DType::F32), ("mma_128x128", 1));
        assert_eq!(choice([12, 768, 768, 768], DType::BF16), ("mma_128x128", 1));
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
