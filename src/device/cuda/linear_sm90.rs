//! Matrix products in bf16 by Hopper's warpgroups: `kernels/linear_sm90.cu`.

use super::chip::Chip;
use super::launch::{Launch, TensorMap};
use super::linear;
use super::linear_sm80::{aligned, begins_at};
use super::places::{Places, TICKETS};
use crate::device::ops::{Epilogue, Linear};
use crate::tensor::{DType, Tensor};

/// Steps of K in a stage.
const DEPTH: usize = 64;
/// Rows of a tile.
const ROWS: usize = 128;
/// Rows of a box of outputs.
const BOX: usize = 64;
/// Sums of a warpgroup.
const UNIT: usize = 128 * 128;
/// Stages and outputs on their way, of both kernels alike.
const SHARED: usize = 4 * (ROWS + 256) * DEPTH * 2 + 8 * 16 * 64 * 4;

/// One product, whose factors the copy engine can read.
pub fn supports(op: &Linear) -> bool {
    op.batch == 1 && aligned(op)
}

/// Tiles of 128 x 128, each of one warpgroup.
pub fn wgmma128(op: &Linear, places: &Places, out: &mut Vec<Launch>) {
    out.push(WGMMA128.launch(op, places));
}

/// Tiles of 128 x 256, of two.
pub fn wgmma256(op: &Linear, places: &Places, out: &mut Vec<Launch>) {
    out.push(WGMMA256.launch(op, places));
}

/// As `wgmma256`, where the copy engine writes what the product makes.
pub fn boxes256(op: &Linear, places: &Places, out: &mut Vec<Launch>) {
    out.push(BOXES256.launch(op, places));
}

/// Outputs that the copy engine can write: in bf16, all that is read beside them in pairs, or in f32, with nothing beside them.
pub fn supports_boxes(op: &Linear) -> bool {
    let (whole, pairs) = (|t: &Tensor| begins_at(t, 16 / t.dtype.bytes()), |t: &Tensor| begins_at(t, 2));
    let around = match &op.epilogue {
        Epilogue::None => true,
        Epilogue::Activate { pre, .. } => pre.as_ref().is_none_or(whole),
        Epilogue::ActivateGrad { pre, value, .. } => pairs(pre) && value.as_ref().is_none_or(whole),
    };
    let read = [&op.bias, &op.residual].into_iter().flatten().all(pairs);
    let alone = op.bias.is_none() && op.epilogue == Epilogue::None && op.residual.is_none();
    supports(op) && (op.out.dtype == DType::BF16 || alone) && whole(&op.out) && around && read
}

/// Bytes of scratch memory of `wgmma128`.
pub fn workspace_wgmma128(op: &Linear) -> usize {
    WGMMA128.workspace(op)
}

/// Bytes of scratch memory of `wgmma256` and `boxes256`.
pub fn workspace_wgmma256(op: &Linear) -> usize {
    WGMMA256.workspace(op)
}

/// Seconds of `wgmma128`.
pub fn seconds_wgmma128(op: &Linear, chip: &Chip) -> f64 {
    WGMMA128.seconds(op, chip)
}

/// Seconds of `wgmma256`, and of `boxes256`: it should be faster, and nobody has measured it.
pub fn seconds_wgmma256(op: &Linear, chip: &Chip) -> f64 {
    WGMMA256.seconds(op, chip)
}

/// What a block of one kernel makes. Rates follow from the times of an H100 (docs/benchmarks.md): of `wgmma128` 0.40 us for 128 x 128
/// x 64, of `wgmma256` 0.61 to 0.76 us for twice as much.
struct Tiles {
    /// Columns of a tile.
    width: usize,
    /// By transposes of both factors; then with outputs in f32.
    kernels: &'static [[&'static str; 4]],
    /// The copy engine writes outputs.
    boxes: bool,
    /// Part of the tensor cores' rate that a multiprocessor reaches between begin and end of a tile.
    part: f64,
    /// Seconds after a tile in which they idle.
    idle: f64,
}

const WGMMA128: Tiles = Tiles {
    width: 128,
    boxes: false,
    kernels: &[
        ["linear_wgmma128_nn_bf16", "linear_wgmma128_nt_bf16", "linear_wgmma128_tn_bf16", "linear_wgmma128_tt_bf16"],
        [
            "linear_wgmma128_nn_bf16_f32",
            "linear_wgmma128_nt_bf16_f32",
            "linear_wgmma128_tn_bf16_f32",
            "linear_wgmma128_tt_bf16_f32",
        ],
    ],
    part: 0.7,
    idle: 1.3e-6,
};

