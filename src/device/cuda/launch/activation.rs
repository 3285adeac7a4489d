//! Launch code of `activation_backward`: `kernels/activation.cu`.

use super::Launch;
use super::addresses::Addresses;
use super::elements::{typed, vector_len};
use super::fill::Rows;
use crate::device::ops::{Activation, ActivationBackward};

/// Returns the value of `ActivationKind` in `kernels/common/activation.cuh`.
pub(in crate::device::cuda) fn number(kind: Activation) -> i32 {
    match kind {
        Activation::GeluTanh => 0,
        Activation::GeluErf => 1,
        Activation::Tanh => 2,
    }
}

/// Variant `naive`: four elements per thread, any alignment.
pub fn naive(op: &ActivationBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::of(&op.dx, &[Some(op.dout), Some(op.pre)]);
    let kernel = typed(&op.dx, "activation_backward_f32", "activation_backward_bf16");
    out.push(operands(rows.launch(kernel), &rows, op, addresses));
}

/// Returns whether all rows consist of whole, aligned 16-byte vectors, as `vector` needs.
pub fn is_whole(op: &ActivationBackward) -> bool {
    Rows::whole(&op.dx, &[Some(op.dout), Some(op.pre)], vector_len(&op.dx))
}

/// Variant `vector`: each thread processes two 16-byte vectors.
pub fn vector(op: &ActivationBackward, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::tiled(&op.dx, &[Some(op.dout), Some(op.pre)], 2 * vector_len(&op.dx));
    let kernel = typed(&op.dx, "activation_backward_vec16_f32", "activation_backward_vec16_bf16");
    out.push(operands(rows.launch(kernel), &rows, op, addresses));
}

/// Appends the kernel's parameters.
fn operands(launch: Launch, rows: &Rows, op: &ActivationBackward, addresses: &Addresses) -> Launch {
    launch
        .ptr(addresses.ptr(&op.dout))
        .ptr(addresses.ptr(&op.pre))
        .ptr(addresses.ptr(&op.dx))
        .int(rows.width())
        .int(rows.last())
        .int(rows.pitch(&op.dout))
        .int(rows.pitch(&op.pre))
        .int(rows.pitch(&op.dx))
        .signed(number(op.kind))
}
