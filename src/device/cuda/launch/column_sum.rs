//! Launch code of `column_sum`: `kernels/column_sum.cu`.

use super::Launch;
use super::addresses::{Addresses, TICKETS};
use super::elements::{typed, vector_len, whole};
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::ops::ColumnSum;

/// Variant `naive`: one thread per column.
pub fn naive(op: &ColumnSum, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = typed(&op.x, "column_sum_naive_f32", "column_sum_naive_bf16");
    out.push(operands(Launch::new(kernel, op.x.width().div_ceil(128), 128), op, addresses));
}

/// Variant `tiled`: one block of 32 x 32 threads per 32 columns.
pub fn tiled(op: &ColumnSum, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = typed(&op.x, "column_sum_tiled_f32", "column_sum_tiled_bf16");
    out.push(operands(Launch::new(kernel, op.x.width().div_ceil(32), 32).block(32, 32), op, addresses));
}

/// Returns the fraction of the GPU's SMs that get a block from [`tiled`], from 0 to 1. The time model scales its
/// efficiency by it.
pub fn occupied(op: &ColumnSum, gpu: &GpuSpec) -> f64 {
    (op.x.width().div_ceil(32) as f64 / gpu.sms as f64).min(1.0)
}

/// Appends the parameters of the kernels of `naive` and `tiled`.
fn operands(launch: Launch, op: &ColumnSum, addresses: &Addresses) -> Launch {
    launch
        .ptr(addresses.ptr(&op.x))
        .ptr(addresses.ptr(&op.out))
        .int(op.x.rows())
        .int(op.x.width())
        .int(op.x.pitch())
        .flag(op.accumulate)
}

/// Returns whether the rows of `x` consist of whole, aligned 16-byte vectors, as `vector` needs.
pub fn is_whole(op: &ColumnSum) -> bool {
    whole(&op.x)
}

/// Returns the grid of [`vector`]: blocks along the columns, blocks along the rows, rows per block. Aims at about 500
/// blocks of at least 64 rows (eight per warp) on any GPU, so that the order of summation depends on the shape alone.
fn blocks(op: &ColumnSum) -> (usize, usize, usize) {
    let columns = op.x.width().div_ceil(32 * vector_len(&op.x));
    let block = op.x.rows().div_ceil((512 / columns.max(1)).max(1)).max(64);
    (columns, op.x.rows().div_ceil(block), block)
}

/// Returns the workspace of [`vector`] in bytes: the ticket counters, then one row of f32 partial sums per block of
/// rows.
pub fn workspace(op: &ColumnSum) -> usize {
    4 * (TICKETS + blocks(op).1 * op.x.width())
}

/// Variant `vector`: blocks of rows write partial sums to the workspace, and the kernel of [`tiled`] adds them up.
pub fn vector(op: &ColumnSum, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (columns, rows, block) = blocks(op);
    let partials = addresses.workspace() + 4 * TICKETS as u64;
    out.push(
        Launch::new(typed(&op.x, "column_sum_vec16_f32", "column_sum_vec16_bf16"), 1, 256)
            .grid(columns, rows, 1)
            .ptr(addresses.ptr(&op.x))
            .ptr(partials)
            .int(op.x.rows())
            .int(op.x.width())
            .int(op.x.pitch())
            .int(block),
    );
    out.push(
        Launch::new("column_sum_tiled_f32", op.x.width().div_ceil(32), 32)
            .block(32, 32)
            .ptr(partials)
            .ptr(addresses.ptr(&op.out))
            .int(rows)
            .int(op.x.width())
            .int(op.x.width())
            .flag(op.accumulate),
    );
}
