//! `embedding` and its backward.

use super::Launch;
use super::addresses::Addresses;
use super::elements::{typed, whole};
use super::fill::tiles;
use crate::device::ops::{Embedding, EmbeddingBackward};
use crate::tensor::{DType, Tensor};

const THREADS: u32 = 128;

/// A row of blocks for each of `rows`, four columns for each thread.
fn rows(kernel: &'static str, rows: usize, width: usize) -> Launch {
    Launch::new(kernel, 1, THREADS).grid(rows, tiles(width, 4 * THREADS as usize), 1)
}

pub fn naive(op: &Embedding, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = typed(&op.out, "embedding_f32", "embedding_bf16");
    out.push(operands(rows(kernel, op.out.rows(), op.out.width()), op, addresses));
}

pub fn is_whole(op: &Embedding) -> bool {
    whole(&op.table) && whole(&op.out) && op.positions.iter().all(whole)
}

/// A warp for each token.
pub fn vector(op: &Embedding, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = typed(&op.out, "embedding_vector_f32", "embedding_vector_bf16");
    let warps = THREADS as usize / 32;
    out.push(operands(Launch::new(kernel, op.out.rows().div_ceil(warps), THREADS), op, addresses));
}

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

/// The kernel for a gradient and a table of these types.
fn between(op: &EmbeddingBackward, table: &Tensor, [f32s, bf16s, widened]: [&'static str; 3]) -> &'static str {
    match (op.dout.dtype(), table.dtype()) {
        (DType::BF16, DType::BF16) => bf16s,
        (DType::BF16, _) => widened,
        _ => f32s,
    }
}

/// A thread for each element of the table.
pub fn backward_naive(op: &EmbeddingBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    if let Some(table) = &op.dtable {
        const KERNELS: [&str; 3] =
            ["embedding_backward_naive_f32", "embedding_backward_naive_bf16", "embedding_backward_naive_bf16_f32"];
        out.push(
            rows(between(op, table, KERNELS), table.rows(), table.width())
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

/// A row of blocks for each token.
pub fn backward_owner(op: &EmbeddingBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    if let Some(table) = &op.dtable {
        const KERNELS: [&str; 3] =
            ["embedding_backward_owner_f32", "embedding_backward_owner_bf16", "embedding_backward_owner_bf16_f32"];
        let (tokens, width) = (op.ids.numel(), table.width());
        if !op.accumulate_table {
            let clear = typed(table, "embedding_clear_f32", "embedding_clear_bf16");
            out.push(rows(clear, table.rows(), width).ptr(addresses.ptr(table)).int(width).int(table.pitch()));
        }
        // Eight columns for each thread, and as many blocks as that takes.
        let columns = width.div_ceil(8 * THREADS as usize);
        out.push(
            Launch::new(between(op, table, KERNELS), 1, THREADS)
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

/// An id that is in no table when there is none.
fn padding(op: &EmbeddingBackward) -> i32 {
    op.padding.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1)
}

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
