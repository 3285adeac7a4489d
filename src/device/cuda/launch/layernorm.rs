//! Launch code of `layernorm` (`kernels/layernorm.cu`) and its backward pass (`kernels/layernorm_backward.cu`).

use super::Launch;
use super::addresses::{Addresses, TICKETS};
use super::elements::{typed, vector_len, whole};
use crate::device::ops::{LayerNorm, LayerNormBackward};

/// Threads per block of the kernels that have one thread per column.
const COLUMN_THREADS: u32 = 128;
/// The shared memory per block that every GPU grants without opting in, in bytes.
const SHARED_BYTES: usize = 48 * 1024;

/// Variant `naive`: one thread per row.
pub fn naive(op: &LayerNorm, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = typed(&op.x, "layernorm_naive_f32", "layernorm_naive_bf16");
    out.push(forward(Launch::new(kernel, op.x.rows().div_ceil(64), 64), op, addresses));
}

/// Variant `warp`: one warp per row.
pub fn warp(op: &LayerNorm, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = typed(&op.x, "layernorm_warp_f32", "layernorm_warp_bf16");
    out.push(forward(Launch::new(kernel, op.x.rows().div_ceil(4), 4 * 32), op, addresses));
}

/// Returns whether `vector` supports the operation: rows fit into registers (at most 8192 elements) and consist of
/// whole, aligned 16-byte vectors.
pub fn fits_registers(op: &LayerNorm) -> bool {
    let all = [Some(op.x), op.residual, op.sum, Some(op.weight), Some(op.bias), Some(op.out)];
    op.x.width() <= 8192 && all.iter().flatten().all(whole)
}

/// Variant `vector`: one warp or one block per row, which stays in registers.
pub fn vector(op: &LayerNorm, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (kernel, rows, threads) = match op.x.width() {
        0..=512 => (typed(&op.x, "layernorm_vec16_512_f32", "layernorm_vec16_512_bf16"), 4, 128),
        513..=1024 => (typed(&op.x, "layernorm_vec16_1024_f32", "layernorm_vec16_1024_bf16"), 4, 128),
        1025..=4096 => (typed(&op.x, "layernorm_vec16_4096_f32", "layernorm_vec16_4096_bf16"), 1, 128),
        _ => (typed(&op.x, "layernorm_vec16_8192_f32", "layernorm_vec16_8192_bf16"), 1, 256),
    };
    out.push(forward(Launch::new(kernel, op.x.rows().div_ceil(rows), threads), op, addresses));
}

/// Appends the parameters of the forward kernels.
fn forward(launch: Launch, op: &LayerNorm, addresses: &Addresses) -> Launch {
    launch
        .ptr(addresses.ptr(&op.x))
        .ptr(addresses.maybe(&op.residual))
        .ptr(addresses.maybe(&op.sum))
        .ptr(addresses.ptr(&op.weight))
        .ptr(addresses.ptr(&op.bias))
        .ptr(addresses.ptr(&op.out))
        .ptr(addresses.ptr(&op.mean))
        .ptr(addresses.ptr(&op.rstd))
        .int(op.x.rows())
        .int(op.x.width())
        .int(op.x.pitch())
        .int(op.residual.map_or(0, |t| t.pitch()))
        .int(op.sum.map_or(0, |t| t.pitch()))
        .int(op.out.pitch())
        .float(op.eps)
}

/// Returns the number of rows per partial sum of the operand `partials`.
fn block(op: &LayerNormBackward) -> usize {
    op.x.rows().div_ceil(op.partials.rows().max(1))
}

/// Appends the inputs of `dx`, then `dx` itself.
fn rows_of(op: &LayerNormBackward, addresses: &Addresses, launch: Launch) -> Launch {
    [&op.dout, &op.x, &op.weight, &op.mean, &op.rstd, &op.dx].into_iter().fold(launch, |l, t| l.ptr(addresses.ptr(t)))
}

/// Variant `naive` of the backward pass: one thread per row of `dx`, then one thread per column of each partial sum.
pub fn backward_naive(op: &LayerNormBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (rows, width) = (op.x.rows(), op.x.width());
    out.push(
        rows_of(
            op,
            addresses,
            Launch::new(typed(&op.x, "layernorm_dx_naive_f32", "layernorm_dx_naive_bf16"), rows.div_ceil(64), 64),
        )
        .int(rows)
        .int(width)
        .int(op.dout.pitch())
        .int(op.x.pitch())
        .int(op.dx.pitch())
        .flag(op.accumulate_dx),
    );
    out.push(
        Launch::new(typed(&op.x, "layernorm_partials_naive_f32", "layernorm_partials_naive_bf16"), 1, COLUMN_THREADS)
            .grid(op.partials.rows(), width.div_ceil(COLUMN_THREADS as usize), 1)
            .ptr(addresses.ptr(&op.dout))
            .ptr(addresses.ptr(&op.x))
            .ptr(addresses.ptr(&op.mean))
            .ptr(addresses.ptr(&op.rstd))
            .ptr(addresses.ptr(&op.partials))
            .int(rows)
            .int(width)
            .int(block(op))
            .int(op.dout.pitch())
            .int(op.x.pitch()),
    );
    finish(op, addresses, out);
}

