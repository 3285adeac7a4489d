//! Launch code of `global_norm`: `kernels/global_norm.cu`.

use super::Launch;
use super::addresses::Addresses;
use crate::device::ops::GlobalNorm;

/// Variant `block`: one block per partial sum of squares, then a single block that adds them up and takes the square
/// root.
pub fn block(op: &GlobalNorm, addresses: &Addresses, out: &mut Vec<Launch>) {
    let n = op.x.numel();
    let pieces = GlobalNorm::partials(n);
    let last = n - pieces.saturating_sub(1) * GlobalNorm::BLOCK;
    out.push(
        Launch::new("global_norm_partials_f32", pieces, 256)
            .ptr(addresses.ptr(&op.x))
            .ptr(addresses.ptr(&op.partials))
            .int(GlobalNorm::BLOCK)
            .int(last),
    );
    out.push(
        Launch::new("global_norm_finish_f32", 1, 1024)
            .ptr(addresses.ptr(&op.partials))
            .ptr(addresses.ptr(&op.norm))
            .int(pieces),
    );
}
