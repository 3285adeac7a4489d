//! What every device asks of operands before it runs an operation: that they fit each other and lie in their arenas.

use super::ops::{Access, Op};
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
    // `Tensor` sees to this. It is asked again, because two threads write where rows overlap.
    if t.pitch() < t.width() || t.rows().checked_mul(t.width()) != Some(t.numel()) {
        bail!("{t:?} has rows that overlap, or that do not make up its shape");
    }
    // All bounds rest on this: a product that overflows would wrap to a small one.
    let rows = t.rows().saturating_sub(1).checked_mul(t.pitch());
    let end = rows.and_then(|n| n.checked_add(t.width())?.checked_add(t.offset()));
    let Some(_) = end.and_then(|n| n.checked_mul(t.dtype().bytes())) else { bail!("{t:?} is beyond any arena") };
    let range = t.byte_range();
    if range.end > size {
        bail!("{t:?} ends at byte {} of an arena of {size}", range.end);
    }
    Ok(number)
}

/// The arenas that the operands of a captured list lie in, each once.
pub fn arenas<'a>(ops: impl IntoIterator<Item = &'a Op>) -> Vec<u32> {
    let mut all = Vec::new();
    for op in ops {
        { *op }.operands(&mut |t, _| {
            if let Place::Arena(number) = t.place() {
                all.push(number);
            }
        });
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// No arena of a captured list was freed. Numbers are never given twice, so an arena that was allocated since, even at the same
/// address, does not pass for one of the list's.
///
/// # Errors
/// Names the arena.
pub fn check_arenas(arenas: &[u32], bytes: impl Fn(u32) -> Option<usize>) -> Result<()> {
    match arenas.iter().find(|&&number| bytes(number).is_none()) {
        Some(number) => bail!(
            "this captured list uses arena {number}, which was freed; capture a new list with tensors that still exist"
        ),
        None => Ok(()),
    }
}

/// What operations of one captured list ask of each other. A device may look at the tables of a mapping when a list is captured
/// and again when it is replayed, but not in between: no operation of the list writes them.
///
/// # Errors
/// Names the operation.
pub fn check_list(ops: &[Op]) -> Result<()> {
    let mappings = ops.iter().filter_map(|op| if let Op::Multilevel(mapping) = op { Some(mapping) } else { None });
    for table in mappings.flat_map(|mapping| [mapping.items, mapping.index]) {
        for op in ops {
            let mut written = false;
            { *op }.operands(&mut |t, access| written |= access != Access::Read && t.overlaps(&table));
            if written {
                bail!("{}: writes a table of a mapping in the same captured list; run it before", op.name());
            }
        }
    }
    Ok(())
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
