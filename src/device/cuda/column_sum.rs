//! `column_sum`.

use super::launch::Launch;
use super::places::Places;
use crate::device::ops::ColumnSum;

/// A thread for each column.
pub fn naive(op: &ColumnSum, places: &Places, out: &mut Vec<Launch>) {
    let launch = Launch::new("column_sum_naive_f32", op.x.width.div_ceil(128), 128);
    out.push(operands(launch, op, places));
}

/// A block for every 32 columns.
pub fn tiled(op: &ColumnSum, places: &Places, out: &mut Vec<Launch>) {
    let launch = Launch::new("column_sum_tiled_f32", op.x.width.div_ceil(32), 32).block(32, 32);
    out.push(operands(launch, op, places));
}

fn operands(launch: Launch, op: &ColumnSum, places: &Places) -> Launch {
    launch
        .ptr(places.ptr(&op.x))
        .ptr(places.ptr(&op.out))
        .int(op.x.rows())
        .int(op.x.width)
        .int(op.x.pitch)
        .flag(op.accumulate)
}
