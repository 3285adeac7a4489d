//! `multilevel`.

use super::Launch;
use super::addresses::Places;
use super::elements::begin_at;
use crate::device::cuda::gpu_spec::Chip;
use crate::device::ops::{Multilevel, Op};
use crate::tensor::Tensor;

const THREADS: u32 = 256;
/// Columns of a tile: as in `kernels/multilevel.cu`.
const WIDE: usize = 128;
/// Most parameters that [`vector`] counts the tiles of.
const ITEMS: usize = 1024;
/// Blocks of a multiprocessor that stay.
const STAY: usize = 3;

/// Parts of the bandwidth: of `row` measured on an H100, the mean of 0.25 (coalesce GPT-Base) and 0.19 (de-coalesce and
/// interpolate) of its data sheet's; of `naive` and `vector` assumed.
const NAIVE: f64 = 0.1;
const ROW: f64 = 0.22;
const VECTOR: f64 = 0.75;

fn seconds(op: &Multilevel, chip: &Chip, part: f64) -> f64 {
    chip.memory(Op::from(*op).cost().bytes, part, 1)
}

pub fn seconds_naive(op: &Multilevel, chip: &Chip) -> f64 {
    seconds(op, chip, NAIVE)
}

pub fn seconds_row(op: &Multilevel, chip: &Chip) -> f64 {
    seconds(op, chip, ROW)
}

pub fn seconds_vector(op: &Multilevel, chip: &Chip) -> f64 {
    seconds(op, chip, VECTOR)
}

/// One element after the other.
pub fn naive(op: &Multilevel, places: &Places, out: &mut Vec<Launch>) {
    out.push(launch("multilevel_naive_f32", op, places));
}

/// One row after the other, whose source rows a block lists once.
pub fn row(op: &Multilevel, places: &Places, out: &mut Vec<Launch>) {
    out.push(launch("multilevel_row_f32", op, places));
}

/// Arenas begin at multiples of 16 bytes, their offsets and those of a tile's end fit 32 bits, and tiles of so many
/// parameters are counted in shared memory. Whether maps are runs is in device memory: the kernel looks at each tile.
pub fn counts_tiles(op: &Multilevel) -> bool {
    let fits = |t: &Tensor| begin_at(t, 4) && t.numel() < u32::MAX as usize - WIDE;
    op.items.rows() <= ITEMS && [Some(op.src), Some(op.dst), op.base].iter().flatten().all(fits)
}

/// Tiles of all parameters, dealt out to blocks that stay.
pub fn vector(op: &Multilevel, places: &Places, out: &mut Vec<Launch>) {
    let kernel = if op.base.is_some() { "multilevel_vector_base_f32" } else { "multilevel_vector_f32" };
    let blocks = if op.items.rows() == 0 { 0 } else { STAY * places.sms };
    out.push(operands(Launch::new(kernel, blocks, THREADS), op, places).word(op.items.rows() as u32));
}

/// A row of blocks for each parameter, which stride over its rows. Its size is known on the device alone: the mean has
/// to do, and blocks beyond the rows of a small parameter end at once.
fn launch(kernel: &'static str, op: &Multilevel, places: &Places) -> Launch {
    let items = op.items.rows();
    let mean = op.dst.numel().checked_div(items).unwrap_or(0);
    let launch = Launch::new(kernel, 1, THREADS).grid(mean.div_ceil(4 * THREADS as usize).clamp(1, 256), items, 1);
    operands(launch, op, places)
}

fn operands(launch: Launch, op: &Multilevel, places: &Places) -> Launch {
    launch
        .ptr(places.ptr(&op.src))
        .ptr(places.ptr(&op.dst))
        .ptr(places.maybe(&op.base))
        .ptr(places.ptr(&op.items))
        .ptr(places.ptr(&op.index))
        .ptr(places.ptr(&op.weight))
        .float(1.0 - op.alpha)
        .float(op.alpha)
}
