//! Launch code of `multilevel`: `kernels/multilevel.cu`.

use super::Launch;
use super::addresses::Addresses;
use super::elements::rows_aligned;
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::ops::{Multilevel, Op};
use crate::tensor::Tensor;

const THREADS: u32 = 256;
/// Columns of a tile, as in `kernels/multilevel.cu`.
const WIDE: usize = 128;
/// The maximum number of parameters for which [`vector`] can count tiles in shared memory.
const ITEMS: usize = 1024;
/// Persistent blocks per SM.
const BLOCKS_PER_SM: usize = 3;

/// Fractions of the peak bandwidth that the variants reach. `ROW` was measured on an H100: the mean of 0.25 (coalesce
/// GPT-Base) and 0.19 (de-coalesce and interpolate) of the data sheet's bandwidth. `NAIVE` and `VECTOR` are assumed.
const NAIVE: f64 = 0.1;
const ROW: f64 = 0.22;
const VECTOR: f64 = 0.75;

/// Returns the predicted seconds at the fraction `efficiency` of the peak bandwidth.
fn seconds(op: &Multilevel, gpu: &GpuSpec, efficiency: f64) -> f64 {
    gpu.memory(Op::from(*op).cost().bytes, efficiency, 1)
}

/// Returns the predicted seconds of [`naive`].
pub fn seconds_naive(op: &Multilevel, gpu: &GpuSpec) -> f64 {
    seconds(op, gpu, NAIVE)
}

/// Returns the predicted seconds of [`row`].
pub fn seconds_row(op: &Multilevel, gpu: &GpuSpec) -> f64 {
    seconds(op, gpu, ROW)
}

/// Returns the predicted seconds of [`vector`].
pub fn seconds_vector(op: &Multilevel, gpu: &GpuSpec) -> f64 {
    seconds(op, gpu, VECTOR)
}

/// Variant `naive`: one element of the destination after the other.
pub fn naive(op: &Multilevel, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(launch("multilevel_naive_f32", op, addresses));
}

/// Variant `row`: one row of the destination after the other. The block lists the source rows once per row.
pub fn row(op: &Multilevel, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(launch("multilevel_block_per_row_f32", op, addresses));
}

/// Returns whether `vector` supports the operation: arenas are aligned to 16 bytes, the offsets of their elements and
/// of a tile's end fit 32 bits, and there are few enough parameters to count their tiles in shared memory. Whether maps
/// are runs is known in device memory only, so the kernel checks it for each tile.
pub fn counts_tiles(op: &Multilevel) -> bool {
    let fits = |t: &Tensor| rows_aligned(t, 4) && t.numel() < u32::MAX as usize - WIDE;
    op.items.rows() <= ITEMS && [Some(op.src), Some(op.dst), op.base].iter().flatten().all(fits)
}

/// Variant `vector`: persistent blocks share out the tiles of all parameters.
pub fn vector(op: &Multilevel, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = if op.base.is_some() { "multilevel_vec16_base_f32" } else { "multilevel_vec16_f32" };
    let blocks = if op.items.rows() == 0 { 0 } else { BLOCKS_PER_SM * addresses.sms };
    out.push(operands(Launch::new(kernel, blocks, THREADS), op, addresses).word(op.items.rows() as u32));
}

/// Builds a launch with blocks along x that loop over the rows of a parameter, and one parameter per blockIdx.y. The
/// sizes of single parameters are known on the device only, so the mean size determines the number of blocks; surplus
/// blocks of a small parameter exit at once.
fn launch(kernel: &'static str, op: &Multilevel, addresses: &Addresses) -> Launch {
    let items = op.items.rows();
    let mean = op.dst.numel().checked_div(items).unwrap_or(0);
    let launch = Launch::new(kernel, 1, THREADS).grid(mean.div_ceil(4 * THREADS as usize).clamp(1, 256), items, 1);
    operands(launch, op, addresses)
}

/// Appends the parameters that all kernels take.
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
