//! Devices: they hold memory in arenas and run operations on it.
//!
//! `cpu` is the default and `reference` the slow f64 oracle. `cuda` runs the kernels in `kernels/` on a GPU; `emulator`
//! runs the same kernels without one. All devices run the same operations ([`ops`]).

mod arena;
mod async_reads;
pub mod bounds;
pub mod cpu;
pub mod cuda;
pub mod energy;
mod host;
mod kind;
pub mod ops;
pub mod reference;
pub mod timing;

pub use kind::Kind;

use crate::bail;
use crate::error::Result;
use crate::memory;
use crate::tensor::{DType, Place, Tensor};
use half::bf16;
use ops::Op;
use timing::Timings;

/// Handle of a captured list of operations ([`Device::capture`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graph(pub u32);

/// Handle of an asynchronous read ([`Device::read_async`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingRead(pub u32);

/// Memory, and the operations that run on it.
///
/// Work may be asynchronous; `read`, `sync` and dropping the device wait for it. Results are deterministic: the same
/// operations on the same bytes give the same bytes, whatever the number of threads.
pub trait Device {
    /// Returns the device's name, one of [`NAMES`].
    fn name(&self) -> &'static str;

    /// Returns the name with whatever distinguishes this device from others of that name, for messages.
    fn label(&self) -> String {
        self.name().into()
    }

    /// Returns the type of parameters on this device, in which it also computes by default.
    fn float(&self) -> DType;

    /// Returns whether the device can compute in `dtype`.
    fn computes_in(&self, dtype: DType) -> bool {
        dtype == self.float()
    }

    /// Allocates an arena of zeros, aligned for any access, and returns its number.
    ///
    /// # Errors
    /// When memory runs out; the message says how much was requested.
    fn alloc(&mut self, bytes: usize) -> Result<u32>;

    /// Frees an arena once the work in flight is done. Its number is never reused: from now on, views of the arena and
    /// captured lists that use it are refused. Dropping the device frees all arenas.
    fn free(&mut self, arena: u32);

    /// Copies from host to device. `bytes` holds the rows of `to` packed, without padding.
    ///
    /// # Errors
    /// When `to` does not lie in an arena, or the sizes differ.
    fn write(&mut self, to: &Tensor, bytes: &[u8]) -> Result<()>;

    /// Waits for the work in flight, then copies from device to host. `bytes` receives the rows of `from` packed,
    /// without padding.
    ///
    /// # Errors
    /// When `from` does not lie in an arena, or the sizes differ.
    fn read(&mut self, from: &Tensor, bytes: &mut [u8]) -> Result<()>;

    /// Queues a copy of `from` to the host behind the work in flight and returns without waiting. Pass the ticket to
    /// [`Device::wait_read`]; at most [`MAX_ASYNC_READS`] reads may be pending.
    ///
    /// # Errors
    /// When `from` does not lie in an arena, or too many reads are pending.
    fn read_async(&mut self, from: &Tensor) -> Result<PendingRead>;

    /// Waits for an asynchronous read and returns its rows packed, as they were when the work queued before
    /// [`Device::read_async`] was done. Work queued after that is not waited for.
    ///
    /// # Errors
    /// When no read of this size is pending under `ticket`.
    fn wait_read(&mut self, ticket: PendingRead, bytes: &mut [u8]) -> Result<()>;

    /// Copies between two tensors on the device, which must have equal rows, widths and types and must not overlap.
    ///
    /// # Errors
    /// When the tensors differ in any of these, or do not lie in an arena.
    fn copy(&mut self, from: &Tensor, to: &Tensor) -> Result<()>;

    /// Runs one operation.
    ///
    /// # Errors
    /// When operands do not fit each other or lie outside their arenas; on host devices also when an id or a label is
    /// out of range.
    fn run(&mut self, op: &Op) -> Result<()>;

    /// Returns the bytes of scratch memory that the device allocates to run `op`. Operations share the scratch memory.
    fn scratch(&self, _op: &Op) -> usize {
        0
    }

    /// Waits for the work in flight.
    fn sync(&mut self) -> Result<()>;

    /// Checks a list of operations and stores it for [`Device::replay`].
    ///
    /// # Errors
    /// When an operation does not pass the checks of [`Device::run`], or writes a table that a multilevel operation of
    /// the same list reads.
    fn capture(&mut self, ops: &[Op]) -> Result<Graph>;

    /// Runs a captured list in order. Allocates nothing, except to check the tables of multilevel operations again.
    ///
    /// # Errors
    /// When the list was released or one of its arenas was freed; then nothing runs. On host devices also when an id or
    /// a label is out of range.
    fn replay(&mut self, graph: Graph) -> Result<()>;

    /// Discards a captured list.
    fn release(&mut self, graph: Graph);

    /// Returns the time spent in `run` and `replay`, by operation.
    fn timings(&mut self) -> &mut Timings;
}

/// Maximum number of pending asynchronous reads.
pub const MAX_ASYNC_READS: usize = 4;

/// Device names that [`open`] accepts, for messages and `vcycle info`.
pub const NAMES: &[&str] = &["cpu", "reference", "cuda", "cuda:N", "emulator"];

