//! `column_sum`.

use super::Launch;
use super::addresses::{Addresses, TICKETS};
use super::elements::{each, typed, whole};
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::ops::ColumnSum;

/// A thread for each column.
pub fn naive(op: &ColumnSum, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = typed(&op.x, "column_sum_naive_f32", "column_sum_naive_bf16");
    out.push(operands(Launch::new(kernel, op.x.width().div_ceil(128), 128), op, addresses));
}

/// A block for every 32 columns.
pub fn tiled(op: &ColumnSum, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = typed(&op.x, "column_sum_tiled_f32", "column_sum_tiled_bf16");
    out.push(operands(Launch::new(kernel, op.x.width().div_ceil(32), 32).block(32, 32), op, addresses));
}

/// The part of a GPU's multiprocessors that [`tiled`] has blocks for.
pub fn occupied(op: &ColumnSum, gpu: &GpuSpec) -> f64 {
    (op.x.width().div_ceil(32) as f64 / gpu.sms as f64).min(1.0)
}

fn operands(launch: Launch, op: &ColumnSum, addresses: &Addresses) -> Launch {
    launch
        .ptr(addresses.ptr(&op.x))
        .ptr(addresses.ptr(&op.out))
        .int(op.x.rows())
        .int(op.x.width())
        .int(op.x.pitch())
        .flag(op.accumulate)
}

pub fn is_whole(op: &ColumnSum) -> bool {
    whole(&op.x)
}

/// Blocks along columns, blocks of rows, rows of a block: some 500 blocks of at least 64 rows, eight for each warp, for
/// any GPU.
fn blocks(op: &ColumnSum) -> (usize, usize, usize) {
    let columns = op.x.width().div_ceil(32 * each(&op.x));
    let block = op.x.rows().div_ceil((512 / columns.max(1)).max(1)).max(64);
    (columns, op.x.rows().div_ceil(block), block)
}

/// The partial sums.
pub fn workspace(op: &ColumnSum) -> usize {
    4 * (TICKETS + blocks(op).1 * op.x.width())
}

/// Blocks of rows leave partial sums, then as [`tiled`].
pub fn vector(op: &ColumnSum, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (columns, rows, block) = blocks(op);
    let partials = addresses.workspace() + 4 * TICKETS as u64;
    out.push(
        Launch::new(typed(&op.x, "column_sum_vector_f32", "column_sum_vector_bf16"), 1, 256)
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