/// Returns the bytes of shared memory for the two column sums of a block.
fn shared(op: &LayerNormBackward) -> usize {
    2 * op.x.width() * size_of::<f32>()
}

/// Returns whether the two column sums fit into the shared memory of a block, as `warp` needs.
pub fn fits_shared(op: &LayerNormBackward) -> bool {
    shared(op) <= SHARED_BYTES
}

/// Variant `warp` of the backward pass: one block of 32 warps per partial sum.
pub fn backward_warp(op: &LayerNormBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = typed(&op.x, "layernorm_backward_warp_f32", "layernorm_backward_warp_bf16");
    let launch = Launch::new(kernel, op.partials.rows(), 32 * 32).shared(shared(op));
    out.push(backward(launch, addresses.ptr(&op.partials), block(op), op, addresses));
    finish(op, addresses, out);
}

/// Appends the parameters of the kernels that compute `dx` and partial sums together: `block` rows each, stored at
/// `partials`.
fn backward(launch: Launch, partials: u64, block: usize, op: &LayerNormBackward, addresses: &Addresses) -> Launch {
    rows_of(op, addresses, launch)
        .ptr(partials)
        .int(op.x.rows())
        .int(op.x.width())
        .int(block)
        .int(op.dout.pitch())
        .int(op.x.pitch())
        .int(op.dx.pitch())
        .flag(op.accumulate_dx)
}

/// Returns whether `vector` supports the backward pass: rows consist of whole, aligned 16-byte vectors, at most 512 of
/// them, one per thread of a block.
pub fn fits_block(op: &LayerNormBackward) -> bool {
    op.x.width() <= 512 * vector_len(&op.x) && [op.dout, op.x, op.weight, op.dx].iter().all(whole)
}

/// Returns threads per block, number of blocks and rows per block of [`backward_vector`]. Aims at about 65,536 threads
/// (four blocks of 128 on each of 132 SMs) with at least 16 rows per block, so that the partial sums are at most an
/// eighth of what a block reads.
fn blocks(op: &LayerNormBackward) -> (usize, usize, usize) {
    let threads = (op.x.width() / vector_len(&op.x)).next_multiple_of(32).max(32);
    let rows = op.x.rows().div_ceil(65_536 / threads).max(16);
    (threads, op.x.rows().div_ceil(rows), rows)
}

/// Returns the workspace of [`backward_vector`] in bytes: the ticket counters, then more partial sums than the operand
/// `partials` has space for.
pub fn workspace(op: &LayerNormBackward) -> usize {
    4 * (TICKETS + blocks(op).1 * 2 * op.x.width())
}

/// Variant `vector` of the backward pass: one thread per vector of a row and one block per group of rows, then a launch
/// that adds up the partial sums.
pub fn backward_vector(op: &LayerNormBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (threads, count, rows) = blocks(op);
    let kernel = typed(&op.x, "layernorm_backward_vec16_f32", "layernorm_backward_vec16_bf16");
    let partials = addresses.workspace() + 4 * TICKETS as u64;
    out.push(backward(Launch::new(kernel, count, threads as u32), partials, rows, op, addresses));
    out.push(
        Launch::new("layernorm_finish_tiled_f32", (2 * op.x.width()).div_ceil(32), 32)
            .block(32, 32)
            .ptr(partials)
            .ptr(addresses.ptr(&op.dweight))
            .ptr(addresses.ptr(&op.dbias))
            .int(count)
            .int(op.x.width())
            .flag(op.accumulate),
    );
}

/// Pushes the launch that adds up the partial sums of the operand `partials`: one thread per column.
fn finish(op: &LayerNormBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(
        Launch::new("layernorm_finish_f32", op.x.width().div_ceil(COLUMN_THREADS as usize), COLUMN_THREADS)
            .ptr(addresses.ptr(&op.partials))
            .ptr(addresses.ptr(&op.dweight))
            .ptr(addresses.ptr(&op.dbias))
            .int(op.partials.rows())
            .int(op.x.width())
            .flag(op.accumulate),
    );
}
