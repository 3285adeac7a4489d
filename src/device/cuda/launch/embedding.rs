//! Launch code of `embedding` and its backward pass: `kernels/embedding.cu`.

use super::Launch;
use super::addresses::Addresses;
use super::elements::{typed, whole};
use super::fill::tiles;
use crate::device::ops::{Embedding, EmbeddingBackward};
use crate::tensor::{DType, Tensor};

const THREADS: u32 = 128;

/// Builds a launch with blockIdx.x for each of `rows`, and four columns per thread along y.
fn rows(kernel: &'static str, rows: usize, width: usize) -> Launch {
    Launch::new(kernel, 1, THREADS).grid(rows, tiles(width, 4 * THREADS as usize), 1)
}

/// Variant `naive`: four columns of a token per thread, any alignment.
pub fn naive(op: &Embedding, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = typed(&op.out, "embedding_f32", "embedding_bf16");
    out.push(operands(rows(kernel, op.out.rows(), op.out.width()), op, addresses));
}

/// Returns whether the rows of the tables and the output consist of whole, aligned 16-byte vectors, as `vector` needs.
pub fn is_whole(op: &Embedding) -> bool {
    whole(&op.table) && whole(&op.out) && op.positions.iter().all(whole)
}

/// Variant `vector`: one warp per token.
pub fn vector(op: &Embedding, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = typed(&op.out, "embedding_vec16_f32", "embedding_vec16_bf16");
    let warps = THREADS as usize / 32;
    out.push(operands(Launch::new(kernel, op.out.rows().div_ceil(warps), THREADS), op, addresses));
}

/// Appends the parameters of the forward kernels.
fn operands(launch: Launch, op: &Embedding, addresses: &Addresses) -> Launch {
    launch
        .ptr(addresses.ptr(&op.ids))
        .ptr(addresses.ptr(&op.table))
        .ptr(addresses.maybe(&op.positions))
        .ptr(addresses.ptr(&op.out))
        .int(op.out.rows())
        .int(op.table.rows())
        .int(op.ids.shape().last())
        .int(op.out.width())
        .int(op.table.pitch())
        .int(op.positions.map_or(0, |t| t.pitch()))
        .int(op.out.pitch())
        .flag(op.accumulate)
}

/// Returns the kernel for the types of the gradient and the table: both f32, both bf16, or a bf16 gradient and an f32
/// table.
fn kernel_for(op: &EmbeddingBackward, table: &Tensor, [f32, bf16, bf16_f32]: [&'static str; 3]) -> &'static str {
    match (op.dout.dtype(), table.dtype()) {
        (DType::BF16, DType::BF16) => bf16,
        (DType::BF16, _) => bf16_f32,
        _ => f32,
    }
}

/// Variant `naive` of the backward pass: each element of the table's gradient has one thread, which scans all tokens.
pub fn backward_naive(op: &EmbeddingBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    if let Some(table) = &op.dtable {
        const KERNELS: [&str; 3] =
            ["embedding_backward_naive_f32", "embedding_backward_naive_bf16", "embedding_backward_naive_bf16_f32"];
        out.push(
            rows(kernel_for(op, table, KERNELS), table.rows(), table.width())
                .ptr(addresses.ptr(&op.ids))
                .ptr(addresses.ptr(&op.dout))
                .ptr(addresses.ptr(table))
                .int(op.ids.numel())
                .int(table.width())
                .int(op.dout.pitch())
                .int(table.pitch())
                .signed(padding(op))
                .flag(op.accumulate_table),
        );
    }
    positions(op, addresses, out);
}

/// Variant `owner` of the backward pass: blocks for each token. The first token with an id owns the id's row and adds
/// the gradients of all later ones, so the order of summation is fixed.
pub fn backward_owner(op: &EmbeddingBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    if let Some(table) = &op.dtable {
        const KERNELS: [&str; 3] =
            ["embedding_backward_owner_f32", "embedding_backward_owner_bf16", "embedding_backward_owner_bf16_f32"];
        let (tokens, width) = (op.ids.numel(), table.width());
        if !op.accumulate_table {
            let clear = typed(table, "embedding_clear_f32", "embedding_clear_bf16");
            out.push(rows(clear, table.rows(), width).ptr(addresses.ptr(table)).int(width).int(table.pitch()));
        }
        // Eight columns per thread.
        let columns = width.div_ceil(8 * THREADS as usize);
        out.push(
            Launch::new(kernel_for(op, table, KERNELS), 1, THREADS)
                .grid(tokens, columns, 1)
                .ptr(addresses.ptr(&op.ids))
                .ptr(addresses.ptr(&op.dout))
                .ptr(addresses.ptr(table))
                .int(tokens)
                .int(table.rows())
                .int(width)
                .int(op.dout.pitch())
                .int(table.pitch())
                .signed(padding(op)),
        );
    }
    positions(op, addresses, out);
}

/// Returns the padding id, -1 (which no token has) when there is none.
fn padding(op: &EmbeddingBackward) -> i32 {
    op.padding.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1)
}

/// Pushes the launch that computes the gradient of the position table, if it is wanted: sums over the batch.
fn positions(op: &EmbeddingBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let Some(positions) = &op.dpositions else { return };
    let &[batch, time] = op.ids.dims() else { return };
    out.push(
        rows(
            typed(&op.dout, "embedding_positions_f32", "embedding_positions_bf16"),
            positions.rows(),
            positions.width(),
        )
        .ptr(addresses.ptr(&op.dout))
        .ptr(addresses.ptr(positions))
        .int(batch)
        .int(time)
        .int(positions.width())
        .int(op.dout.pitch())
        .int(positions.pitch())
        .flag(op.accumulate_positions),
    );
}
