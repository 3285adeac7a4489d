//! Kernel launches: the description of one launch, which both drivers take, and the launch code of every operation.
//!
//! `<operation>.rs` has the portable variants, [`sm80`] and [`sm90`] have the tensor-core ones.

/// A file for each operation.
macro_rules! modules {
    ($($stem:ident { $($name:ident: $op:ident),+ })+) => { $(pub(crate) mod $stem;)+ };
}

operations!(modules);

pub mod addresses;
pub(crate) mod attention_backward;
pub(crate) mod elements;
pub mod sm80;
pub mod sm90;

use super::driver::Rows;
use crate::bail;
use crate::device::ops::Access;
use crate::error::Result;
use std::fmt;

/// One kernel launch: the kernel, its grid and its parameters. It is plain data, and a captured step is a list of
/// launches.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// The `extern "C"` name in `kernels/`.
    pub kernel: &'static str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads per block along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory per block, in bytes.
    pub shared: u32,
    /// The parameters, in the order of the kernel's declaration.
    pub args: Args,
    /// Whether every size fits the kernel's `int`.
    fits: bool,
}

impl Launch {
    /// Creates a one-dimensional launch of `blocks` blocks of `threads` threads, without parameters.
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

    /// Sets the number of blocks along x, y and z.
    #[must_use]
    pub fn grid(self, x: usize, y: usize, z: usize) -> Self {
        Launch { grid: [count(x), count(y), count(z)], ..self }
    }

    /// Sets the number of threads per block along x and y.
    #[must_use]
    pub fn block(self, x: u32, y: u32) -> Self {
        Launch { block: [x, y, 1], ..self }
    }

    /// Sets the bytes of dynamic shared memory per block.
    #[must_use]
    pub fn shared(self, bytes: usize) -> Self {
        Launch { shared: count(bytes), ..self }
    }

    /// Appends a pointer parameter: an address in device memory, or 0 for null.
    #[must_use]
    pub fn ptr(mut self, address: u64) -> Self {
        self.args.push(Kind::Address, address.to_le_bytes());
        self
    }

    /// Appends a TMA descriptor parameter, declared `const __grid_constant__ TensorMap`.
    #[must_use]
    pub fn map(mut self, map: TensorMap) -> Self {
        self.args.push_map(map);
        self
    }

    /// Appends an `int` parameter. With a value of 2^31 or more, [`Launch::check`] fails.
    #[must_use]
    pub fn int(mut self, value: usize) -> Self {
        self.fits &= i32::try_from(value).is_ok();
        self.args.push(Kind::Int, (value as i32).to_le_bytes());
        self
    }

    /// Appends an `int` parameter that may be negative.
    #[must_use]
    pub fn signed(mut self, value: i32) -> Self {
        self.args.push(Kind::Int, value.to_le_bytes());
        self
    }

    /// Appends an `unsigned` parameter.
    #[must_use]
    pub fn word(mut self, value: u32) -> Self {
        self.args.push(Kind::Unsigned, value.to_le_bytes());
        self
    }

    /// Appends an `int` parameter that is 0 or 1.
    #[must_use]
    pub fn flag(self, value: bool) -> Self {
        self.signed(i32::from(value))
    }

    /// Appends a `float` parameter, rounded from f64.
    #[must_use]
    pub fn float(mut self, value: f64) -> Self {
        self.args.push(Kind::Float, (value as f32).to_le_bytes());
        self
    }

    /// Checks that the launch is within CUDA's limits.
    ///
    /// # Errors
    /// Fails on a size of 2^31 or more and on a grid with more than 65,535 blocks along y or z.
    pub fn check(&self) -> Result<()> {
        let [x, y, z] = self.grid;
        if !self.fits || x > i32::MAX as u32 {
            bail!("{}: a size is 2^31 or more; use a smaller batch or model", self.kernel);
        }
        if y > 65_535 || z > 65_535 {
            bail!(
                "{}: the grid has {x} x {y} x {z} blocks, but y and z are limited to 65,535; use a smaller batch",
                self.kernel
            );
        }
        Ok(())
    }

    /// Returns whether the grid has no blocks, so that there is nothing to launch.
    pub fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A TMA descriptor: a matrix, or one matrix per head and batch, that TMA accesses in boxes with "swizzle 128B".
///
/// `tma_load` copies a box from it, `tma_store` copies a box to it and `tma_add` adds a box to it
/// (`kernels/ptx/tma.cuh`). The driver for NVIDIA GPUs encodes it as a `CUtensorMap`; the emulator reads it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct TensorMap {
    /// The address of the first element, a multiple of 16.
    pub address: u64,
    /// Rows of one matrix.
    pub rows: u64,
    /// Columns of one matrix, in elements.
    pub columns: u64,
    /// Bytes from one row to the next, a multiple of 16.
    pub pitch: u64,
    /// Rows of a box, at most 256.
    pub box_rows: u64,
    /// The number of heads, 0 for a single matrix.
    pub heads: u64,
    /// Bytes from the matrix of one head to that of the next, a multiple of 16.
    pub head_pitch: u64,
    /// The number of batches; unused for a single matrix.
    pub batches: u64,
    /// Bytes from one batch to the next, a multiple of 16.
    pub batch_pitch: u64,
    /// Bytes per element: 2 (bf16) or 4 (f32).
    pub element: u64,
    unused: [u64; 6],
}

