//! Shared memory of one block: from 1 KiB on, as sm_90 reserves the first, what the launch asked for, and fixed arrays behind.
//! An offset here is a shared address as instructions take it; those of descriptors have 18 bits.

use super::shadow::Shadow;
use crate::error::{Error, Result};
use std::alloc::{Layout, alloc, dealloc};
use std::ffi::CStr;

/// The most of fixed arrays: the limit of CUDA.
const MOST_FIXED: usize = 48 << 10;
const DYNAMIC_BEGIN: usize = 1 << 10;
/// The most that a block of sm_90 may have.
pub const MOST: usize = 227 << 10;
const SIZE: usize = DYNAMIC_BEGIN + MOST + GAPS;
/// Room for what lies between fixed arrays.
const GAPS: usize = 16 << 10;
/// Between two arrays, so that the end of one is not the start of the next.
const GAP: usize = 64;

/// How a kernel declares an array: `SMEM(float, tile, [8][32])`.
#[derive(Clone, Copy)]
pub struct Declared {
    /// `tile`. Its address is that of this place in the source, and of this instantiation of the function around it.
    pub name: &'static CStr,
    pub bytes: usize,
    pub align: usize,
    /// Bytes of an element.
    pub element: usize,
    /// Elements of the last dimension.
    pub columns: usize,
}

#[derive(Clone, Copy)]
struct Array {
    declared: Declared,
    offset: usize,
}

impl Array {
    /// "`tile`, row 2, column 7".
    fn cell(&self, offset: usize) -> String {
        let Declared { name, bytes, element, columns, .. } = self.declared;
        let (name, at) = (name.to_string_lossy(), (offset - self.offset) / element.max(1));
        match columns * element >= bytes {
            true => format!("`{name}`, element {at}"),
            false => format!("`{name}`, row {}, column {}", at / columns, at % columns),
        }
    }
}

/// See the module.
pub struct Shared {
    start: *mut u8,
    /// One for each place in the source that declares it.
    arrays: Vec<Array>,
    /// Where fixed arrays end.
    end: usize,
    dynamic: usize,
    shadow: Option<Shadow>,
}

impl Shared {
    fn layout() -> Layout {
        // SAFETY: a power of two, and a size that does not overflow.
        unsafe { Layout::from_size_align_unchecked(SIZE, 1024) }
    }

    pub fn new(checks: bool) -> Result<Self> {
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc(Self::layout()) };
        if start.is_null() {
            return Err(Error::new(format!("out of memory: {SIZE} bytes wanted for the shared memory of a block")));
        }
        // SAFETY: all of the allocation.
        unsafe { start.write_bytes(0xff, SIZE) };
        let shadow = checks.then(|| Shadow::shared(SIZE));
        Ok(Shared { start, arrays: Vec::new(), end: DYNAMIC_BEGIN, dynamic: 0, shadow })
    }

    /// For a next block: NaN everywhere, and nothing counts as written.
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

    /// The array that is declared at this place.
    ///
    /// # Errors
    /// More than 48 KiB of fixed arrays, or more than a block may have.
    pub fn array(&mut self, declared: Declared) -> Result<*mut u8, String> {
        let key = declared.name.as_ptr();
        let known = self.arrays.iter().find(|a| a.declared.name.as_ptr() == key).map(|a| a.offset);
        let offset = known.unwrap_or_else(|| self.end.next_multiple_of(declared.align.max(16)));
        if known.is_none() {
            self.arrays.push(Array { declared, offset });
            self.end = offset + declared.bytes + GAP;
            let used: usize = self.arrays.iter().map(|a| a.declared.bytes).sum();
            if used > MOST_FIXED || self.end > SIZE || used + self.dynamic > MOST {
                return Err(format!("{used} bytes of fixed shared memory, beside {} of the launch", self.dynamic));
            }
        }
        // SAFETY: inside the allocation.
        Ok(unsafe { self.start.add(offset) })
    }

    pub fn dynamic(&self) -> *mut u8 {
        // SAFETY: inside the allocation.
        unsafe { self.start.add(DYNAMIC_BEGIN) }
    }

    /// The shadow of an access to shared memory and where in it the access begins; `None` for another address.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn locate(&mut self, address: u64, bytes: u64) -> Option<Result<(&mut Shadow, usize), String>> {
        let offset = self.offset(address)?;
        if let Err(what) = self.inside(offset, bytes as usize) {
            return Some(Err(what));
        }
        self.shadow.as_mut().map(|shadow| Ok((shadow, offset)))
    }

    /// All of these bytes are of one array.
    ///
    /// # Errors
    /// Where they lie.
    pub fn inside(&self, offset: usize, bytes: usize) -> Result<(), String> {
        let end = offset + bytes;
        let arrays = self.arrays.iter().map(|a| (a.offset, a.declared.bytes));
        let inside = |(start, size): (usize, usize)| offset >= start && end <= start + size;
        if arrays.chain([(DYNAMIC_BEGIN, self.dynamic)]).any(inside) {
            return Ok(());
        }
        let behind = |a: &&Array| (a.offset..a.offset + a.declared.bytes + GAP).contains(&offset);
        Err(match self.arrays.iter().filter(behind).max_by_key(|a| a.offset) {
            Some(array) => {
                let (cell, size) = (array.cell(offset), array.declared.bytes);
                let past = end - array.offset - size;
                format!(
                    "{bytes} bytes at {cell} end {past} bytes after the end of this array of {size} bytes in shared memory"
                )
            }
            None => format!("{bytes} bytes lie outside of the {} bytes of shared memory of the launch", self.dynamic),
        })
    }

    /// Where bytes that are [inside](Self::inside) lie.
    pub fn place(&self, address: u64) -> Option<String> {
        let offset = self.offset(address)?;
        let array = self.arrays.iter().find(|a| (a.offset..a.offset + a.declared.bytes).contains(&offset));
        let dynamic = || format!("byte {} of its dynamic part", offset.saturating_sub(DYNAMIC_BEGIN));
        Some(array.map_or_else(dynamic, |array| array.cell(offset)))
    }

    /// The shared address: where it lies from the start on.
    pub fn offset(&self, address: u64) -> Option<usize> {
        usize::try_from(address.checked_sub(self.start as u64)?).ok().filter(|o| *o < SIZE)
    }

    /// What lies at a shared address that is [inside](Self::inside).
    pub fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: inside the allocation; a wrong offset gives a pointer that is not to be used.
        unsafe { self.start.add(offset.min(SIZE)) }
    }

    /// Whether this is an address of shared memory.
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
