//! `squared_error`.

use super::Launch;
use super::addresses::Places;
use super::elements::typed;
use crate::device::ops::SquaredError;

/// One block, which runs without any row too: the loss is zero then.
pub fn block(op: &SquaredError, places: &Places, out: &mut Vec<Launch>) {
    out.push(
        Launch::new(typed(&op.x, "squared_error_f32", "squared_error_bf16"), 1, 256)
            .ptr(places.ptr(&op.x))
            .ptr(places.ptr(&op.targets))
            .ptr(places.maybe(&op.scored))
            .ptr(places.ptr(&op.loss))
            .ptr(places.maybe(&op.dx))
            .int(op.x.rows())
            .int(op.x.width())
            .int(op.x.pitch())
            .int(op.targets.pitch())
            .int(op.dx.map_or(0, |t| t.pitch()))
            .float(op.weight),
    );
}
