//! The device addresses of arenas, tensors and the workspace.

use crate::bail;
use crate::device::bounds;
use crate::device::cuda::driver::Rows;
use crate::error::Result;
use crate::tensor::{Place, Tensor};

/// The number of 4-byte counters at the start of the workspace. Split-K kernels count the finished parts of each tile
/// with them.
pub const TICKETS: usize = 16_384;

/// The addresses of a device's arenas and its workspace: what launch code needs to turn operands into pointers.
#[derive(Default)]
pub struct Addresses {
    /// Address and size in bytes by arena number; `None` once freed.
    arenas: Vec<Option<(u64, usize)>>,
    /// Address and size in bytes.
    workspace: (u64, usize),
    /// The number of SMs, which determines the grid of persistent kernels.
    pub sms: usize,
}

impl Addresses {
    /// Creates an empty table for a device with `sms` SMs.
    pub fn new(sms: usize) -> Self {
        Addresses { sms, ..Addresses::default() }
    }

    /// Adds an arena and returns its number. Numbers are never reused.
    pub fn add(&mut self, address: u64, bytes: usize) -> u32 {
        self.arenas.push(Some((address, bytes)));
        self.arenas.len() as u32 - 1
    }

    /// Removes an arena and returns its address.
    pub fn remove(&mut self, arena: u32) -> Option<u64> {
        self.arenas.get_mut(arena as usize)?.take().map(|(address, _)| address)
    }

    /// Removes all arenas and returns their addresses.
    pub(in crate::device::cuda) fn drain(&mut self) -> impl Iterator<Item = u64> {
        self.arenas.drain(..).flatten().map(|(address, _)| address)
    }

    /// Returns the size of an arena in bytes, `None` if it was freed or never existed.
    pub fn bytes(&self, arena: u32) -> Option<usize> {
        self.arenas.get(arena as usize).copied().flatten().map(|(_, bytes)| bytes)
    }

    /// Returns the address of the workspace: scratch memory that all operations share, since they run one after
    /// another. It begins with [`TICKETS`] counters that are zero whenever no kernel runs.
    pub fn workspace(&self) -> u64 {
        self.workspace.0
    }

    /// Sets the address and size of the workspace.
    pub(in crate::device::cuda) fn set_workspace(&mut self, address: u64, bytes: usize) {
        self.workspace = (address, bytes);
    }

    /// Returns the workspace as a single row of bytes.
    pub(in crate::device::cuda) fn workspace_rows(&self) -> Rows {
        let (address, bytes) = self.workspace;
        Rows { address, rows: 1, width: bytes, pitch: bytes }
    }

    /// Returns the address of a tensor's first element; 0 if it has no place in an arena or the arena was freed.
    /// Operands must have passed [`bounds::check`].
    pub fn ptr(&self, t: &Tensor) -> u64 {
        let Place::Arena(number) = t.place() else { return 0 };
        let arena = self.arenas.get(number as usize).copied().flatten();
        arena.map_or(0, |(address, _)| address + (t.offset() * t.dtype().bytes()) as u64)
    }

    /// Returns [`Addresses::ptr`] of an optional operand, 0 (a null pointer) for `None`.
    pub fn maybe(&self, t: &Option<Tensor>) -> u64 {
        t.as_ref().map_or(0, |t| self.ptr(t))
    }

    /// Returns the rows of a tensor, in bytes.
    ///
    /// # Errors
    /// Fails if the tensor does not lie within a live arena.
    pub fn rows(&self, t: &Tensor) -> Result<Rows> {
        bounds::locate(t, |arena| self.bytes(arena))?;
        let size = t.dtype().bytes();
        Ok(Rows { address: self.ptr(t), rows: t.rows(), width: t.width() * size, pitch: t.pitch() * size })
    }

    /// Returns [`Addresses::rows`] for a copy of `bytes` host bytes.
    ///
    /// # Errors
    /// Also fails if `bytes` is not the size of the tensor.
    pub fn packed(&self, t: &Tensor, bytes: usize) -> Result<Rows> {
        if bytes != t.bytes() {
            bail!("{bytes} bytes given for {t:?}, which has {}", t.bytes());
        }
        self.rows(t)
    }
}
