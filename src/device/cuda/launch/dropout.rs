//! Launch code of `dropout`: `kernels/dropout.cu`.

use super::Launch;
use super::addresses::Addresses;
use super::elements::{typed, vector_len};
use super::fill::Rows;
use crate::device::ops::Dropout;

// The random number of an element depends on its index, which skips the gaps between rows. So contiguous operands may
// be re-cut into rows of any width.

/// Variant `naive`: four elements per thread, any alignment.
pub fn naive(op: &Dropout, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::of(&op.out, &[Some(op.x), op.residual]);
    let kernel = match op.unit {
        1 => typed(&op.out, "dropout_f32", "dropout_bf16"),
        _ => typed(&op.out, "dropout_unit_f32", "dropout_unit_bf16"),
    };
    out.push(operands(rows.launch(kernel), &rows, op, addresses));
}

/// Returns whether all rows consist of whole, aligned 16-byte vectors, as `vector` needs.
pub fn is_whole(op: &Dropout) -> bool {
    Rows::whole(&op.out, &[Some(op.x), op.residual], vector_len(&op.out))
}

/// Variant `vector`: each thread processes one 16-byte vector.
pub fn vector(op: &Dropout, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::tiled(&op.out, &[Some(op.x), op.residual], vector_len(&op.out));
    let kernel = match op.unit {
        1 => typed(&op.out, "dropout_vec16_f32", "dropout_vec16_bf16"),
        _ => typed(&op.out, "dropout_unit_vec16_f32", "dropout_unit_vec16_bf16"),
    };
    out.push(operands(rows.launch(kernel), &rows, op, addresses));
}

/// Appends the kernel's parameters. Only the `unit` kernels take the unit.
fn operands(launch: Launch, rows: &Rows, op: &Dropout, addresses: &Addresses) -> Launch {
    let launch = launch
        .ptr(addresses.ptr(&op.x))
        .ptr(addresses.maybe(&op.residual))
        .ptr(addresses.ptr(&op.out))
        .ptr(addresses.ptr(&op.mask.state))
        .int(rows.width())
        .int(rows.last())
        .int(rows.pitch(&op.x))
        .int(op.residual.map_or(0, |t| rows.pitch(&t)))
        .int(rows.pitch(&op.out))
        .word(op.mask.site)
        .float(f64::from(op.mask.p));
    if op.unit == 1 { launch } else { launch.int(op.unit) }
}
