//! Launch code of `accumulate`: `kernels/accumulate.cu`.

use super::Launch;
use super::addresses::Addresses;
use super::elements::vector_len;
use super::fill::Rows;
use crate::device::ops::Accumulate;
use crate::tensor::DType;

/// Variant `naive`: four elements per thread, any alignment.
pub fn naive(op: &Accumulate, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::of(&op.out, &[Some(op.x)]);
    let kernel = match (op.x.dtype(), op.out.dtype()) {
        (DType::BF16, DType::BF16) => "accumulate_bf16",
        (DType::BF16, _) => "accumulate_bf16_f32",
        (_, DType::BF16) => "accumulate_f32_bf16",
        _ => "accumulate_f32",
    };
    out.push(operands(rows.launch(kernel), &rows, op, addresses));
}

/// Returns the elements that a thread accesses at a time: 16 bytes of the wider type.
fn vector_of(op: &Accumulate) -> usize {
    vector_len(&op.x).min(vector_len(&op.out))
}

/// Returns whether all rows consist of whole, aligned vectors, as `vector` needs.
pub fn is_whole(op: &Accumulate) -> bool {
    Rows::whole(&op.out, &[Some(op.x)], vector_of(op))
}

/// Variant `vector`: each thread processes two vectors, of 16 bytes in the wider type.
pub fn vector(op: &Accumulate, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::tiled(&op.out, &[Some(op.x)], 2 * vector_of(op));
    let kernel = match (op.x.dtype(), op.out.dtype()) {
        (DType::BF16, DType::BF16) => "accumulate_vec16_bf16",
        (DType::BF16, _) => "accumulate_vec16_bf16_f32",
        (_, DType::BF16) => "accumulate_vec16_f32_bf16",
        _ => "accumulate_vec16_f32",
    };
    out.push(operands(rows.launch(kernel), &rows, op, addresses));
}

/// Appends the kernel's parameters.
fn operands(launch: Launch, rows: &Rows, op: &Accumulate, addresses: &Addresses) -> Launch {
    launch
        .ptr(addresses.ptr(&op.x))
        .ptr(addresses.ptr(&op.out))
        .int(rows.width())
        .int(rows.last())
        .int(rows.pitch(&op.x))
        .int(rows.pitch(&op.out))
        .flag(op.add)
}
