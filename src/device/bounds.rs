//! What every device asks of operands before it runs an operation: that they fit each other and lie in their arenas.

use super::ops::Op;
use crate::bail;
use crate::error::{Error, Result};
use crate::tensor::{DType, Place, Tensor};

/// A view lies within its arena, whose size `bytes` gives unless it was freed. Returns the arena's number.
///
/// # Errors
/// Says what lies outside.
pub fn locate(t: &Tensor, bytes: impl Fn(u32) -> Option<usize>) -> Result<u32> {
    let Place::Arena(number) = t.place() else { bail!("{t:?} has no place in memory yet") };
    let Some(size) = bytes(number) else { bail!("{t:?} lies in an arena that was freed") };
    // All bounds rest on this: a product that overflows would wrap to a small one.
    let end = t
        .rows()
        .saturating_sub(1)
        .checked_mul(t.pitch())
        .and_then(|n| n.checked_add(t.width())?.checked_add(t.offset()));
    let Some(_) = end.and_then(|n| n.checked_mul(t.dtype().bytes())) else { bail!("{t:?} is beyond any arena") };
    let range = t.byte_range();
    if range.end > size {
        bail!("{t:?} ends at byte {} of an arena of {size}", range.end);
    }
    Ok(number)
}

/// Operands fit each other, lie inside their arenas, and floats have a type of the device.
///
/// # Errors
/// Names the operation and what does not fit.
pub fn check(op: &Op, floats: &[DType], bytes: impl Fn(u32) -> Option<usize>) -> Result<()> {
    op.check()?;
    let (mut first, mut copy) = (Ok(()), *op);
    copy.operands(&mut |t, _| {
        if first.is_ok() {
            first = locate(t, &bytes).map(|_| ());
        }
        if first.is_ok() && t.dtype().is_float() && !floats.contains(&t.dtype()) {
            first = Err(Error::new(format!("{t:?} is not of {floats:?}, in which this device computes")));
        }
    });
    first.map_err(|e| e.at(op.name()))
}
