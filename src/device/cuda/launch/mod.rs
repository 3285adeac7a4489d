//! One kernel launch: what both drivers are handed.

pub(crate) mod accumulate;
pub(crate) mod activation;
pub(crate) mod adamw;
pub mod addresses;
pub(crate) mod attention;
pub(crate) mod attention_backward;
pub(crate) mod column_sum;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub(crate) mod elements;
pub(crate) mod embedding;
pub(crate) mod fill;
pub(crate) mod global_norm;
pub(crate) mod layernorm;
pub(crate) mod linear;
pub(crate) mod multilevel;
pub mod sm80;
pub mod sm90;
pub(crate) mod squared_error;

use super::driver::Rows;
use crate::bail;
use crate::device::ops::Access;
use crate::error::Result;
use std::fmt;

/// A kernel, its grid and its parameters. Plain data: a captured step is a list of them.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// The `extern "C"` name in `kernels/`.
    pub kernel: &'static str,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    pub args: Args,
    /// Every size fits the kernel's `int`.
    fits: bool,
}

impl Launch {
    /// A launch of `blocks` blocks of `threads` threads.
    pub fn new(kernel: &'static str, blocks: usize, threads: u32) -> Self {
        Launch {
            kernel,
            grid: [count(blocks), 1, 1],
            block: [threads, 1, 1],
            shared: 0,
            args: Args::default(),
            fits: true,
        }
    }

    /// Blocks along y and z too.
    #[must_use]
    pub fn grid(self, x: usize, y: usize, z: usize) -> Self {
        Launch { grid: [count(x), count(y), count(z)], ..self }
    }

    /// Threads along y too.
    #[must_use]
    pub fn block(self, x: u32, y: u32) -> Self {
        Launch { block: [x, y, 1], ..self }
    }

    /// Bytes of dynamic shared memory.
    #[must_use]
    pub fn shared(self, bytes: usize) -> Self {
        Launch { shared: count(bytes), ..self }
    }

    /// The next parameter: an address in device memory; 0 for none.
    #[must_use]
    pub fn ptr(mut self, address: u64) -> Self {
        self.args.push(Kind::Address, address.to_le_bytes());
        self
    }

    /// The next parameter: a matrix for the copy engine, `const __grid_constant__ TensorMap`.
    #[must_use]
    pub fn map(mut self, map: TensorMap) -> Self {
        self.args.push_map(map);
        self
    }

    /// The next parameter: `int`. One that does not fit makes the launch [too large](Launch::check).
    #[must_use]
    pub fn int(mut self, value: usize) -> Self {
        self.fits &= i32::try_from(value).is_ok();
        self.args.push(Kind::Int, (value as i32).to_le_bytes());
        self
    }

    /// The next parameter: `int` of either sign.
    #[must_use]
    pub fn signed(mut self, value: i32) -> Self {
        self.args.push(Kind::Int, value.to_le_bytes());
        self
    }

    /// The next parameter: `unsigned`.
    #[must_use]
    pub fn word(mut self, value: u32) -> Self {
        self.args.push(Kind::Unsigned, value.to_le_bytes());
        self
    }

    /// The next parameter: an `int` that is 0 or 1.
    #[must_use]
    pub fn flag(self, value: bool) -> Self {
        self.signed(i32::from(value))
    }

    /// The next parameter: `float`.
    #[must_use]
    pub fn float(mut self, value: f64) -> Self {
        self.args.push(Kind::Float, (value as f32).to_le_bytes());
        self
    }

    /// The launch is one that CUDA can make.
    ///
    /// # Errors
    /// A size beyond 2^31, or more blocks than a grid has.
    pub fn check(&self) -> Result<()> {
        let [x, y, z] = self.grid;
        if !self.fits || x > i32::MAX as u32 {
            bail!("{}: a size of 2^31 or more; use a smaller batch or model", self.kernel);
        }
        if y > 65_535 || z > 65_535 {
            bail!(
                "{}: a grid of {x} x {y} x {z} blocks, but only 65,535 go along y and z; use a smaller batch",
                self.kernel
            );
        }
        Ok(())
    }

    /// True when there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A matrix that `tma_load` copies boxes of, `tma_store` to, and that `tma_add` adds to (`kernels/ptx/tma.cuh`), with
/// "swizzle 128B"; or one for each head of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct TensorMap {
    /// Of the first element; a multiple of 16.
    pub address: u64,
    pub rows: u64,
    pub columns: u64,
    /// Bytes from a row to the next; a multiple of 16.
    pub pitch: u64,
    /// Rows of a box, at most 256.
    pub box_rows: u64,
    /// 0 for a single matrix.
    pub heads: u64,
    /// Bytes from the matrix of one head to the next's; a multiple of 16, as the next.
    pub head_pitch: u64,
    pub batches: u64,
    pub batch_pitch: u64,
    /// Bytes of an element: 2 (bf16), or 4 (f32).
    pub element: u64,
    unused: [u64; 6],
}

