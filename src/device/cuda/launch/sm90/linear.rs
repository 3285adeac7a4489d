//! Matrix products in bf16 by Hopper's warpgroups: `kernels/linear_sm90.cu`.

use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::addresses::{Addresses, TICKETS};
use crate::device::cuda::launch::linear;
use crate::device::cuda::launch::sm80::linear::{aligned, begins_at};
use crate::device::cuda::launch::{Launch, TensorMap};
use crate::device::ops::{Epilogue, Linear};
use crate::tensor::{DType, Tensor};

/// Steps of K in a stage.
const DEPTH: usize = 64;
/// Rows of a box of outputs.
const BOX: usize = 64;
/// Stages and outputs on their way, the most of any kernel.
const SHARED: usize = 4 * (128 + 256) * DEPTH * 2 + 8 * 16 * 64 * 4;

/// One product, whose factors the copy engine can read.
pub fn supports(op: &Linear) -> bool {
    op.batch == 1 && aligned(op)
}

/// Outputs that the copy engine can write: in bf16, all that is read beside them in pairs, or in f32, with nothing beside them.
pub fn supports_boxes(op: &Linear) -> bool {
    let (whole, pairs) = (|t: &Tensor| begins_at(t, 16 / t.dtype().bytes()), |t: &Tensor| begins_at(t, 2));
    let around = match &op.epilogue {
        Epilogue::None => true,
        Epilogue::Activate { pre, .. } => pre.as_ref().is_none_or(whole),
        Epilogue::ActivateGrad { pre, value, .. } => pairs(pre) && value.as_ref().is_none_or(whole),
    };
    let read = [&op.bias, &op.residual].into_iter().flatten().all(pairs);
    let alone = op.bias.is_none() && op.epilogue == Epilogue::None && op.residual.is_none();
    supports(op) && (op.out.dtype() == DType::BF16 || alone) && whole(&op.out) && around && read
}

/// What a block of one kernel makes. Rates follow from the times of an H100 (docs/benchmarks.md): of `wgmma128` 0.40 us for 128 x 128
/// x 64, of `wgmma256` 0.61 to 0.76 us for twice as much.
pub struct Tiles {
    /// Rows and columns of a tile.
    rows: usize,
    width: usize,
    /// Blocks of a cluster, whose tiles are above each other.
    cluster: usize,
    /// By transposes of both factors; then with outputs in f32.
    pub kernels: &'static [&'static str; 8],
    /// The copy engine writes outputs.
    boxes: bool,
    /// A GPU has run it; if not, see [`GpuSpec::unproven`].
    proven: bool,
    /// Part of the tensor cores' rate that a multiprocessor reaches between begin and end of a tile.
    part: f64,
    /// Seconds after a tile in which they idle.
    idle: f64,
}

/// A family of kernels, by types of outputs and transposes of both factors.
macro_rules! kernels {
    ($family:literal) => {
        &[
            concat!("linear_", $family, "_nn_bf16"),
            concat!("linear_", $family, "_nt_bf16"),
            concat!("linear_", $family, "_tn_bf16"),
            concat!("linear_", $family, "_tt_bf16"),
            concat!("linear_", $family, "_nn_bf16_f32"),
            concat!("linear_", $family, "_nt_bf16_f32"),
            concat!("linear_", $family, "_tn_bf16_f32"),
            concat!("linear_", $family, "_tt_bf16_f32"),
        ]
    };
}

/// Tiles of 128 x 128, each of one warpgroup.
pub const WGMMA128: Tiles = Tiles {
    rows: 128,
    width: 128,
    cluster: 1,
    kernels: kernels!("wgmma128"),
    boxes: false,
    proven: true,
    part: 0.7,
    idle: 1.3e-6,
};

/// Tiles of 128 x 256, of two.
pub const WGMMA256: Tiles = Tiles { width: 256, kernels: kernels!("wgmma256"), part: 0.86, idle: 4.4e-6, ..WGMMA128 };

/// As `WGMMA128`, where the copy engine writes what the product makes, as in all that follow.
pub const BOXES128: Tiles = Tiles { kernels: kernels!("boxes128"), boxes: true, proven: false, ..WGMMA128 };

/// So, of 64 x 256.
pub const BOXES64: Tiles = Tiles { rows: 64, width: 256, kernels: kernels!("boxes64"), ..BOXES128 };