const WGMMA256: Tiles = Tiles {
    width: 256,
    boxes: false,
    kernels: &[
        ["linear_wgmma256_nn_bf16", "linear_wgmma256_nt_bf16", "linear_wgmma256_tn_bf16", "linear_wgmma256_tt_bf16"],
        [
            "linear_wgmma256_nn_bf16_f32",
            "linear_wgmma256_nt_bf16_f32",
            "linear_wgmma256_tn_bf16_f32",
            "linear_wgmma256_tt_bf16_f32",
        ],
    ],
    part: 0.86,
    idle: 4.4e-6,
};

const BOXES256: Tiles = Tiles {
    kernels: &[
        ["linear_boxes256_nn_bf16", "linear_boxes256_nt_bf16", "linear_boxes256_tn_bf16", "linear_boxes256_tt_bf16"],
        [
            "linear_boxes256_nn_bf16_f32",
            "linear_boxes256_nt_bf16_f32",
            "linear_boxes256_tn_bf16_f32",
            "linear_boxes256_tt_bf16_f32",
        ],
    ],
    boxes: true,
    ..WGMMA256
};

impl Tiles {
    fn launch(&self, op: &Linear, places: &Places) -> Launch {
        let (parts, depth) = (self.parts(op), depth(op));
        let blocks = (self.tiles(op) * parts).min(places.sms);
        let kernel = self.kernels[usize::from(op.out.dtype == DType::F32)][2 * usize::from(op.ta) + usize::from(op.tb)];
        let launch = Launch::new(kernel, blocks, 384).shared(SHARED);
        let factor = |t, across, rows| map(t, places, if across { DEPTH } else { rows });
        let mut launch = launch.map(factor(&op.a, op.ta, ROWS)).map(factor(&op.b, !op.tb, self.width));
        if self.boxes {
            let kept = match &op.epilogue {
                Epilogue::None => None,
                Epilogue::Activate { pre, .. } => pre.as_ref(),
                Epilogue::ActivateGrad { value, .. } => value.as_ref(),
            };
            launch = launch.map(map(&op.out, places, BOX)).map(map(kept.unwrap_or(&op.out), places, BOX));
        }
        let workspace = if parts > 1 { places.workspace() } else { 0 };
        linear::surroundings(launch, op, places).int(depth.div_ceil(parts)).int(parts).ptr(workspace)
    }

    fn tiles(&self, op: &Linear) -> usize {
        let (m, n, _) = op.sizes();
        m.div_ceil(ROWS) * n.div_ceil(self.width)
    }

    fn workspace(&self, op: &Linear) -> usize {
        match self.parts(op) {
            1 => 0,
            parts => 4 * (TICKETS + parts * self.tiles(op) * (self.width / 128) * UNIT),
        }
    }

    /// In how many parts K is cut: those that take the least time on an H100, whatever runs it, since the order of sums
    /// follows. None has fewer than eight stages; all of them together fill the chip at most four times.
    fn parts(&self, op: &Linear) -> usize {
        let (tiles, depth, chip) = (self.tiles(op), depth(op), &Chip::H100);
        let most = (depth / 8).min(4 * chip.sms / tiles.max(1)).min(32);
        let all = (1..=most).filter(|&parts| depth.div_ceil(depth.div_ceil(parts)) == parts);
        let seconds = |parts: &usize| self.products(op, *parts, chip);
        all.min_by(|a, b| seconds(a).total_cmp(&seconds(b))).unwrap_or(1)
    }

    /// The products, and the sums of all parts: the multiprocessor with most tiles is the last.
    fn products(&self, op: &Linear, parts: usize, chip: &Chip) -> f64 {
        // Until the first stages are there.
        const FILL: f64 = 2e-6;
        let rounds = (self.tiles(op) * parts).div_ceil(chip.sms) as f64;
        let flops = (2 * ROWS * self.width * DEPTH * depth(op).div_ceil(parts)) as f64;
        let tile = flops / (self.part * chip.tensor / chip.sms as f64) + self.idle;
        FILL + rounds * tile + self.adding(op, parts, chip)
    }

