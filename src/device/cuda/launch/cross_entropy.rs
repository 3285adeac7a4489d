//! `cross_entropy`: the scored rows are counted among all, then come the rows of the strip, then the sum up to its end.

use super::Launch;
use super::addresses::Addresses;
use super::elements::{begin_at, each, typed};
use crate::device::ops::CrossEntropy;
use crate::tensor::Tensor;

/// A thread for each row.
pub fn naive(op: &CrossEntropy, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = op.logits.rows();
    let launch =
        Launch::new(typed(&op.logits, "cross_entropy_naive_f32", "cross_entropy_naive_bf16"), rows.div_ceil(64), 64);
    around(op, addresses, options(operands(launch, op, addresses).int(rows), op), out);
}

/// A block for each row.
pub fn block(op: &CrossEntropy, addresses: &Addresses, out: &mut Vec<Launch>) {
    let launch =
        Launch::new(typed(&op.logits, "cross_entropy_block_f32", "cross_entropy_block_bf16"), op.logits.rows(), 256);
    around(op, addresses, options(operands(launch, op, addresses), op), out);
}

/// Rows of logits and of their gradient begin at multiples of 16 bytes.
pub fn is_aligned(op: &CrossEntropy) -> bool {
    begin_at(&op.logits, each(&op.logits)) && op.dlogits.is_none_or(|t| begin_at(&t, each(&t)))
}

/// Widest row of a small block.
const NARROW: usize = 8192;

/// A block for each row, 16 bytes at a time.
pub fn vector(op: &CrossEntropy, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (kernel, threads) = match op.logits.width() {
        ..=NARROW => (typed(&op.logits, "cross_entropy_vector_128_f32", "cross_entropy_vector_128_bf16"), 128),
        _ => (typed(&op.logits, "cross_entropy_vector_512_f32", "cross_entropy_vector_512_bf16"), 512),
    };
    let launch = Launch::new(kernel, op.logits.rows(), threads);
    around(op, addresses, options(operands(launch, op, addresses), op), out);
}

fn operands(launch: Launch, op: &CrossEntropy, addresses: &Addresses) -> Launch {
    let strip = |t: &Tensor| t.with_offset(t.offset() + op.first);
    launch
        .ptr(addresses.ptr(&op.logits))
        .ptr(addresses.ptr(&strip(&op.labels)))
        .ptr(addresses.maybe(&op.mix.map(|mix| strip(&mix.labels))))
        .ptr(addresses.maybe(&op.mix.map(|mix| strip(&mix.share))))
        .ptr(addresses.ptr(&op.loss))
        .ptr(addresses.ptr(&strip(&op.losses)))
        .ptr(addresses.maybe(&op.dlogits))
}

fn options(launch: Launch, op: &CrossEntropy) -> Launch {
    launch
        .int(op.logits.width())
        .int(op.logits.pitch())
        .int(op.dlogits.map_or(0, |t| t.pitch()))
        .signed(op.ignore)
        .float(op.smoothing)
        .float(op.weight)
}

/// The launches before and after that of the rows, which run without any row too: the loss is zero then.
fn around(op: &CrossEntropy, addresses: &Addresses, rows: Launch, out: &mut Vec<Launch>) {
    out.push(
        Launch::new("cross_entropy_count", 1, 1024)
            .ptr(addresses.ptr(&op.labels))
            .ptr(addresses.maybe(&op.scored))
            .ptr(addresses.ptr(&op.loss))
            .int(op.labels.numel())
            .signed(op.ignore),
    );
    out.push(rows);
    out.push(
        Launch::new("cross_entropy_loss_f32", 1, 1024)
            .ptr(addresses.ptr(&op.losses))
            .ptr(addresses.ptr(&op.loss))
            .int(op.rows().end)
            .float(op.weight),
    );
}
