//! `activation`.

use super::fill::Rows;
use super::launch::Launch;
use super::places::Places;
use crate::device::ops::{Activation, ActivationBackward};

/// `ActivationKind` of `common/activation.cuh`.
pub(super) fn number(kind: Activation) -> i32 {
    match kind {
        Activation::GeluTanh => 0,
        Activation::GeluErf => 1,
    }
}

pub fn naive(op: &ActivationBackward, places: &Places, out: &mut Vec<Launch>) {
    let rows = Rows::of(&op.dx, &[Some(op.dout), Some(op.pre)]);
    out.push(
        rows.launch("activation_backward_f32")
            .ptr(places.ptr(&op.dout))
            .ptr(places.ptr(&op.pre))
            .ptr(places.ptr(&op.dx))
            .int(rows.width())
            .int(rows.last())
            .int(rows.pitch(&op.dout))
            .int(rows.pitch(&op.pre))
            .int(rows.pitch(&op.dx))
            .signed(number(op.kind)),
    );
}
