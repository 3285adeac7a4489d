//! What `cuda` runs on: an NVIDIA GPU through libcuda, or emulated hardware.

#[cfg(emulated)]
pub mod emulator;
pub mod nvidia;

use super::launch::{Launch, Region};
use crate::error::Result;

/// Memory and launches. Addresses are the device's own; 0 is none.
pub trait Driver {
    /// Zeroed memory, aligned to 256 bytes.
    ///
    /// # Errors
    /// Out of memory: says how much was wanted and how much there is.
    fn alloc(&mut self, bytes: usize) -> Result<u64>;

    fn free(&mut self, address: u64);

    /// Host to device. Rows of `width` bytes, `pitch` bytes apart on the device and back to back in `bytes`.
    fn write(&mut self, to: Rows, bytes: &[u8]) -> Result<()>;

    /// Device to host, after the work in flight.
    fn read(&mut self, from: Rows, bytes: &mut [u8]) -> Result<()>;

    /// Device to device; equal rows.
    fn copy(&mut self, from: Rows, to: Rows) -> Result<()>;

    /// An operation with these operands begins: its launches follow.
    fn operands(&mut self, regions: &[Region]);

    /// Starts a kernel. Work runs in the order in which it was started.
    fn launch(&mut self, launch: &Launch) -> Result<()>;

    /// Waits for the work in flight.
    fn sync(&mut self) -> Result<()>;
}

/// A matrix of bytes in device memory.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    pub address: u64,
    pub rows: usize,
    pub width: usize,
    pub pitch: usize,
}
