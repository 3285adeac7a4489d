//! `dropout`.

use super::fill::Rows;
use super::launch::Launch;
use super::places::Places;
use crate::device::ops::Dropout;

pub fn naive(op: &Dropout, places: &Places, out: &mut Vec<Launch>) {
    // The index of an element counts along rows without their gaps, so rows may be cut anew.
    let rows = Rows::of(&op.out, &[Some(op.x), op.residual]);
    out.push(
        rows.launch("dropout_f32")
            .ptr(places.ptr(&op.x))
            .ptr(places.maybe(&op.residual))
            .ptr(places.ptr(&op.out))
            .ptr(places.ptr(&op.mask.state))
            .int(rows.width())
            .int(rows.last())
            .int(rows.pitch(&op.x))
            .int(op.residual.map_or(0, |t| rows.pitch(&t)))
            .int(rows.pitch(&op.out))
            .word(op.mask.site)
            .float(f64::from(op.mask.p)),
    );
}
