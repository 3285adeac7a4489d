//! `accumulate`.

use super::fill::Rows;
use super::launch::Launch;
use super::places::Places;
use crate::device::ops::Accumulate;

pub fn naive(op: &Accumulate, places: &Places, out: &mut Vec<Launch>) {
    let rows = Rows::of(&op.out, &[Some(op.x)]);
    out.push(
        rows.launch("accumulate_f32")
            .ptr(places.ptr(&op.x))
            .ptr(places.ptr(&op.out))
            .int(rows.width())
            .int(rows.last())
            .int(rows.pitch(&op.x))
            .int(rows.pitch(&op.out))
            .flag(op.add),
    );
}
