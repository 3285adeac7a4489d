//! The [`Driver`] trait, through which kernels run on an NVIDIA GPU (libcuda) or on emulated hardware.

#[cfg(emulated)]
pub mod emulator;
pub mod nvidia;

use super::gpu_spec::GpuSpec;
use super::launch::{Launch, Region};
use crate::device::PendingRead;
use crate::error::Result;
use std::time::Duration;

/// Device memory, copies and kernel launches. Addresses are device addresses, and 0 is the null pointer.
///
/// Copies check that their rows lie in live allocations. What a kernel does with the addresses among its parameters
/// cannot be checked, so launching one is unsafe.
///
/// ```compile_fail,E0133
/// use vcycle::device::cuda::{driver::Driver, launch::Launch};
/// fn start(driver: &mut impl Driver, address: u64) {
///     let _ = driver.launch(&Launch::new("fill_f32", 1, 32).ptr(address));
/// }
/// ```
pub trait Driver {
    /// Allocates zeroed memory, aligned to 256 bytes, and returns its address.
    ///
    /// # Errors
    /// Fails when the device is out of memory. The message says how much was requested and how much is free.
    fn alloc(&mut self, bytes: usize) -> Result<u64>;

    /// Frees an allocation once the work in flight has finished. Ignores an address that is no live allocation. Graphs
    /// that use the memory must not be [replayed](Driver::replay) any more.
    fn free(&mut self, address: u64);

    /// Copies from host to device. `bytes` holds the rows back to back.
    ///
    /// # Errors
    /// Like all copies, fails if the rows do not lie in a live allocation or `bytes` has another size.
    fn write(&mut self, to: Rows, bytes: &[u8]) -> Result<()>;

    /// Copies from device to host once the work in flight has finished. `bytes` gets the rows back to back.
    fn read(&mut self, from: Rows, bytes: &mut [u8]) -> Result<()>;

    /// Starts a copy from device to host behind the work in flight and returns without waiting: see
    /// [`Device::read_async`](crate::device::Device::read_async).
    fn read_async(&mut self, from: Rows) -> Result<PendingRead>;

    /// Waits for a copy that [`Driver::read_async`] started, and stores its rows in `bytes`.
    fn wait_read(&mut self, ticket: PendingRead, bytes: &mut [u8]) -> Result<()>;

    /// Copies from device to device. Both sides have the same number of rows of the same width.
    fn copy(&mut self, from: Rows, to: Rows) -> Result<()>;

    /// Announces an operation and the variant that runs it, for messages. Its operands and launches follow.
    fn operation(&mut self, _name: &'static str, _variant: &'static str) {}

    /// Announces the operands of an operation. Its launches follow.
    fn operands(&mut self, regions: &[Region]);

    /// Launches a kernel. Work runs in launch order.
    ///
    /// # Safety
    /// All memory that the kernel accesses through its parameters must lie in allocations of this driver that stay live
    /// until the kernel has finished ([`Driver::free`] waits for that). `variants` and `bounds` guarantee it for the
    /// kernels in `kernels/`.
    unsafe fn launch(&mut self, launch: &Launch) -> Result<()>;

    /// Waits until all work has finished.
    fn sync(&mut self) -> Result<()>;

    /// Records launches as one graph and returns its number. Nothing runs now.
    ///
    /// # Safety
    /// The parameters must match those of the kernels, as for [`Driver::launch`].
    unsafe fn record(&mut self, parts: &[Part]) -> Result<u32>;

    /// Launches a recorded graph.
    ///
    /// # Safety
    /// The contract of [`Driver::launch`] must hold for every recorded launch: none of the memory they use may have
    /// been freed since.
    unsafe fn replay(&mut self, graph: u32) -> Result<()>;

    /// Destroys a graph.
    fn release(&mut self, graph: u32);

    /// Records a time stamp behind the work in flight.
    fn stamp(&mut self) -> Result<()>;

    /// Waits for all time stamps, calls `each` with the time between consecutive ones, in order, and discards them.
    fn stamps(&mut self, each: &mut dyn FnMut(Duration)) -> Result<()>;

    /// Begins a named range for profilers such as Nsight Systems (NVTX).
    fn begin_range(&mut self, _name: &str) {}

    /// Ends the innermost range.
    fn end_range(&mut self) {}

    /// Returns what distinguishes this driver from others of its type, such as the order in which it runs threads. For
    /// messages.
    fn label(&self) -> Option<String> {
        None
    }

    /// Returns the peak rates of the device, for time models.
    fn gpu(&self) -> GpuSpec;
}

/// The operands and launches of one operation.
#[derive(Clone, Debug)]
pub struct Part {
    /// The name of the operation.
    pub name: &'static str,
    /// The name of the variant that runs it.
    pub variant: &'static str,
    /// The memory of its operands and workspace.
    pub regions: Vec<Region>,
    /// Its launches, in order.
    pub launches: Vec<Launch>,
}

impl Part {
    /// Launches all kernels, in order.
    ///
    /// # Safety
    /// The contract of [`Driver::launch`] must hold for every launch.
    ///
    /// # Errors
    /// Fails when a launch fails. The message names the operation.
    pub unsafe fn start(&self, driver: &mut (impl Driver + ?Sized)) -> Result<()> {
        driver.operation(self.name, self.variant);
        driver.operands(&self.regions);
        // SAFETY: guaranteed by the caller.
        let mut launch = |launch: &Launch| unsafe { driver.launch(launch) };
        self.launches.iter().try_for_each(&mut launch).map_err(|e| e.at(self.name))
    }
}

/// A matrix of bytes in device memory.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// The address of the first row.
    pub address: u64,
    /// The number of rows.
    pub rows: usize,
    /// Bytes per row.
    pub width: usize,
    /// Bytes from the start of one row to the next.
    pub pitch: usize,
}

impl Rows {
    /// Returns the bytes from the first to one past the last; `None` if rows overlap or the number overflows `usize`.
    pub fn extent(&self) -> Option<usize> {
        match self.rows {
            0 => Some(0),
            1 => Some(self.width),
            _ if self.pitch < self.width => None,
            rows => (rows - 1).checked_mul(self.pitch)?.checked_add(self.width),
        }
    }

    /// Returns the bytes of all rows back to back, without gaps.
    pub fn bytes(&self) -> usize {
        self.rows.saturating_mul(self.width)
    }
}
