//! Shared memory of one block. It begins at 1 KiB, because sm_90 reserves the first KiB, with the dynamic part of the
//! launch; static arrays follow. An offset here is a shared address as instructions take it; addresses in descriptors
//! have 18 bits.

use super::shadow::Shadow;
use crate::error::{Error, Result};
use std::alloc::{Layout, alloc, dealloc};
use std::ffi::CStr;

/// CUDA's limit for static arrays, in bytes.
const MOST_FIXED: usize = 48 << 10;
/// The shared address of the dynamic part.
const DYNAMIC_BEGIN: usize = 1 << 10;
/// The most shared memory that a block of sm_90 may have, in bytes.
pub const MOST: usize = 227 << 10;
const SIZE: usize = DYNAMIC_BEGIN + MOST + GAPS;
/// Space for the gaps between static arrays, in bytes.
const GAPS: usize = 16 << 10;
/// The gap after an array in bytes, so that running over its end does not reach the next.
const GAP: usize = 64;

/// The declaration of a static array, such as `SMEM(float, tile, [8][32])`.
#[derive(Clone, Copy)]
pub struct Declared {
    /// The name, such as `tile`. Its address identifies the declaration, and the instantiation of the function that
    /// contains it.
    pub name: &'static CStr,
    /// Size of the array.
    pub bytes: usize,
    pub align: usize,
    /// Size of an element in bytes.
    pub element: usize,
    /// Size of the last dimension, in elements.
    pub columns: usize,
}

#[derive(Clone, Copy)]
struct Array {
    declared: Declared,
    offset: usize,
}

impl Array {
    /// Describes an element, such as "`tile`, row 2, column 7".
    fn cell(&self, offset: usize) -> String {
        let Declared { name, bytes, element, columns, .. } = self.declared;
        let (name, at) = (name.to_string_lossy(), (offset - self.offset) / element.max(1));
        match columns * element >= bytes {
            true => format!("`{name}`, element {at}"),
            false => format!("`{name}`, row {}, column {}", at / columns, at % columns),
        }
    }
}

/// The shared memory of one block.
pub struct Shared {
    start: *mut u8,
    /// The static arrays declared so far.
    arrays: Vec<Array>,
    /// Where the next static array may begin.
    end: usize,
    /// Size of the dynamic part in bytes.
    dynamic: usize,
    /// Present if checks are on.
    shadow: Option<Shadow>,
}

impl Shared {
    fn layout() -> Layout {
        // SAFETY: a power of two, and a size that does not overflow.
        unsafe { Layout::from_size_align_unchecked(SIZE, 1024) }
    }