    /// Sums of all parts written, and read by whoever comes last: through the second-level cache, of which a multiprocessor has
    /// three times its part of the memory's bandwidth.
    fn adding(&self, op: &Linear, parts: usize, chip: &Chip) -> f64 {
        if parts < 2 {
            return 0.0;
        }
        let (tile, cache) = ((4 * ROWS * self.width) as f64, 3.0 * chip.bandwidth);
        let tiles = self.tiles(op);
        let read = (tiles.div_ceil(chip.sms) * parts * chip.sms) as f64;
        2e-6 + ((tiles * parts) as f64 + read) * tile / cache
    }

    fn seconds(&self, op: &Linear, chip: &Chip) -> f64 {
        if !chip.hopper {
            return f64::INFINITY;
        }
        let bytes = |t: &Tensor| (t.numel() * t.dtype.bytes()) as f64;
        let kept = match &op.epilogue {
            Epilogue::None => 0.0,
            Epilogue::Activate { pre, .. } => pre.as_ref().map_or(0.0, bytes),
            Epilogue::ActivateGrad { pre, value, .. } => bytes(pre) + value.as_ref().map_or(0.0, bytes),
        };
        let writes = if op.accumulate { 2.0 } else { 1.0 };
        let around = writes * bytes(&op.out) + op.residual.as_ref().map_or(0.0, bytes) + kept;
        let all = (bytes(&op.a) + bytes(&op.b) + around) / chip.bandwidth;
        chip.launch + self.products(op, self.parts(op), chip).max(all)
    }
}

/// Stages along K.
fn depth(op: &Linear) -> usize {
    op.sizes().2.div_ceil(DEPTH)
}

/// A matrix in boxes of 128 bytes and so many rows: a factor of all rows of a tile where K lies along them, else of a stage's
/// steps of K.
fn map(t: &Tensor, places: &Places, rows: usize) -> TensorMap {
    // A single row may have any pitch.
    let pitch = if t.rows() < 2 { t.width.next_multiple_of(8) } else { t.pitch };
    let map = TensorMap::new(places.ptr(t), [t.rows(), t.width], pitch * t.dtype.bytes(), rows);
    if t.dtype == DType::F32 { map.of_floats() } else { map }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::variants;
    use crate::device::ops::Op;
    use crate::tensor::Place;

    fn product([m, n, k]: [usize; 3], out: DType) -> Linear {
        let matrix = |dtype, rows, columns| Tensor::new(Place::Arena(0), dtype, 0, &[rows, columns]);
        let (a, b) = (matrix(DType::BF16, m, k), matrix(DType::BF16, k, n));
        Linear::product(a, b, matrix(out, m, n), (false, false))
    }

    fn choice(sizes: [usize; 3], out: DType, chip: &Chip) -> &'static str {
        let op: Op = product(sizes, out).into();
        variants::choose(&op, chip).expect("a variant").name
    }

    #[test]
    fn tiles_follow_from_the_shape() {
        // GPT-2's layers over 4096 tokens.
        assert_eq!(choice([4096, 2304, 768], DType::BF16, &Chip::H100), "wgmma128");
        assert_eq!(choice([4096, 768, 3072], DType::BF16, &Chip::H100), "wgmma256");
        assert_eq!(choice([4096, 2304, 768], DType::BF16, &Chip::A100), "mma128");
        // The copy engine wants rows that begin at multiples of 16 bytes.
        assert_eq!(choice([4096, 2304, 765], DType::BF16, &Chip::H100), "naive");
    }

    #[test]
    fn parts_are_whole_and_few() {
        for sizes in [[768, 768, 4096], [768, 3072, 4096], [1, 1, 100_000], [300, 200, 8192], [128, 128, 64]] {
            for tiles in [&WGMMA128, &WGMMA256] {
                let op = product(sizes, DType::F32);
                let (parts, depth, count) = (tiles.parts(&op), depth(&op), tiles.tiles(&op));
                assert!(parts >= 1 && (parts == 1 || parts * count <= 4 * 132), "{sizes:?}: {parts}");
                assert_eq!(depth.div_ceil(depth.div_ceil(parts)), parts, "{sizes:?}: none is empty");
                let units = parts * count * tiles.width / 128;
                assert_eq!(tiles.workspace(&op), if parts > 1 { 4 * (TICKETS + units * UNIT) } else { 0 });
            }
        }
        assert!(WGMMA128.parts(&product([768, 768, 4096], DType::F32)) > 1);
    }
}
