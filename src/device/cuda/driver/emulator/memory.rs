//! Emulated global memory: host allocations with their shadow memory, and the operands that the current operation may
//! access.

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

/// An access farther away from an allocation than this, in bytes, is not described by that allocation.
const NEAR: u64 = 1 << 20;
/// The alignment of `cudaMalloc`, in bytes.
const ALIGNMENT: usize = 256;

struct Allocation {
    layout: Layout,
    bytes: usize,
    /// Created when checks are first used.
    shadow: Option<Shadow>,
}

/// The global memory of an emulated device.
#[derive(Default)]
pub struct Memory {
    /// Allocations by address.
    allocations: BTreeMap<u64, Allocation>,
    /// The operands that the current operation may read and write; if empty, it may access all memory.
    regions: Vec<Region>,
    /// What atomics on each word have published, by the word's address.
    pub published: HashMap<u64, Seen>,
}

// SAFETY: the allocations are plain memory that this value owns.
unsafe impl Send for Memory {}

impl Memory {
    /// Allocates zeroed memory and returns its address.
    ///
    /// # Errors
    /// Out of memory.
    pub fn alloc(&mut self, bytes: usize) -> Result<u64> {
        let layout = Layout::from_size_align(bytes.max(1).next_multiple_of(ALIGNMENT), ALIGNMENT).map_err(|_| {
            Error::new(format!("an arena of {bytes} bytes exceeds the address space; use a smaller batch or model"))
        })?;
        memory::require(bytes)?;
        // SAFETY: the size of the layout is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            return Err(memory::refused(bytes));
        }
        self.allocations.insert(start as u64, Allocation { layout, bytes, shadow: None });
        Ok(start as u64)
    }

    /// Frees the allocation at `address`, if there is one.
    pub fn free(&mut self, address: u64) {
        if let Some(allocation) = self.allocations.remove(&address) {
            // SAFETY: allocated in `alloc` with this layout and removed from the map just now.
            unsafe { dealloc(address as *mut u8, allocation.layout) }
        }
        self.published.clear();
    }

    /// Finds the allocation that contains all of these bytes. Returns its start and its size.
    fn find(&self, address: u64, bytes: u64) -> Option<(u64, u64)> {
        let (start, allocation) = self.allocations.range(..=address).next_back()?;
        let size = allocation.bytes as u64;
        (address.checked_add(bytes)? <= start + size).then_some((*start, size))
    }

    /// Checks that rows lie inside one allocation.
    ///
    /// # Errors
    /// They do not, or they overlap.
    pub fn check(&self, rows: &Rows) -> Result<()> {
        let Some(bytes) = rows.extent() else { bail!("rows overlap or exceed the address space: {rows:?}") };
        if rows.bytes() > 0 && self.find(rows.address, bytes as u64).is_none() {
            bail!("{bytes} bytes at {:#x} are not inside an allocation of the emulator", rows.address);
        }
        Ok(())
    }

    /// Copies from the host. `bytes` holds the rows back to back.
    ///
    /// # Errors
    /// Rows outside of memory, or that do not fit `bytes`.
    pub fn write(&mut self, to: &Rows, bytes: &[u8]) -> Result<()> {
        self.check(to)?;
        if bytes.len() != to.bytes() {
            bail!("cannot copy {} bytes to {to:?}: the sizes differ", bytes.len());
        }
        for (r, row) in bytes.chunks_exact(to.width.max(1)).enumerate().take(to.rows) {
            let at = to.address + (r * to.pitch) as u64;
            // SAFETY: inside an allocation (`check`); `&mut self` excludes running kernels.
            unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), at as *mut u8, row.len()) };
            self.mark(at, row.len(), true);
        }
        Ok(())
    }

    /// Copies to the host. `bytes` gets the rows back to back.
    ///
    /// # Errors
    /// Rows outside of memory, or that do not fit `bytes`.
    pub fn read(&self, from: &Rows, bytes: &mut [u8]) -> Result<()> {
        self.check(from)?;
        if bytes.len() != from.bytes() {
            bail!("cannot copy {from:?} to {} bytes: the sizes differ", bytes.len());
        }
        for (r, row) in bytes.chunks_exact_mut(from.width.max(1)).enumerate().take(from.rows) {
            let at = from.address + (r * from.pitch) as u64;
            // SAFETY: inside an allocation (`check`), which the host has initialised; kernels run under `&mut self`.
            unsafe { std::ptr::copy_nonoverlapping(at as *const u8, row.as_mut_ptr(), row.len()) };
        }
        Ok(())
    }

    /// Copies rows from device to device.
    ///
    /// # Errors
    /// Rows outside of memory, or of different sizes.
    pub fn copy(&mut self, from: &Rows, to: &Rows) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        if (from.rows, from.width) != (to.rows, to.width) {
            bail!("cannot copy {} rows of {} bytes to {} rows of {}", from.rows, from.width, to.rows, to.width);
        }
        for r in 0..from.rows {
            let (source, target) = (from.address + (r * from.pitch) as u64, to.address + (r * to.pitch) as u64);
            // SAFETY: both are inside allocations (`check`); `ptr::copy` allows them to overlap.
            unsafe { std::ptr::copy(source as *const u8, target as *mut u8, from.width) };
            self.mark(target, to.width, true);
        }
        Ok(())
    }

    /// Marks bytes as written or unwritten, if there is shadow memory.
    fn mark(&mut self, address: u64, bytes: usize, written: bool) {
        let Some((start, _)) = self.find(address, bytes as u64) else { return };
        if let Some(shadow) = self.allocations.get_mut(&start).and_then(|a| a.shadow.as_mut()) {
            shadow.mark((address - start) as usize, bytes, written);
        }
    }

    /// Sets the operands that the next operation may access. With checks on, its outputs are marked as unwritten,
    /// unless they share memory with an input.
    pub fn operands(&mut self, regions: &[Region], checks: bool) {
        self.regions.clear();
        self.regions.extend_from_slice(regions);
        if !checks {
            return;
        }
        self.shadow_all();
        let is_read = |address| regions.iter().any(|r| r.access != Access::Write && r.rows.address == address);
        for rows in regions.iter().filter(|r| r.access == Access::Write && !is_read(r.rows.address)).map(|r| r.rows) {
            (0..rows.rows).for_each(|r| self.mark(rows.address + (r * rows.pitch) as u64, rows.width, false));
        }
    }

    /// Returns a copy of all allocations.
    pub fn copy_all(&self) -> Vec<(Rows, Vec<u8>)> {
        let bytes = |(&start, allocation): (&u64, &Allocation)| {
            let mut bytes = vec![0; allocation.bytes];
            let rows = Rows { address: start, rows: 1, width: bytes.len(), pitch: bytes.len() };
            self.read(&rows, &mut bytes).ok().map(|()| (rows, bytes))
        };
        self.allocations.iter().filter_map(bytes).collect()
    }

    /// Restores what [`Memory::copy_all`] returned, as far as the allocations still exist.
    pub fn restore(&mut self, copy: &[(Rows, Vec<u8>)]) {
        copy.iter().for_each(|(rows, bytes)| drop(self.write(rows, bytes)));
    }

    /// Gives every allocation shadow memory.
    pub fn shadow_all(&mut self) {
        for allocation in self.allocations.values_mut().filter(|a| a.shadow.is_none()) {
            allocation.shadow = Some(Shadow::global(allocation.bytes));
        }
    }

    /// Forgets all accesses, because instances are numbered from the start again.
    pub fn forget(&mut self) {
        self.allocations.values_mut().filter_map(|a| a.shadow.as_mut()).for_each(Shadow::forget);
        self.published.clear();
    }

    /// Returns the shadow memory of an access, and the byte in it at which the access begins.
    ///
    /// # Errors
    /// Describes what is wrong with the address.
    pub fn locate(&mut self, address: u64, bytes: u64, write: bool) -> Result<(&mut Shadow, usize), String> {
        let allowed = |r| operands::allows(r, address, bytes, write);
        let found = self.find(address, bytes);
        if !self.regions.is_empty() && (found.is_none() || !self.regions.iter().any(allowed)) {
            return Err(self.forbidden(address, bytes, write));
        }
        let Some((start, _)) = found else { return Err(self.outside(address, bytes, write)) };
        match self.allocations.get_mut(&start).and_then(|a| a.shadow.as_mut()) {
            Some(shadow) => Ok((shadow, (address - start) as usize)),
            None => Err("an access to memory that has no shadow memory".into()),
        }
    }

    /// Describes an access outside of all allocations by the nearest one, for launches without operands.
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

    /// Describes an access that the operands of the current operation do not allow.
    fn forbidden(&self, address: u64, bytes: u64, write: bool) -> String {
        let readable = self.regions.iter().any(|r| operands::allows(r, address, bytes, false));
        match operands::inside(&self.regions, address, bytes, write).filter(|_| write && readable) {
            Some(place) => format!("{} to {place}, which the operation only reads", operands::access(bytes, true)),
            None => operands::outside(&self.regions, address, bytes, write),
        }
    }

    /// Returns the operands of the current operation.
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