/// Opens a device by name. `threads` is the number of CPU threads that it uses; 0 means one for each core.
///
/// # Errors
/// When the name is unknown, or the device is not available here.
pub fn open(name: &str, threads: usize) -> Result<Box<dyn Device>> {
    match name.parse()? {
        Kind::Cpu => Ok(Box::new(cpu::Cpu::new(threads))),
        Kind::Reference => Ok(Box::new(reference::Reference::default())),
        Kind::Cuda { gpu } => Ok(Box::new(cuda::open(gpu)?)),
        Kind::Emulator => emulator(threads),
    }
}

#[cfg(emulated)]
fn emulator(threads: usize) -> Result<Box<dyn Device>> {
    let options = cuda::driver::emulator::Options { threads, ..Default::default() };
    Ok(Box::new(cuda::emulated(options).with_requested_variants()?))
}

#[cfg(not(emulated))]
fn emulator(_threads: usize) -> Result<Box<dyn Device>> {
    bail!(
        "this build has no emulator: it requires Linux, the cargo feature `emulator` (on by default), and g++ 12+ or \
         clang 14+ at build time; see the warnings of `cargo build`"
    )
}

/// Allocates an arena that holds one contiguous tensor, and returns the tensor.
pub fn alloc_tensor(device: &mut dyn Device, dtype: DType, dims: &[usize]) -> Result<Tensor> {
    let t = Tensor::new(Place::Arena(0), dtype, 0, dims);
    Ok(t.with_place(Place::Arena(device.alloc(t.bytes())?)))
}

/// Converts `values` to the type of `to` (F64, F32 or BF16) and writes them.
pub fn write_floats(device: &mut dyn Device, to: &Tensor, values: &[f64]) -> Result<()> {
    match to.dtype() {
        DType::F64 => device.write(to, bytemuck::cast_slice(values)),
        DType::F32 => {
            let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
            device.write(to, bytemuck::cast_slice(&narrow))
        }
        DType::BF16 => {
            let bits: Vec<u16> = values.iter().map(|&v| bf16::from_f64(v).to_bits()).collect();
            device.write(to, bytemuck::cast_slice(&bits))
        }
        other => bail!("cannot write floats to a tensor of type {other:?}"),
    }
}

/// Like [`write_floats`], for f32 values.
pub fn write_f32(device: &mut dyn Device, to: &Tensor, values: &[f32]) -> Result<()> {
    if to.dtype() == DType::F32 {
        return device.write(to, bytemuck::cast_slice(values));
    }
    write_floats(device, to, &values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>())
}

/// Reads a tensor of type F64, F32 or BF16 as f64.
pub fn read_floats(device: &mut dyn Device, from: &Tensor) -> Result<Vec<f64>> {
    if from.dtype() == DType::F64 {
        let mut values: Vec<f64> = memory::zeros(from.numel())?;
        device.read(from, bytemuck::cast_slice_mut(&mut values))?;
        return Ok(values);
    }
    Ok(read_f32(device, from)?.into_iter().map(f64::from).collect())
}

/// Reads a tensor of type F64, F32 or BF16 as f32.
pub fn read_f32(device: &mut dyn Device, from: &Tensor) -> Result<Vec<f32>> {
    match from.dtype() {
        DType::F32 => {
            let mut values: Vec<f32> = memory::zeros(from.numel())?;
            device.read(from, bytemuck::cast_slice_mut(&mut values))?;
            Ok(values)
        }
        DType::F64 => Ok(read_floats(device, from)?.into_iter().map(|v| v as f32).collect()),
        DType::BF16 => {
            let mut bits: Vec<u16> = memory::zeros(from.numel())?;
            device.read(from, bytemuck::cast_slice_mut(&mut bits))?;
            Ok(bits.into_iter().map(|b| bf16::from_bits(b).to_f32()).collect())
        }
        other => bail!("cannot read floats from a tensor of type {other:?}"),
    }
}

/// Reads a tensor of one F64 or F32 element. Allocates nothing.
pub fn read_scalar(device: &mut dyn Device, from: &Tensor) -> Result<f64> {
    match from.dtype() {
        DType::F64 => {
            let mut value = [0.0f64];
            device.read(from, bytemuck::cast_slice_mut(&mut value))?;
            Ok(value[0])
        }
        _ => {
            let mut value = [0.0f32];
            device.read(from, bytemuck::cast_slice_mut(&mut value))?;
            Ok(f64::from(value[0]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ops::ColumnSum;
    use crate::parity::harness::Harness;
    use crate::parity::{Size, stems};

    /// Runs every operation directly and captured, on one and two threads, next to the reference.
    #[test]
    fn every_operation_leaves_the_same_bits_on_two_threads() {
        let mut harness = Harness::cpu(&[1, 2], true);
        for stem in stems() {
            let op = match stem.name {
                // The usual sample has a large pitch, which takes Miri minutes to scan.
                "column_sum" => {
                    let (x, out) = (harness.input((&[5, 7], 9)), harness.accumulator_input((&[7], 0)));
                    ColumnSum { x, out, accumulate: true }.into()
                }
                _ => (stem.sample)(&mut harness, Size::Small),
            };
            harness.check(op, |_, _| f64::INFINITY);
            harness.clear();
        }
        harness.finish().expect("every operation passes");
        assert_eq!(harness.checked.len(), stems().count());
    }
}
