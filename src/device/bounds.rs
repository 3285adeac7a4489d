//! Checks that every device makes before it runs an operation: operands fit each other and lie inside their arenas.

use super::ops::{Access, Op};
use crate::bail;
use crate::error::{Error, Result};
use crate::tensor::{DType, Place, Tensor};

/// Checks that a view lies inside its arena and returns the arena's number. `bytes` returns the size of an arena, or
/// `None` if it was freed.
///
/// # Errors
/// When the view has not been placed in memory, its arena was freed, its rows overlap or do not make up its shape, or
/// it ends beyond its arena.
pub fn locate(t: &Tensor, bytes: impl Fn(u32) -> Option<usize>) -> Result<u32> {
    let Place::Arena(number) = t.place() else { bail!("{t:?} has no place in memory yet: run the tape first") };
    let Some(size) = bytes(number) else { bail!("{t:?} lies in an arena that was freed") };
    // `Tensor` guarantees this. It is checked again because two threads would write to the same memory if rows
    // overlapped.
    if t.pitch() < t.width() || t.rows().checked_mul(t.width()) != Some(t.numel()) {
        bail!("{t:?} has rows that overlap or that do not make up its shape");
    }
    // All bounds depend on this: an overflowing product would wrap around to a small number.
    let rows = t.rows().saturating_sub(1).checked_mul(t.pitch());
    let end = rows.and_then(|n| n.checked_add(t.width())?.checked_add(t.offset()));
    let Some(_) = end.and_then(|n| n.checked_mul(t.dtype().bytes())) else {
        bail!("{t:?} has an end that overflows usize")
    };
    let range = t.byte_range();
    if range.end > size {
        bail!("{t:?} ends at byte {}, outside its arena of {size} bytes", range.end);
    }
    Ok(number)
}

/// Returns the arenas that the operands of a list lie in, sorted and without duplicates.
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

/// Checks that no arena of a captured list was freed. Arena numbers are never reused, so a newer arena, even at the
/// same address, is not mistaken for one that the list uses.
///
/// # Errors
/// When an arena was freed; the message names it.
pub fn check_arenas(arenas: &[u32], bytes: impl Fn(u32) -> Option<usize>) -> Result<()> {
    match arenas.iter().find(|&&number| bytes(number).is_none()) {
        Some(number) => bail!(
            "this captured list uses arena {number}, which was freed; capture a new list with tensors that still exist"
        ),
        None => Ok(()),
    }
}

/// Checks that no operation of a list writes a table (`items`, `index`) of a multilevel operation in the same list.
/// Devices may validate these tables only when the list is captured and before it is replayed, not while it runs.
///
/// # Errors
/// When an operation writes a table; the message names the operation.
pub fn check_list(ops: &[Op]) -> Result<()> {
    let mappings = ops.iter().filter_map(|op| if let Op::Multilevel(mapping) = op { Some(mapping) } else { None });
    for table in mappings.flat_map(|mapping| [mapping.items, mapping.index]) {
        for op in ops {
            let mut written = false;
            { *op }.operands(&mut |t, access| written |= access != Access::Read && t.overlaps(&table));
            if written {
                bail!(
                    "{}: writes a table of a multilevel operation in the same captured list; run it before that list",
                    op.name()
                );
            }
        }
    }
    Ok(())
}

/// Checks that the operands of an operation fit each other, lie inside their arenas, and have float types from
/// `floats`.
///
/// # Errors
/// When one of these does not hold; the message names the operation and the operand.
pub fn check(op: &Op, floats: &[DType], bytes: impl Fn(u32) -> Option<usize>) -> Result<()> {
    op.check()?;
    let (mut first, mut copy) = (Ok(()), *op);
    copy.operands(&mut |t, _| {
        if first.is_ok() {
            first = locate(t, &bytes).map(|_| ());
        }
        if first.is_ok() && t.dtype().is_float() && !floats.contains(&t.dtype()) {
            first = Err(Error::new(format!(
                "{t:?} has a float type that this device does not support; it supports {floats:?}"
            )));
        }
    });
    first.map_err(|e| e.at(op.name()))
}
