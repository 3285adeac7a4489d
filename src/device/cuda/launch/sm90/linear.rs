//! Launch code of bf16 matmuls by Hopper's `wgmma`: `kernels/sm90/linear.cu`.

use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::addresses::{Addresses, TICKETS};
use crate::device::cuda::launch::linear;
use crate::device::cuda::launch::sm80::linear::{aligned, begins_at};
use crate::device::cuda::launch::{Launch, TensorMap};
use crate::device::cuda::variants::matmul;
use crate::device::ops::{Epilogue, Linear};
use crate::tensor::{DType, Tensor};

/// Elements of K per pipeline stage.
const DEPTH: usize = 64;
/// Rows of a TMA box of outputs.
const BOX: usize = 64;
/// Dynamic shared memory in bytes. All kernels get what the largest tile needs: four stages of 128 x 256, then output
/// buffers.
const SHARED: usize = 4 * (128 + 256) * DEPTH * 2 + 8 * 16 * 64 * 4;

/// Returns whether the variants `wgmma...` support the operation: a single matmul whose `a` and `b` TMA can load.
pub fn supports(op: &Linear) -> bool {
    op.batch == 1 && aligned(op)
}

/// Returns whether the variants that store outputs by TMA support the operation. Rows that TMA stores must be aligned
/// to 16 bytes. A bf16 output may have epilogue operands, which are read in pairs, so their rows must start at even
/// elements. An f32 output must have no epilogue, bias or residual.
pub fn supports_boxes(op: &Linear) -> bool {
    let (whole, pairs) = (|t: &Tensor| begins_at(t, 16 / t.dtype().bytes()), |t: &Tensor| begins_at(t, 2));
    let epilogue = match &op.epilogue {
        Epilogue::None => true,
        Epilogue::Activate { pre, .. } => pre.as_ref().is_none_or(whole),
        Epilogue::ActivateGrad { pre, value, .. } => pairs(pre) && value.as_ref().is_none_or(whole),
    };
    let read = [&op.bias, &op.residual].into_iter().flatten().all(pairs);
    let alone = op.bias.is_none() && op.epilogue == Epilogue::None && op.residual.is_none();
    supports(op) && (op.out.dtype() == DType::BF16 || alone) && whole(&op.out) && epilogue && read
}

/// The tile shape and time model of a variant.
///
/// The efficiencies follow from times on an H100 (docs/benchmarks.md): 0.40 us per 128 x 128 x 64 of `wgmma_128x128`, and
/// 0.61 to 0.76 us per 128 x 256 x 64, twice as much, of `wgmma_128x256`.
pub struct Tiles {
    /// Rows of a tile.
    rows: usize,
    /// Columns of a tile.
    width: usize,
    /// Blocks per cluster. The tiles of a cluster are stacked along the rows.
    cluster: usize,
    /// Kernel names: nn, nt, tn, tt by the transposes of `a` and `b`, with bf16 outputs, then the same with f32
    /// outputs.
    pub kernels: &'static [&'static str; 8],
    /// Whether outputs are stored by TMA.
    tma_store: bool,
    /// The fraction of an SM's peak tensor-core rate that is reached while a tile is multiplied.
    efficiency: f64,
    /// Seconds after each tile in which the tensor cores idle.
    idle: f64,
}

/// Variant `wgmma_128x128`: tiles of 128 x 128, each computed by one of the two consumer warpgroups, which alternate.
pub const WGMMA_128X128: Tiles = Tiles {
    rows: 128,
    width: 128,
    cluster: 1,
    kernels: &matmul!("wgmma_128x128"),
    tma_store: false,
    efficiency: 0.7,
    idle: 1.3e-6,
};

/// Variant `wgmma_128x256`: tiles of 128 x 256, each computed by both consumer warpgroups.
pub const WGMMA_128X256: Tiles =
    Tiles { width: 256, kernels: &matmul!("wgmma_128x256"), efficiency: 0.86, idle: 4.4e-6, ..WGMMA_128X128 };

/// Variant `tma_store_128x128`: `wgmma_128x128` with outputs stored by TMA, as in all variants below. Its time model is that of
/// `wgmma_128x128`.
pub const TMA_STORE_128X128: Tiles = Tiles { kernels: &matmul!("tma_store_128x128"), tma_store: true, ..WGMMA_128X128 };

/// Variant `tma_store_64x256`: `tma_store_128x128` with tiles of 64 x 256.
pub const TMA_STORE_64X256: Tiles =
    Tiles { rows: 64, width: 256, kernels: &matmul!("tma_store_64x256"), ..TMA_STORE_128X128 };

