//! Launch code of `cross_entropy`: `kernels/cross_entropy.cu`.
//!
//! There are three launches: one counts the scored rows among all labels, one processes the rows of the strip, and one
//! sums the losses of all rows up to the end of the strip.

use super::Launch;
use super::addresses::Addresses;
use super::elements::{rows_aligned, typed, vector_len};
use crate::device::ops::CrossEntropy;
use crate::tensor::Tensor;

/// Variant `naive`: one thread per row.
pub fn naive(op: &CrossEntropy, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = op.logits.rows();
    let launch =
        Launch::new(typed(&op.logits, "cross_entropy_naive_f32", "cross_entropy_naive_bf16"), rows.div_ceil(64), 64);
    push_all(op, addresses, options(operands(launch, op, addresses).int(rows), op), out);
}

/// Variant `block`: one block of 256 threads per row.
pub fn block(op: &CrossEntropy, addresses: &Addresses, out: &mut Vec<Launch>) {
    let launch =
        Launch::new(typed(&op.logits, "cross_entropy_block_f32", "cross_entropy_block_bf16"), op.logits.rows(), 256);
    push_all(op, addresses, options(operands(launch, op, addresses), op), out);
}

/// Returns whether all rows of the logits and of their gradient are aligned to 16 bytes, as `vector` needs.
pub fn is_aligned(op: &CrossEntropy) -> bool {
    rows_aligned(&op.logits, vector_len(&op.logits)) && op.dlogits.is_none_or(|t| rows_aligned(&t, vector_len(&t)))
}

/// The widest row, in elements, that a block of 128 threads takes; wider rows get 512 threads.
const NARROW: usize = 8192;

/// Variant `vector`: one block per row, with accesses of 16 bytes.
pub fn vector(op: &CrossEntropy, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (kernel, threads) = match op.logits.width() {
        ..=NARROW => (typed(&op.logits, "cross_entropy_vec16_128_f32", "cross_entropy_vec16_128_bf16"), 128),
        _ => (typed(&op.logits, "cross_entropy_vec16_512_f32", "cross_entropy_vec16_512_bf16"), 512),
    };
    let launch = Launch::new(kernel, op.logits.rows(), threads);
    push_all(op, addresses, options(operands(launch, op, addresses), op), out);
}

/// Appends the pointers. Operands with one entry per row of the batch start at the strip's first row.
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

/// Appends the sizes, pitches and constants.
fn options(launch: Launch, op: &CrossEntropy) -> Launch {
    launch
        .int(op.logits.width())
        .int(op.logits.pitch())
        .int(op.dlogits.map_or(0, |t| t.pitch()))
        .signed(op.ignore)
        .float(op.smoothing)
        .float(op.weight)
}

/// Pushes the launch of the rows between those that count the scored rows and sum the losses. These two run even
/// without rows, so that the loss becomes zero.
fn push_all(op: &CrossEntropy, addresses: &Addresses, rows: Launch, out: &mut Vec<Launch>) {
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