impl TensorMap {
    /// Bytes of a row of a box.
    pub const ROW: u64 = 128;
    /// Bytes of the kernels' parameter.
    pub const BYTES: usize = 128;

    /// A matrix of bf16 in rows `pitch` bytes apart, in boxes of `box_rows` x 64.
    pub fn new(address: u64, [rows, columns]: [usize; 2], pitch: usize, box_rows: usize) -> Self {
        let [rows, columns, pitch, box_rows] = [rows, columns, pitch, box_rows].map(|n| n as u64);
        TensorMap { address, rows, columns, pitch, box_rows, element: 2, ..TensorMap::default() }
    }

    /// This matrix of f32 instead, in boxes of 32 columns.
    #[must_use]
    pub fn of_floats(self) -> Self {
        TensorMap { element: 4, ..self }
    }

    /// Columns of a box.
    pub fn box_columns(&self) -> u64 {
        Self::ROW / self.element
    }

    /// This matrix for each of so many batches and heads, the next's so many bytes further on.
    #[must_use]
    pub fn of_many(self, [batches, heads]: [usize; 2], [batch_pitch, head_pitch]: [usize; 2]) -> Self {
        let [heads, head_pitch, batches, batch_pitch] = [heads, head_pitch, batches, batch_pitch].map(|n| n as u64);
        TensorMap { heads, head_pitch, batches, batch_pitch, ..self }
    }
}

/// The type of a parameter, as kernels declare it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    #[default]
    Address,
    Map,
    Int,
    Unsigned,
    Float,
}

/// Parameters, each in a slot of its own.
#[derive(Clone, Copy, Default)]
pub struct Args {
    slots: [u64; Args::MOST],
    kinds: [Kind; Args::MOST],
    sizes: [u8; Args::MOST],
    len: usize,
    maps: [TensorMap; Args::MOST_MAPS],
    maps_len: usize,
}

impl Args {
    /// Most parameters of a launch.
    pub const MOST: usize = 32;
    /// Most matrices for the copy engine.
    pub const MOST_MAPS: usize = 7;

    /// # Panics
    /// Beyond 32 parameters: their number is written in the program.
    fn push<const N: usize>(&mut self, kind: Kind, bytes: [u8; N]) {
        let mut slot = [0; 8];
        slot[..N].copy_from_slice(&bytes);
        self.slots[self.len] = u64::from_le_bytes(slot);
        self.kinds[self.len] = kind;
        self.sizes[self.len] = N as u8;
        self.len += 1;
    }

    /// # Panics
    /// Beyond seven maps, as `push`.
    fn push_map(&mut self, map: TensorMap) {
        self.slots[self.len] = self.maps_len as u64;
        self.kinds[self.len] = Kind::Map;
        self.sizes[self.len] = TensorMap::BYTES as u8;
        self.len += 1;
        self.maps[self.maps_len] = map;
        self.maps_len += 1;
    }

    /// The matrices among the parameters; the slot of such a parameter is its number here.
    pub fn maps(&self) -> &[TensorMap] {
        &self.maps[..self.maps_len]
    }

    /// Two parameters of one type change places; of matrices for TMA, if so asked, their pitches alone.
    ///
    /// # Panics
    /// If there are not so many, or they differ in type.
    #[cfg(emulated)]
    pub(super) fn exchange(&mut self, [a, b]: [usize; 2], pitches: bool) {
        assert_eq!(self.kinds()[a], self.kinds()[b], "parameters of one type");
        if pitches {
            let [a, b] = [a, b].map(|at| self.slots[at] as usize);
            (self.maps[a].pitch, self.maps[b].pitch) = (self.maps[b].pitch, self.maps[a].pitch);
        } else {
            self.slots.swap(a, b);
        }
    }

    /// Size in bytes of each.
    pub fn sizes(&self) -> &[u8] {
        &self.sizes[..self.len]
    }

    /// Type of each.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds[..self.len]
    }

    /// Each in the low bytes of a word (devices and the hosts that drive them are little-endian).
    pub fn slots(&self) -> &[u64] {
        &self.slots[..self.len]
    }
}

impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.slots().iter().map(|s| format!("{s:#x}"))).finish()
    }
}

/// What an operation says of one operand's memory, so that the emulator can hold its kernels to it.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// The operand's, for messages.
    pub name: &'static str,
    pub rows: Rows,
    /// Bytes of an element.
    pub element: usize,
    pub access: Access,
}