/// As `WGMMA256`.
pub const BOXES256: Tiles = Tiles { kernels: kernels!("boxes256"), boxes: true, proven: false, ..WGMMA256 };

/// So, of 192 columns.
pub const BOXES192: Tiles = Tiles { width: 192, kernels: kernels!("boxes192"), ..BOXES256 };

/// As `BOXES256`, in clusters of two blocks that bring each other columns.
pub const PAIRS256: Tiles = Tiles { cluster: 2, kernels: kernels!("pairs256"), ..BOXES256 };

impl Tiles {
    /// The product.
    pub fn launch(&self, op: &Linear, addresses: &Addresses, out: &mut Vec<Launch>) {
        let (parts, depth) = (self.parts(op), depth(op));
        let blocks = (self.tiles(op) * parts).min((addresses.sms / self.cluster).max(1) * self.cluster);
        let wide = usize::from(op.out.dtype() == DType::F32);
        let kernel = self.kernels[4 * wide + 2 * usize::from(op.ta) + usize::from(op.tb)];
        let launch = Launch::new(kernel, blocks, 384).shared(SHARED);
        let factor = |t, across, rows| map(t, addresses, if across { DEPTH } else { rows });
        let mut launch =
            launch.map(factor(&op.a, op.ta, self.rows)).map(factor(&op.b, !op.tb, self.width / self.cluster));
        if self.boxes {
            let kept = match &op.epilogue {
                Epilogue::None => None,
                Epilogue::Activate { pre, .. } => pre.as_ref(),
                Epilogue::ActivateGrad { value, .. } => value.as_ref(),
            };
            launch = launch.map(map(&op.out, addresses, BOX)).map(map(kept.unwrap_or(&op.out), addresses, BOX));
        }
        let workspace = if parts > 1 { addresses.workspace() } else { 0 };
        out.push(linear::surroundings(launch, op, addresses).int(depth.div_ceil(parts)).int(parts).ptr(workspace));
    }

    /// Those of a cluster all count, be some of them empty.
    fn tiles(&self, op: &Linear) -> usize {
        let (m, n, _) = op.sizes();
        m.div_ceil(self.rows * self.cluster) * self.cluster * n.div_ceil(self.width)
    }

    /// Bytes of scratch memory.
    pub fn workspace(&self, op: &Linear) -> usize {
        match self.parts(op) {
            1 => 0,
            parts => 4 * (TICKETS + parts * self.tiles(op) * self.rows * self.width),
        }
    }

    /// In how many parts K is cut: those that take the least time on an H100, whatever runs it, since the order of sums
    /// follows. None has fewer than eight stages; all of them together fill the chip at most four times.
    fn parts(&self, op: &Linear) -> usize {
        let (tiles, depth, gpu) = (self.tiles(op), depth(op), &GpuSpec::H100);
        let most = (depth / 8).min(4 * gpu.sms / tiles.max(1)).min(32);
        let all = (1..=most).filter(|&parts| depth.div_ceil(depth.div_ceil(parts)) == parts);
        let seconds = |parts: &usize| self.products(op, *parts, gpu);
        all.min_by(|a, b| seconds(a).total_cmp(&seconds(b))).unwrap_or(1)
    }

    /// The products, and the sums of all parts: the multiprocessor with most tiles is the last.
    fn products(&self, op: &Linear, parts: usize, gpu: &GpuSpec) -> f64 {
        // Until the first stages are there.
        const FILL: f64 = 2e-6;
        let rounds = (self.tiles(op) * parts).div_ceil(gpu.sms) as f64;
        let flops = (2 * self.rows * self.width * DEPTH * depth(op).div_ceil(parts)) as f64;
        let tile = flops / (self.part * gpu.tensor / gpu.sms as f64) + self.idle;
        FILL + rounds * tile + self.adding(op, parts, gpu)
    }

    /// Sums of all parts written, and read by whoever comes last: through the second-level cache, of which a multiprocessor has
    /// three times its part of the memory's bandwidth.
    fn adding(&self, op: &Linear, parts: usize, gpu: &GpuSpec) -> f64 {
        if parts < 2 {
            return 0.0;
        }
        let (tile, cache) = ((4 * self.rows * self.width) as f64, 3.0 * gpu.bandwidth);
        let tiles = self.tiles(op);
        let read = (tiles.div_ceil(gpu.sms) * parts * gpu.sms) as f64;
        2e-6 + ((tiles * parts) as f64 + read) * tile / cache
    }

