//! `layernorm` and its backward.

use super::launch::Launch;
use super::places::Places;
use crate::device::ops::{LayerNorm, LayerNormBackward};

const COLUMN_THREADS: u32 = 128;
/// Of a block that asks for no more than every GPU gives.
const SHARED_BYTES: usize = 48 * 1024;

/// A thread for each row.
pub fn naive(op: &LayerNorm, places: &Places, out: &mut Vec<Launch>) {
    out.push(forward(Launch::new("layernorm_naive_f32", op.x.rows().div_ceil(64), 64), op, places));
}

/// A warp for each row.
pub fn warp(op: &LayerNorm, places: &Places, out: &mut Vec<Launch>) {
    out.push(forward(Launch::new("layernorm_warp_f32", op.x.rows().div_ceil(4), 4 * 32), op, places));
}

fn forward(launch: Launch, op: &LayerNorm, places: &Places) -> Launch {
    launch
        .ptr(places.ptr(&op.x))
        .ptr(places.maybe(&op.residual))
        .ptr(places.maybe(&op.sum))
        .ptr(places.ptr(&op.weight))
        .ptr(places.ptr(&op.bias))
        .ptr(places.ptr(&op.out))
        .ptr(places.ptr(&op.mean))
        .ptr(places.ptr(&op.rstd))
        .int(op.x.rows())
        .int(op.x.width)
        .int(op.x.pitch)
        .int(op.residual.map_or(0, |t| t.pitch))
        .int(op.sum.map_or(0, |t| t.pitch))
        .int(op.out.pitch)
        .float(op.eps)
}

/// Rows of a partial sum.
fn block(op: &LayerNormBackward) -> usize {
    op.x.rows().div_ceil(op.partials.rows().max(1))
}

/// What `dx` is made of, and `dx`.
fn rows_of(op: &LayerNormBackward, places: &Places, launch: Launch) -> Launch {
    [&op.dout, &op.x, &op.weight, &op.mean, &op.rstd, &op.dx].into_iter().fold(launch, |l, t| l.ptr(places.ptr(t)))
}

/// A thread for each row of `dx`, one for each partial sum.
pub fn backward_naive(op: &LayerNormBackward, places: &Places, out: &mut Vec<Launch>) {
    let (rows, width) = (op.x.rows(), op.x.width);
    out.push(
        rows_of(op, places, Launch::new("layernorm_dx_naive_f32", rows.div_ceil(64), 64))
            .int(rows)
            .int(width)
            .int(op.dout.pitch)
            .int(op.x.pitch)
            .int(op.dx.pitch)
            .flag(op.accumulate_dx),
    );
    out.push(
        Launch::new("layernorm_partials_naive_f32", 1, COLUMN_THREADS)
            .grid(op.partials.rows(), width.div_ceil(COLUMN_THREADS as usize), 1)
            .ptr(places.ptr(&op.dout))
            .ptr(places.ptr(&op.x))
            .ptr(places.ptr(&op.mean))
            .ptr(places.ptr(&op.rstd))
            .ptr(places.ptr(&op.partials))
            .int(rows)
            .int(width)
            .int(block(op))
            .int(op.dout.pitch)
            .int(op.x.pitch),
    );
    finish(op, places, out);
}

/// Bytes of shared memory for the column sums of a block.
fn shared(op: &LayerNormBackward) -> usize {
    2 * op.x.width * size_of::<f32>()
}

/// Whether the column sums of a block fit into its shared memory.
pub fn fits_shared(op: &LayerNormBackward) -> bool {
    shared(op) <= SHARED_BYTES
}

/// A block of 32 warps for each partial sum.
pub fn backward_warp(op: &LayerNormBackward, places: &Places, out: &mut Vec<Launch>) {
    out.push(
        rows_of(op, places, Launch::new("layernorm_backward_warp_f32", op.partials.rows(), 32 * 32))
            .shared(shared(op))
            .ptr(places.ptr(&op.partials))
            .int(op.x.rows())
            .int(op.x.width)
            .int(block(op))
            .int(op.dout.pitch)
            .int(op.x.pitch)
            .int(op.dx.pitch)
            .flag(op.accumulate_dx),
    );
    finish(op, places, out);
}

fn finish(op: &LayerNormBackward, places: &Places, out: &mut Vec<Launch>) {
    out.push(
        Launch::new("layernorm_finish_f32", op.x.width.div_ceil(COLUMN_THREADS as usize), COLUMN_THREADS)
            .ptr(places.ptr(&op.partials))
            .ptr(places.ptr(&op.dweight))
            .ptr(places.ptr(&op.dbias))
            .int(op.partials.rows())
            .int(op.x.width)
            .flag(op.accumulate),
    );
}
