//! What `cuda` runs on: an NVIDIA GPU through libcuda, or emulated hardware.

#[cfg(emulated)]
pub mod emulator;
pub mod nvidia;

use super::gpu_spec::GpuSpec;
use super::launch::{Launch, Region};
use crate::device::Ticket;
use crate::error::Result;
use std::time::Duration;

/// Memory and launches. Addresses are the device's own; 0 is none.
///
/// Copies check that their rows lie in memory that [`Driver::alloc`] has given and [`Driver::free`] has not taken back. What a
/// kernel does with the addresses among its parameters nobody can check, so starting one is unsafe.
///
/// ```compile_fail,E0133
/// use vcycle::device::cuda::{driver::Driver, launch::Launch};
/// fn start(driver: &mut impl Driver, address: u64) {
///     let _ = driver.launch(&Launch::new("fill_f32", 1, 32).ptr(address));
/// }
/// ```
pub trait Driver {
    /// Zeroed memory, aligned to 256 bytes.
    ///
    /// # Errors
    /// Out of memory: says how much was wanted and how much there is.
    fn alloc(&mut self, bytes: usize) -> Result<u64>;

    /// Takes memory back, after the work in flight; another address is left alone. Graphs that use it must not be
    /// [replayed](Driver::replay) any more.
    fn free(&mut self, address: u64);

    /// Host to device. Rows of `width` bytes, `pitch` bytes apart on the device and back to back in `bytes`.
    ///
    /// # Errors
    /// As for all copies: rows that lie in no allocation, or do not fit the host's bytes.
    fn write(&mut self, to: Rows, bytes: &[u8]) -> Result<()>;

    /// Device to host, after the work in flight.
    fn read(&mut self, from: Rows, bytes: &mut [u8]) -> Result<()>;

    /// Starts to bring rows to the host, after the work in flight: [`Device::post`](crate::device::Device::post).
    fn read_async(&mut self, from: Rows) -> Result<Ticket>;

    /// Waits for posted rows.
    fn wait_read(&mut self, ticket: Ticket, bytes: &mut [u8]) -> Result<()>;

    /// Device to device; equal rows.
    fn copy(&mut self, from: Rows, to: Rows) -> Result<()>;

    /// An operation begins, run by this variant; its operands and launches follow. For messages.
    fn operation(&mut self, _name: &'static str, _variant: &'static str) {}

    /// An operation with these operands begins: its launches follow.
    fn operands(&mut self, regions: &[Region]);

    /// Starts a kernel. Work runs in the order in which it was started.
    ///
    /// # Safety
    /// What the kernel reads and writes by its parameters lies in allocations of this driver, and stays there until the work has
    /// ended ([`Driver::free`] waits for that). `variants` and `bounds` see to it for the kernels in `kernels/`.
    unsafe fn launch(&mut self, launch: &Launch) -> Result<()>;

    /// Waits for the work in flight.
    fn sync(&mut self) -> Result<()>;

    /// Keeps launches as one graph, to be started by one call. Nothing runs now.
    ///
    /// # Safety
    /// Parameters are those that the kernels take: as [`Driver::launch`].
    unsafe fn record(&mut self, parts: &[Part]) -> Result<u32>;

    /// Starts all launches of a graph.
    ///
    /// # Safety
    /// As [`Driver::launch`], of every launch that was recorded: none of the memory that they use was freed since.
    unsafe fn replay(&mut self, graph: u32) -> Result<()>;

    /// Forgets a graph.
    fn release(&mut self, graph: u32);

    /// Remembers when the device comes to this point of its work.
    fn stamp(&mut self) -> Result<()>;

    /// Waits for all stamps and forgets them; `each` gets the time from every one to the next, in order.
    fn stamps(&mut self, each: &mut dyn FnMut(Duration)) -> Result<()>;

    /// A range begins that tools such as Nsight Systems show.
    fn begin_range(&mut self, _name: &str) {}

    /// The range that began last ends.
    fn end_range(&mut self) {}

    /// What tells this driver from others of its kind, such as the order in which it runs threads. For messages.
    fn label(&self) -> Option<String> {
        None
    }

    /// What the time models know of this device.
    fn gpu(&self) -> GpuSpec;
}

/// The launches of one operation, and its operands.
#[derive(Clone, Debug)]
pub struct Part {
    /// The operation's name.
    pub name: &'static str,
    /// The name of what runs it.
    pub variant: &'static str,
    pub regions: Vec<Region>,
    pub launches: Vec<Launch>,
}

impl Part {
    /// Starts the launches, in order.
    ///
    /// # Safety
    /// As [`Driver::launch`].
    ///
    /// # Errors
    /// Names the operation.
    pub unsafe fn start(&self, driver: &mut (impl Driver + ?Sized)) -> Result<()> {
        driver.operation(self.name, self.variant);
        driver.operands(&self.regions);
        // SAFETY: the caller's promise.
        let mut launch = |launch: &Launch| unsafe { driver.launch(launch) };
        self.launches.iter().try_for_each(&mut launch).map_err(|e| e.at(self.name))
    }
}

/// A matrix of bytes in device memory.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    pub address: u64,
    pub rows: usize,
    pub width: usize,
    pub pitch: usize,
}

impl Rows {
    /// Bytes from the first to one past the last; none where rows overlap, or beyond `usize`.
    pub fn extent(&self) -> Option<usize> {
        match self.rows {
            0 => Some(0),
            1 => Some(self.width),
            _ if self.pitch < self.width => None,
            rows => (rows - 1).checked_mul(self.pitch)?.checked_add(self.width),
        }
    }

    /// Bytes of all rows, back to back.
    pub fn bytes(&self) -> usize {
        self.rows.saturating_mul(self.width)
    }
}