impl TensorMap {
    /// Bytes of one row of a box.
    pub const ROW: u64 = 128;
    /// Bytes of the kernel parameter.
    pub const BYTES: usize = 128;

    /// Describes a bf16 matrix `[rows, columns]` whose rows are `pitch` bytes apart, accessed in boxes of `box_rows` x
    /// 64.
    pub fn new(address: u64, [rows, columns]: [usize; 2], pitch: usize, box_rows: usize) -> Self {
        let [rows, columns, pitch, box_rows] = [rows, columns, pitch, box_rows].map(|n| n as u64);
        TensorMap { address, rows, columns, pitch, box_rows, element: 2, ..TensorMap::default() }
    }

    /// Makes the elements f32, which makes the boxes 32 columns wide. Pitches stay as they are, in bytes.
    #[must_use]
    pub fn of_floats(self) -> Self {
        TensorMap { element: 4, ..self }
    }

    /// Returns the columns of a box, in elements: [`TensorMap::ROW`] bytes' worth.
    pub fn box_columns(&self) -> u64 {
        Self::ROW / self.element
    }

    /// Repeats the matrix for each batch and head; `batch_pitch` and `head_pitch` are the distances in bytes.
    #[must_use]
    pub fn of_many(self, [batches, heads]: [usize; 2], [batch_pitch, head_pitch]: [usize; 2]) -> Self {
        let [heads, head_pitch, batches, batch_pitch] = [heads, head_pitch, batches, batch_pitch].map(|n| n as u64);
        TensorMap { heads, head_pitch, batches, batch_pitch, ..self }
    }
}

/// The type of a kernel parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A pointer to device memory.
    #[default]
    Address,
    /// A TMA descriptor, `const __grid_constant__ TensorMap`.
    Map,
    /// `int`.
    Int,
    /// `unsigned`.
    Unsigned,
    /// `float`.
    Float,
}

/// The parameters of a launch, one 8-byte slot each. TMA descriptors are stored separately and a slot holds their
/// index.
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
    /// The maximum number of parameters of a launch.
    pub const MOST: usize = 32;
    /// The maximum number of TMA descriptors among them.
    pub const MOST_MAPS: usize = 7;

    /// Appends a parameter of up to 8 bytes.
    ///
    /// # Panics
    /// Panics on the 33rd parameter. Launch code has a fixed number of parameters, so input cannot cause this.
    fn push<const N: usize>(&mut self, kind: Kind, bytes: [u8; N]) {
        let mut slot = [0; 8];
        slot[..N].copy_from_slice(&bytes);
        self.slots[self.len] = u64::from_le_bytes(slot);
        self.kinds[self.len] = kind;
        self.sizes[self.len] = N as u8;
        self.len += 1;
    }

    /// Appends a TMA descriptor.
    ///
    /// # Panics
    /// Panics on the eighth descriptor, and like `push`.
    fn push_map(&mut self, map: TensorMap) {
        self.slots[self.len] = self.maps_len as u64;
        self.kinds[self.len] = Kind::Map;
        self.sizes[self.len] = TensorMap::BYTES as u8;
        self.len += 1;
        self.maps[self.maps_len] = map;
        self.maps_len += 1;
    }

    /// Returns the TMA descriptors among the parameters. The slot of such a parameter holds its index here.
    pub fn maps(&self) -> &[TensorMap] {
        &self.maps[..self.maps_len]
    }

    /// Swaps two parameters of the same type; with `pitches`, only the row pitches of two TMA descriptors. Mutation
    /// tests use it.
    ///
    /// # Panics
    /// Panics if an index is out of range or the types differ.
    #[cfg(emulated)]
    pub(super) fn exchange(&mut self, [a, b]: [usize; 2], pitches: bool) {
        assert_eq!(self.kinds()[a], self.kinds()[b], "only parameters of one type can be swapped");
        if pitches {
            let [a, b] = [a, b].map(|at| self.slots[at] as usize);
            (self.maps[a].pitch, self.maps[b].pitch) = (self.maps[b].pitch, self.maps[a].pitch);
        } else {
            self.slots.swap(a, b);
        }
    }

    /// Returns the size of each parameter in bytes.
    pub fn sizes(&self) -> &[u8] {
        &self.sizes[..self.len]
    }

    /// Returns the type of each parameter.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds[..self.len]
    }

    /// Returns the value of each parameter in the low bytes of a word. Hosts and GPUs are little-endian.
    pub fn slots(&self) -> &[u64] {
        &self.slots[..self.len]
    }
}

impl fmt::Debug for Args {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.slots().iter().map(|s| format!("{s:#x}"))).finish()
    }
}

/// The memory of one operand and how an operation may access it. The emulator checks kernels against it.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// The name of the operand, for messages.
    pub name: &'static str,
    /// Where its rows are, in bytes.
    pub rows: Rows,
    /// Bytes per element.
    pub element: usize,
    /// Whether the operation reads it, writes it, or both.
    pub access: Access,
}