    /// Allocates shared memory.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(checks: bool) -> Result<Self> {
        // SAFETY: the size of the layout is not zero.
        let start = unsafe { alloc(Self::layout()) };
        if start.is_null() {
            return Err(Error::new(format!(
                "out of memory: cannot allocate {SIZE} bytes for the shared memory of a block"
            )));
        }
        // SAFETY: the whole allocation.
        unsafe { start.write_bytes(0xff, SIZE) };
        let shadow = checks.then(|| Shadow::shared(SIZE));
        Ok(Shared { start, arrays: Vec::new(), end: DYNAMIC_BEGIN, dynamic: 0, shadow })
    }

    /// Prepares for the next block: fills memory with NaN, marks it as unwritten, and forgets all static arrays.
    pub fn begin(&mut self, dynamic: usize) {
        let fixed = (DYNAMIC_BEGIN + dynamic + GAP).next_multiple_of(1024);
        let used = self.end.max(fixed) - DYNAMIC_BEGIN;
        // SAFETY: inside the allocation.
        unsafe { self.start.add(DYNAMIC_BEGIN).write_bytes(0xff, used) };
        if let Some(shadow) = &mut self.shadow {
            shadow.mark(DYNAMIC_BEGIN, used, false);
        }
        self.arrays.clear();
        (self.end, self.dynamic) = (fixed, dynamic);
    }

    /// Returns the address of a static array, which is allocated on first use.
    ///
    /// # Errors
    /// More than 48 KiB of static arrays, or more shared memory than a block may have.
    pub fn array(&mut self, declared: Declared) -> Result<*mut u8, String> {
        let key = declared.name.as_ptr();
        let known = self.arrays.iter().find(|a| a.declared.name.as_ptr() == key).map(|a| a.offset);
        let offset = known.unwrap_or_else(|| self.end.next_multiple_of(declared.align.max(16)));
        if known.is_none() {
            self.arrays.push(Array { declared, offset });
            self.end = offset + declared.bytes + GAP;
            let used: usize = self.arrays.iter().map(|a| a.declared.bytes).sum();
            if used > MOST_FIXED || self.end > SIZE || used + self.dynamic > MOST {
                return Err(format!("{used} bytes of static shared memory and {} of dynamic", self.dynamic));
            }
        }
        // SAFETY: inside the allocation.
        Ok(unsafe { self.start.add(offset) })
    }

    /// Returns the address of the dynamic part.
    pub fn dynamic(&self) -> *mut u8 {
        // SAFETY: inside the allocation.
        unsafe { self.start.add(DYNAMIC_BEGIN) }
    }

    /// Returns the shadow memory of an access, and the byte in it at which the access begins; `None` for an address
    /// that is not in this shared memory.
    ///
    /// # Errors
    /// Describes what is wrong with the address.
    pub fn locate(&mut self, address: u64, bytes: u64) -> Option<Result<(&mut Shadow, usize), String>> {
        let offset = self.offset(address)?;
        if let Err(what) = self.inside(offset, bytes as usize) {
            return Some(Err(what));
        }
        self.shadow.as_mut().map(|shadow| Ok((shadow, offset)))
    }

    /// Checks that all of these bytes are in one array, or in the dynamic part.
    ///
    /// # Errors
    /// Describes where they are instead.
    pub fn inside(&self, offset: usize, bytes: usize) -> Result<(), String> {
        let end = offset + bytes;
        let arrays = self.arrays.iter().map(|a| (a.offset, a.declared.bytes));
        let inside = |(start, size): (usize, usize)| offset >= start && end <= start + size;
        if arrays.chain([(DYNAMIC_BEGIN, self.dynamic)]).any(inside) {
            return Ok(());
        }
        let at_or_after = |a: &&Array| (a.offset..a.offset + a.declared.bytes + GAP).contains(&offset);
        Err(match self.arrays.iter().filter(at_or_after).max_by_key(|a| a.offset) {
            Some(array) => {
                let (cell, size) = (array.cell(offset), array.declared.bytes);
                let past = end - array.offset - size;
                format!(
                    "{bytes} bytes at {cell} end {past} bytes after the end of this array of {size} bytes in shared memory"
                )
            }
            None => format!("{bytes} bytes lie outside of the {} bytes of dynamic shared memory", self.dynamic),
        })
    }

    /// Describes where an address that is [inside](Self::inside) an array lies.
    pub fn place(&self, address: u64) -> Option<String> {
        let offset = self.offset(address)?;
        let array = self.arrays.iter().find(|a| (a.offset..a.offset + a.declared.bytes).contains(&offset));
        let dynamic = || format!("byte {} of its dynamic part", offset.saturating_sub(DYNAMIC_BEGIN));
        Some(array.map_or_else(dynamic, |array| array.cell(offset)))
    }

    /// Returns the shared address of a host address; `None` if it is not in this shared memory.
    pub fn offset(&self, address: u64) -> Option<usize> {
        usize::try_from(address.checked_sub(self.start as u64)?).ok().filter(|o| *o < SIZE)
    }

    /// Returns the host address of a shared address that is [inside](Self::inside) an array.
    pub fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: at most one past the end of the allocation; the pointer for a wrong offset must not be used.
        unsafe { self.start.add(offset.min(SIZE)) }
    }

    /// Returns whether a host address is in this shared memory.
    pub fn contains(&self, address: u64) -> bool {
        self.offset(address).is_some()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start, Self::layout()) }
    }
}
