//! `multilevel`.

use super::launch::Launch;
use super::places::Places;
use crate::device::ops::Multilevel;

const THREADS: u32 = 256;

/// One element after the other.
pub fn naive(op: &Multilevel, places: &Places, out: &mut Vec<Launch>) {
    out.push(launch("multilevel_naive_f32", op, places));
}

/// One row after the other, whose source rows a block lists once.
pub fn row(op: &Multilevel, places: &Places, out: &mut Vec<Launch>) {
    out.push(launch("multilevel_row_f32", op, places));
}

/// A row of blocks for each parameter, which stride over its rows. Its size is known on the device alone: the mean has
/// to do, and blocks beyond the rows of a small parameter end at once.
fn launch(kernel: &'static str, op: &Multilevel, places: &Places) -> Launch {
    let items = op.items.rows();
    let mean = op.dst.numel().checked_div(items).unwrap_or(0);
    Launch::new(kernel, 1, THREADS)
        .grid(mean.div_ceil(4 * THREADS as usize).clamp(1, 256), items, 1)
        .ptr(places.ptr(&op.src))
        .ptr(places.ptr(&op.dst))
        .ptr(places.maybe(&op.base))
        .ptr(places.ptr(&op.items))
        .ptr(places.ptr(&op.index))
        .ptr(places.ptr(&op.weight))
        .float(1.0 - op.alpha)
        .float(op.alpha)
}
