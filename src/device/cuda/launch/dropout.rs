//! `dropout`.

use super::Launch;
use super::addresses::Addresses;
use super::elements::{each, typed};
use super::fill::Rows;
use crate::device::ops::Dropout;

// The index of an element counts along rows without their gaps, so rows may be cut anew.

pub fn naive(op: &Dropout, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::of(&op.out, &[Some(op.x), op.residual]);
    let kernel = match op.unit {
        1 => typed(&op.out, "dropout_f32", "dropout_bf16"),
        _ => typed(&op.out, "dropout_unit_f32", "dropout_unit_bf16"),
    };
    out.push(operands(rows.launch(kernel), &rows, op, addresses));
}

pub fn is_whole(op: &Dropout) -> bool {
    Rows::whole(&op.out, &[Some(op.x), op.residual], each(&op.out))
}

/// An access of 16 bytes for each thread.
pub fn vector(op: &Dropout, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::tiled(&op.out, &[Some(op.x), op.residual], each(&op.out));
    let kernel = match op.unit {
        1 => typed(&op.out, "dropout_vector_f32", "dropout_vector_bf16"),
        _ => typed(&op.out, "dropout_unit_vector_f32", "dropout_unit_vector_bf16"),
    };
    out.push(operands(rows.launch(kernel), &rows, op, addresses));
}

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