/// Variant `tma_store_128x256`: `wgmma_128x256` with outputs stored by TMA.
pub const TMA_STORE_128X256: Tiles = Tiles { kernels: &matmul!("tma_store_128x256"), tma_store: true, ..WGMMA_128X256 };

/// Variant `tma_store_128x192`: `tma_store_128x256` with tiles of 128 x 192.
pub const TMA_STORE_128X192: Tiles = Tiles { width: 192, kernels: &matmul!("tma_store_128x192"), ..TMA_STORE_128X256 };

/// Variant `cluster2_128x256`: `tma_store_128x256` in clusters of two blocks. Each block loads half of the columns of `b` for both, by
/// TMA multicast.
pub const CLUSTER2_128X256: Tiles = Tiles { cluster: 2, kernels: &matmul!("cluster2_128x256"), ..TMA_STORE_128X256 };

impl Tiles {
    /// Appends the launch of a matmul: persistent blocks, one per SM, in whole clusters.
    pub fn launch(&self, op: &Linear, addresses: &Addresses, out: &mut Vec<Launch>) {
        let (parts, depth) = (self.parts(op), depth(op));
        let blocks = (self.tiles(op) * parts).min((addresses.sms / self.cluster).max(1) * self.cluster);
        let wide = usize::from(op.out.dtype() == DType::F32);
        let kernel = self.kernels[4 * wide + 2 * usize::from(op.ta) + usize::from(op.tb)];
        let launch = Launch::new(kernel, blocks, 384).shared(SHARED);
        // Boxes hold `DEPTH` rows where K is along the rows of the matrix, else all rows of the tile that the block
        // loads.
        let factor = |t, across, rows| map(t, addresses, if across { DEPTH } else { rows });
        let mut launch =
            launch.map(factor(&op.a, op.ta, self.rows)).map(factor(&op.b, !op.tb, self.width / self.cluster));
        if self.tma_store {
            // What the epilogue saves besides the output: the pre-activation, or the recomputed activation.
            let saved = match &op.epilogue {
                Epilogue::None => None,
                Epilogue::Activate { pre, .. } => pre.as_ref(),
                Epilogue::ActivateGrad { value, .. } => value.as_ref(),
            };
            launch = launch.map(map(&op.out, addresses, BOX)).map(map(saved.unwrap_or(&op.out), addresses, BOX));
        }
        let workspace = if parts > 1 { addresses.workspace() } else { 0 };
        out.push(
            linear::epilogue_parameters(launch, op, addresses).int(depth.div_ceil(parts)).int(parts).ptr(workspace),
        );
    }

    /// Returns the number of tiles. All tiles of a cluster count, even those beyond the last row.
    fn tiles(&self, op: &Linear) -> usize {
        let (m, n, _) = op.sizes();
        m.div_ceil(self.rows * self.cluster) * self.cluster * n.div_ceil(self.width)
    }

    /// Returns the workspace in bytes: the ticket counters, then the f32 sums of every part of every tile; 0 if K is
    /// not cut.
    pub fn workspace(&self, op: &Linear) -> usize {
        match self.parts(op) {
            1 => 0,
            parts => 4 * (TICKETS + parts * self.tiles(op) * self.rows * self.width),
        }
    }

    /// Returns the number of parts that K is cut into: the one with the shortest predicted time on an H100, whichever
    /// GPU runs it, because the order of summation follows from it. Parts have at least eight stages on average, and
    /// the parts of all tiles are at most four per SM of an H100.
    fn parts(&self, op: &Linear) -> usize {
        let (tiles, depth, gpu) = (self.tiles(op), depth(op), &GpuSpec::H100);
        let most = (depth / 8).min(4 * gpu.sms / tiles.max(1)).min(32);
        let all = (1..=most).filter(|&parts| depth.div_ceil(depth.div_ceil(parts)) == parts);
        let seconds = |parts: &usize| self.matmul_seconds(op, *parts, gpu);
        all.min_by(|a, b| seconds(a).total_cmp(&seconds(b))).unwrap_or(1)
    }

