//! Where tensors lie in device memory.

use crate::bail;
use crate::device::bounds;
use crate::device::cuda::driver::Rows;
use crate::error::Result;
use crate::tensor::{Place, Tensor};

/// Counters of 4 bytes at the start of the workspace.
pub const TICKETS: usize = 16_384;

/// The arenas of a device.
#[derive(Default)]
pub struct Addresses {
    /// Address and bytes.
    arenas: Vec<Option<(u64, usize)>>,
    workspace: (u64, usize),
    /// Multiprocessors, for kernels whose blocks stay.
    pub sms: usize,
}

impl Addresses {
    /// None yet, on a device of so many multiprocessors.
    pub fn new(sms: usize) -> Self {
        Addresses { sms, ..Addresses::default() }
    }

    pub fn add(&mut self, address: u64, bytes: usize) -> u32 {
        self.arenas.push(Some((address, bytes)));
        self.arenas.len() as u32 - 1
    }

    /// Forgets an arena; its address.
    pub fn remove(&mut self, arena: u32) -> Option<u64> {
        self.arenas.get_mut(arena as usize)?.take().map(|(address, _)| address)
    }

    /// The addresses of all arenas, which it forgets.
    pub(in crate::device::cuda) fn drain(&mut self) -> impl Iterator<Item = u64> {
        self.arenas.drain(..).flatten().map(|(address, _)| address)
    }

    /// The bytes of an arena that was not freed.
    pub fn bytes(&self, arena: u32) -> Option<usize> {
        self.arenas.get(arena as usize).copied().flatten().map(|(_, bytes)| bytes)
    }

    /// Scratch memory that operations share, which run one after another. It begins with [`TICKETS`] counters that are zero
    /// whenever no kernel runs.
    pub fn workspace(&self) -> u64 {
        self.workspace.0
    }

    pub(in crate::device::cuda) fn set_workspace(&mut self, address: u64, bytes: usize) {
        self.workspace = (address, bytes);
    }

    pub(in crate::device::cuda) fn workspace_rows(&self) -> Rows {
        let (address, bytes) = self.workspace;
        Rows { address, rows: 1, width: bytes, pitch: bytes }
    }

    /// Address of the first element of an operand that [`bounds::check`] has passed; 0 for one that it would not pass.
    pub fn ptr(&self, t: &Tensor) -> u64 {
        let Place::Arena(number) = t.place() else { return 0 };
        let arena = self.arenas.get(number as usize).copied().flatten();
        arena.map_or(0, |(address, _)| address + (t.offset() * t.dtype().bytes()) as u64)
    }

    /// As [`Addresses::ptr`], 0 for none.
    pub fn maybe(&self, t: &Option<Tensor>) -> u64 {
        t.as_ref().map_or(0, |t| self.ptr(t))
    }

    /// The rows of a view that lies within its arena, in bytes.
    pub fn rows(&self, t: &Tensor) -> Result<Rows> {
        bounds::locate(t, |arena| self.bytes(arena))?;
        let size = t.dtype().bytes();
        Ok(Rows { address: self.ptr(t), rows: t.rows(), width: t.width() * size, pitch: t.pitch() * size })
    }

    /// As [`Addresses::rows`], for as many bytes as the view has.
    pub fn packed(&self, t: &Tensor, bytes: usize) -> Result<Rows> {
        if bytes != t.bytes() {
            bail!("{bytes} bytes for {t:?}, which has {}", t.bytes());
        }
        self.rows(t)
    }
}
