//! Launch code of `squared_error`: `kernels/squared_error.cu`.

use super::Launch;
use super::addresses::Addresses;
use super::elements::typed;
use crate::device::ops::SquaredError;

/// Variant `block`: a single block. It runs even without rows, so that the loss becomes zero.
pub fn block(op: &SquaredError, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(
        Launch::new(typed(&op.x, "squared_error_f32", "squared_error_bf16"), 1, 256)
            .ptr(addresses.ptr(&op.x))
            .ptr(addresses.ptr(&op.targets))
            .ptr(addresses.maybe(&op.scored))
            .ptr(addresses.ptr(&op.loss))
            .ptr(addresses.maybe(&op.dx))
            .int(op.x.rows())
            .int(op.x.width())
            .int(op.x.pitch())
            .int(op.targets.pitch())
            .int(op.dx.map_or(0, |t| t.pitch()))
            .float(op.weight),
    );
}
