//! Emulated device memory: allocations of the host, each with its shadow, and what the operation in hand may touch.

use super::clocks::Seen;
use super::operands;
use super::shadow::Shadow;
use crate::bail;
use crate::device::cuda::driver::Rows;
use crate::device::cuda::launch::Region;
use crate::device::ops::Access;
use crate::error::{Error, Result};
use crate::memory;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::{BTreeMap, HashMap};

/// Farther away from an allocation, in bytes, an access has nothing to do with it.
const NEAR: u64 = 1 << 20;
/// As cudaMalloc aligns.
const ALIGNMENT: usize = 256;

struct Allocation {
    layout: Layout,
    bytes: usize,
    /// Made when checks are first asked for.
    shadow: Option<Shadow>,
}

/// See the module.
#[derive(Default)]
pub struct Memory {
    /// By address.
    allocations: BTreeMap<u64, Allocation>,
    /// Where the current operation may read and write; none: everywhere.
    regions: Vec<Region>,
    /// What atomics on a word have published.
    pub published: HashMap<u64, Seen>,
}

// SAFETY: allocations are plain memory that this value owns.
unsafe impl Send for Memory {}

impl Memory {
    pub fn alloc(&mut self, bytes: usize) -> Result<u64> {
        let layout = Layout::from_size_align(bytes.max(1).next_multiple_of(ALIGNMENT), ALIGNMENT).map_err(|_| {
            Error::new(format!("an arena of {bytes} bytes is beyond any memory; use a smaller batch or model"))
        })?;
        memory::require(bytes)?;
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(memory::refused(bytes));
        }
        self.allocations.insert(start as u64, Allocation { layout, bytes, shadow: None });
        Ok(start as u64)
    }

    pub fn free(&mut self, address: u64) {
        if let Some(allocation) = self.allocations.remove(&address) {
            // SAFETY: allocated in `alloc` with this layout and removed from the map just now.
            unsafe { dealloc(address as *mut u8, allocation.layout) }
        }
        self.published.clear();
    }

    /// The allocation that holds all of these bytes: its start, and how many it has.
    fn find(&self, address: u64, bytes: u64) -> Option<(u64, u64)> {
        let (start, allocation) = self.allocations.range(..=address).next_back()?;
        let size = allocation.bytes as u64;
        (address.checked_add(bytes)? <= start + size).then_some((*start, size))
    }

    /// Rows lie inside one allocation.
    pub fn check(&self, rows: &Rows) -> Result<()> {
        let Some(bytes) = rows.extent() else { bail!("rows that overlap, or are beyond any memory: {rows:?}") };
        if rows.bytes() > 0 && self.find(rows.address, bytes as u64).is_none() {
            bail!("{bytes} bytes at {:#x} lie in no allocation of the emulator", rows.address);
        }
        Ok(())
    }

    pub fn write(&mut self, to: &Rows, bytes: &[u8]) -> Result<()> {
        self.check(to)?;
        if bytes.len() != to.bytes() {
            bail!("{} bytes for {to:?}", bytes.len());
        }
        for (r, row) in bytes.chunks_exact(to.width.max(1)).enumerate().take(to.rows) {
            let at = to.address + (r * to.pitch) as u64;
            // SAFETY: inside an allocation (`check`); `&mut self` excludes kernels.
            unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), at as *mut u8, row.len()) };
            self.mark(at, row.len(), true);
        }
        Ok(())
    }

    pub fn read(&self, from: &Rows, bytes: &mut [u8]) -> Result<()> {
        self.check(from)?;
        if bytes.len() != from.bytes() {
            bail!("{} bytes for {from:?}", bytes.len());
        }
        for (r, row) in bytes.chunks_exact_mut(from.width.max(1)).enumerate().take(from.rows) {
            let at = from.address + (r * from.pitch) as u64;
            // SAFETY: inside an allocation (`check`), which is always initialised memory of the host; kernels run under `&mut`.
            unsafe { std::ptr::copy_nonoverlapping(at as *const u8, row.as_mut_ptr(), row.len()) };
        }
        Ok(())
    }

    pub fn copy(&mut self, from: &Rows, to: &Rows) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        if (from.rows, from.width) != (to.rows, to.width) {
            bail!("{} rows of {} bytes copied to {} of {}", from.rows, from.width, to.rows, to.width);
        }
        for r in 0..from.rows {
            let (source, target) = (from.address + (r * from.pitch) as u64, to.address + (r * to.pitch) as u64);
            // SAFETY: both inside allocations (`check`); `copy` allows them to overlap.
            unsafe { std::ptr::copy(source as *const u8, target as *mut u8, from.width) };
            self.mark(target, to.width, true);
        }
        Ok(())
    }

    fn mark(&mut self, address: u64, bytes: usize, written: bool) {
        let Some((start, _)) = self.find(address, bytes as u64) else { return };
        if let Some(shadow) = self.allocations.get_mut(&start).and_then(|a| a.shadow.as_mut()) {
            shadow.mark((address - start) as usize, bytes, written);
        }
    }

    /// What the operation that begins may touch. With checks on, what it must write counts as not written yet, unless it is
    /// read in place.
    pub fn operands(&mut self, regions: &[Region], checks: bool) {
        self.regions.clear();
        self.regions.extend_from_slice(regions);
        if !checks {
            return;
        }
        self.shadow_all();
        let read = |address| regions.iter().any(|r| r.access != Access::Write && r.rows.address == address);
        for rows in regions.iter().filter(|r| r.access == Access::Write && !read(r.rows.address)).map(|r| r.rows) {
            (0..rows.rows).for_each(|r| self.mark(rows.address + (r * rows.pitch) as u64, rows.width, false));
        }
    }

    /// All bytes, by address.
    pub fn copy_all(&self) -> Vec<(Rows, Vec<u8>)> {
        let bytes = |(&start, allocation): (&u64, &Allocation)| {
            let mut bytes = vec![0; allocation.bytes];
            let rows = Rows { address: start, rows: 1, width: bytes.len(), pitch: bytes.len() };
            self.read(&rows, &mut bytes).ok().map(|()| (rows, bytes))
        };
        self.allocations.iter().filter_map(bytes).collect()
    }

    /// Puts back what [`Memory::copy_all`] gave, where the allocations are still there.
    pub fn put_back(&mut self, copy: &[(Rows, Vec<u8>)]) {
        copy.iter().for_each(|(rows, bytes)| drop(self.write(rows, bytes)));
    }

    /// Every allocation has a shadow from now on.
    pub fn shadow_all(&mut self) {
        for allocation in self.allocations.values_mut().filter(|a| a.shadow.is_none()) {
            allocation.shadow = Some(Shadow::global(allocation.bytes));
        }
    }

    /// Forgets all accesses: numbers of blocks begin again.
    pub fn forget(&mut self) {
        self.allocations.values_mut().filter_map(|a| a.shadow.as_mut()).for_each(Shadow::forget);
        self.published.clear();
    }

    /// The shadow of an access and where in it the access begins.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn locate(&mut self, address: u64, bytes: u64, write: bool) -> Result<(&mut Shadow, usize), String> {
        let allowed = |r| operands::allows(r, address, bytes, write);
        let found = self.find(address, bytes);
        if !self.regions.is_empty() && (found.is_none() || !self.regions.iter().any(allowed)) {
            return Err(self.forbidden(address, bytes, write));
        }
        let Some((start, _)) = found else { return Err(self.outside(address, bytes, write)) };
        match self.allocations.get_mut(&start).and_then(|a| a.shadow.as_mut()) {
            Some(shadow) => Ok((shadow, (address - start) as usize)),
            None => Err("an access to memory without a shadow".into()),
        }
    }

    /// What an access outside of all allocations is near to, where no operands are known.
    fn outside(&self, address: u64, bytes: u64, write: bool) -> String {
        let what = operands::access(bytes, write);
        let end = |start: &u64, a: &Allocation| start + a.bytes as u64;
        let before =
            self.allocations.range(..=address).next_back().map(|(s, a)| (address.saturating_sub(end(s, a)), a.bytes));
        let after = self.allocations.range(address..).next().map(|(s, a)| (s - address, a.bytes));
        match (before, after) {
            (Some((gap, size)), other) if other.is_none_or(|(distance, _)| gap < distance) && gap < NEAR => {
                format!("{what}, {gap} bytes after the end of an allocation of {size} bytes")
            }
            (_, Some((distance, size))) if distance < NEAR => {
                format!("{what}, {distance} bytes before the start of an allocation of {size} bytes")
            }
            _ => format!("{what} at {address:#x}, which is neither global nor shared memory of this block"),
        }
    }

    fn forbidden(&self, address: u64, bytes: u64, write: bool) -> String {
        let readable = self.regions.iter().any(|r| operands::allows(r, address, bytes, false));
        match operands::inside(&self.regions, address, bytes, write).filter(|_| write && readable) {
            Some(place) => format!("{} to {place}, which the operation only reads", operands::access(bytes, true)),
            None => operands::outside(&self.regions, address, bytes, write),
        }
    }

    /// What the operation in hand may touch.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let all: Vec<u64> = self.allocations.keys().copied().collect();
        all.into_iter().for_each(|address| self.free(address));
    }
}
