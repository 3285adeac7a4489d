//! `multilevel`.

use super::Launch;
use super::addresses::Addresses;
use super::elements::begin_at;
use crate::device::cuda::gpu_spec::GpuSpec;
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

fn seconds(op: &Multilevel, gpu: &GpuSpec, part: f64) -> f64 {
    gpu.memory(Op::from(*op).cost().bytes, part, 1)
}

pub fn seconds_naive(op: &Multilevel, gpu: &GpuSpec) -> f64 {
    seconds(op, gpu, NAIVE)
}

pub fn seconds_row(op: &Multilevel, gpu: &GpuSpec) -> f64 {
    seconds(op, gpu, ROW)
}

pub fn seconds_vector(op: &Multilevel, gpu: &GpuSpec) -> f64 {
    seconds(op, gpu, VECTOR)
}

/// One element after the other.
pub fn naive(op: &Multilevel, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(launch("multilevel_naive_f32", op, addresses));
}

/// One row after the other, whose source rows a block lists once.
pub fn row(op: &Multilevel, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(launch("multilevel_row_f32", op, addresses));
}

/// Arenas begin at multiples of 16 bytes, their offsets and those of a tile's end fit 32 bits, and tiles of so many
/// parameters are counted in shared memory. Whether maps are runs is in device memory: the kernel looks at each tile.
pub fn counts_tiles(op: &Multilevel) -> bool {
    let fits = |t: &Tensor| begin_at(t, 4) && t.numel() < u32::MAX as usize - WIDE;
    op.items.rows() <= ITEMS && [Some(op.src), Some(op.dst), op.base].iter().flatten().all(fits)
}

/// Tiles of all parameters, dealt out to blocks that stay.
pub fn vector(op: &Multilevel, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = if op.base.is_some() { "multilevel_vector_base_f32" } else { "multilevel_vector_f32" };
    let blocks = if op.items.rows() == 0 { 0 } else { STAY * addresses.sms };
    out.push(operands(Launch::new(kernel, blocks, THREADS), op, addresses).word(op.items.rows() as u32));
}

/// A row of blocks for each parameter, which stride over its rows. Its size is known on the device alone: the mean has
/// to do, and blocks beyond the rows of a small parameter end at once.
fn launch(kernel: &'static str, op: &Multilevel, addresses: &Addresses) -> Launch {
    let items = op.items.rows();
    let mean = op.dst.numel().checked_div(items).unwrap_or(0);
    let launch = Launch::new(kernel, 1, THREADS).grid(mean.div_ceil(4 * THREADS as usize).clamp(1, 256), items, 1);
    operands(launch, op, addresses)
}

fn operands(launch: Launch, op: &Multilevel, addresses: &Addresses) -> Launch {
    launch
        .ptr(addresses.ptr(&op.src))
        .ptr(addresses.ptr(&op.dst))
        .ptr(addresses.maybe(&op.base))
        .ptr(addresses.ptr(&op.items))
        .ptr(addresses.ptr(&op.index))
        .ptr(addresses.ptr(&op.weight))
        .float(1.0 - op.alpha)
        .float(op.alpha)
}