    /// Returns the predicted seconds of the matmul with K cut into `parts`, including their reduction: 2 us until the
    /// first stages have arrived, then the tiles of the SM with the most of them, each at `efficiency` of an SM's peak
    /// rate plus `idle`.
    fn matmul_seconds(&self, op: &Linear, parts: usize, gpu: &GpuSpec) -> f64 {
        // Seconds until the first stages have arrived.
        const FILL: f64 = 2e-6;
        let rounds = (self.tiles(op) * parts).div_ceil(gpu.sms) as f64;
        let flops = (2 * self.rows * self.width * DEPTH * depth(op).div_ceil(parts)) as f64;
        let tile = flops / (self.efficiency * gpu.tensor / gpu.sms as f64) + self.idle;
        FILL + rounds * tile + self.reduction_seconds(op, parts, gpu)
    }

    /// Returns the predicted seconds in which the sums of all parts are written and the last one to finish each tile
    /// reads them back, 0 without parts. It assumes that they stay in L2, at three times the bandwidth of device
    /// memory, shared equally by all SMs, and a latency of 2 us.
    fn reduction_seconds(&self, op: &Linear, parts: usize, gpu: &GpuSpec) -> f64 {
        if parts < 2 {
            return 0.0;
        }
        let (tile, cache) = ((4 * self.rows * self.width) as f64, 3.0 * gpu.bandwidth);
        let tiles = self.tiles(op);
        let read = (tiles.div_ceil(gpu.sms) * parts * gpu.sms) as f64;
        2e-6 + ((tiles * parts) as f64 + read) * tile / cache
    }

    /// Returns the predicted seconds: a launch gap, then the longer of the matmul and the memory traffic of all
    /// operands.
    pub fn seconds(&self, op: &Linear, gpu: &GpuSpec) -> f64 {
        let bytes = |t: &Tensor| t.bytes() as f64;
        // Bytes of the saved or read pre-activation and the recomputed activation.
        let saved = match &op.epilogue {
            Epilogue::None => 0.0,
            Epilogue::Activate { pre, .. } => pre.as_ref().map_or(0.0, bytes),
            Epilogue::ActivateGrad { pre, value, .. } => bytes(pre) + value.as_ref().map_or(0.0, bytes),
        };
        let writes = if op.accumulate { 2.0 } else { 1.0 };
        let epilogue = writes * bytes(&op.out) + op.residual.as_ref().map_or(0.0, bytes) + saved;
        let traffic = (bytes(&op.a) + bytes(&op.b) + epilogue) / gpu.bandwidth;
        gpu.launch + self.matmul_seconds(op, self.parts(op), gpu).max(traffic)
    }
}

/// Returns the number of pipeline stages along K.
fn depth(op: &Linear) -> usize {
    op.sizes().2.div_ceil(DEPTH)
}

/// Builds the TMA descriptor of a matrix in boxes of `rows` rows x 128 bytes.
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
        assert_eq!(choice([4096, 2304, 768], DType::BF16, &GpuSpec::H100), "wgmma_128x128");
        assert_eq!(choice([4096, 768, 3072], DType::BF16, &GpuSpec::H100), "wgmma_128x256");
        assert_eq!(choice([4096, 2304, 768], DType::BF16, &GpuSpec::A100), "mma_128x128");
        // TMA needs rows that are aligned to 16 bytes.
        assert_eq!(choice([4096, 2304, 765], DType::BF16, &GpuSpec::H100), "naive");
    }

    #[test]
    fn parts_are_whole_and_few() {
        for sizes in [[768, 768, 4096], [768, 3072, 4096], [1, 1, 100_000], [300, 200, 8192], [128, 128, 64]] {
            for tiles in [
                &WGMMA_128X128,
                &WGMMA_128X256,
                &TMA_STORE_64X256,
                &TMA_STORE_128X128,
                &TMA_STORE_128X192,
                &TMA_STORE_128X256,
                &CLUSTER2_128X256,
            ] {
                let op = product(sizes, DType::F32);
                let (parts, depth, count) = (tiles.parts(&op), depth(&op), tiles.tiles(&op));
                assert!(parts >= 1 && (parts == 1 || parts * count <= 4 * 132), "{sizes:?}: {parts}");
                assert_eq!(depth.div_ceil(depth.div_ceil(parts)), parts, "{sizes:?}: none is empty");
                assert!(count.is_multiple_of(tiles.cluster), "{sizes:?}: {count}");
                let sums = parts * count * tiles.rows * tiles.width;
                assert_eq!(tiles.workspace(&op), if parts > 1 { 4 * (TICKETS + sums) } else { 0 });
            }
        }
        assert!(WGMMA_128X128.parts(&product([768, 768, 4096], DType::F32)) > 1);
    }
}