    /// Expected seconds.
    pub fn seconds(&self, op: &Linear, gpu: &GpuSpec) -> f64 {
        if !gpu.hopper {
            return f64::INFINITY;
        }
        let bytes = |t: &Tensor| t.bytes() as f64;
        let kept = match &op.epilogue {
            Epilogue::None => 0.0,
            Epilogue::Activate { pre, .. } => pre.as_ref().map_or(0.0, bytes),
            Epilogue::ActivateGrad { pre, value, .. } => bytes(pre) + value.as_ref().map_or(0.0, bytes),
        };
        let writes = if op.accumulate { 2.0 } else { 1.0 };
        let around = writes * bytes(&op.out) + op.residual.as_ref().map_or(0.0, bytes) + kept;
        let all = (bytes(&op.a) + bytes(&op.b) + around) / gpu.bandwidth;
        let seconds = gpu.launch + self.products(op, self.parts(op), gpu).max(all);
        if self.proven { seconds } else { gpu.unproven(seconds) }
    }
}

/// Stages along K.
fn depth(op: &Linear) -> usize {
    op.sizes().2.div_ceil(DEPTH)
}

/// A matrix in boxes of 128 bytes and so many rows: a factor of all rows of a tile where K lies along them, else of a stage's
/// steps of K.
fn map(t: &Tensor, addresses: &Addresses, rows: usize) -> TensorMap {
    // A single row may have any pitch.
    let pitch = if t.rows() < 2 { t.width().next_multiple_of(8) } else { t.pitch() };
    let map = TensorMap::new(addresses.ptr(t), [t.rows(), t.width()], pitch * t.dtype().bytes(), rows);
    if t.dtype() == DType::F32 { map.of_floats() } else { map }
}

#[cfg(test)]
mod tests {
    use crate::device::cuda::launch::sm90::linear::*;
    use crate::device::cuda::variants;
    use crate::device::ops::Op;
    use crate::tensor::Place;

    fn product([m, n, k]: [usize; 3], out: DType) -> Linear {
        let matrix = |dtype, rows, columns| Tensor::new(Place::Arena(0), dtype, 0, &[rows, columns]);
        let (a, b) = (matrix(DType::BF16, m, k), matrix(DType::BF16, k, n));
        Linear::product(a, b, matrix(out, m, n), (false, false))
    }

    fn choice(sizes: [usize; 3], out: DType, gpu: &GpuSpec) -> &'static str {
        let op: Op = product(sizes, out).into();
        variants::choose(&op, gpu).expect("a variant").name
    }

    #[test]
    fn tiles_follow_from_the_shape() {
        // GPT-2's layers over 4096 tokens.
        assert_eq!(choice([4096, 2304, 768], DType::BF16, &GpuSpec::H100), "wgmma128");
        assert_eq!(choice([4096, 768, 3072], DType::BF16, &GpuSpec::H100), "wgmma256");
        assert_eq!(choice([4096, 2304, 768], DType::BF16, &GpuSpec::A100), "mma128");
        // The copy engine wants rows that begin at multiples of 16 bytes.
        assert_eq!(choice([4096, 2304, 765], DType::BF16, &GpuSpec::H100), "naive");
    }

    #[test]
    fn parts_are_whole_and_few() {
        for sizes in [[768, 768, 4096], [768, 3072, 4096], [1, 1, 100_000], [300, 200, 8192], [128, 128, 64]] {
            for tiles in [&WGMMA128, &WGMMA256, &BOXES64, &BOXES128, &BOXES192, &BOXES256, &PAIRS256] {
                let op = product(sizes, DType::F32);
                let (parts, depth, count) = (tiles.parts(&op), depth(&op), tiles.tiles(&op));
                assert!(parts >= 1 && (parts == 1 || parts * count <= 4 * 132), "{sizes:?}: {parts}");
                assert_eq!(depth.div_ceil(depth.div_ceil(parts)), parts, "{sizes:?}: none is empty");
                assert!(count.is_multiple_of(tiles.cluster), "{sizes:?}: {count}");
                let sums = parts * count * tiles.rows * tiles.width;
                assert_eq!(tiles.workspace(&op), if parts > 1 { 4 * (TICKETS + sums) } else { 0 });
            }
        }
        assert!(WGMMA128.parts(&product([768, 768, 4096], DType::F32)) > 1);
    }
}
