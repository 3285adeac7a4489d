//! Devices: memory in arenas, and operations run on it.
//!
//! `reference` is the f64 oracle, `cpu` the embedded default, `cuda` runs the kernels of `kernels/` on a GPU and `emulator` the
//! same ones without. All see the same operations ([`ops`]).

mod arena;
mod async_reads;
pub mod bounds;
pub mod cpu;
pub mod cuda;
pub mod energy;
mod host;
pub mod ops;
pub mod reference;
pub mod timing;

use crate::bail;
use crate::error::Result;
use crate::memory;
use crate::tensor::{DType, Place, Tensor};
use half::bf16;
use ops::Op;
use timing::Timings;

/// A captured list of operations, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graph(pub u32);

/// Numbers on their way to the host: see [`Device::post`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u32);

/// Something that holds memory and runs operations.
///
/// Work may be asynchronous: `read`, `sync` and dropping wait for it. The same operations on the same bytes give the same
/// bytes, whatever the number of threads.
pub trait Device {
    fn name(&self) -> &'static str;

    /// Its name, and what tells it from others of that name, for messages.
    fn label(&self) -> String {
        self.name().into()
    }

    /// The type in which this device keeps parameters, and computes if not told otherwise.
    fn float(&self) -> DType;

    /// Whether it also computes in this type.
    fn computes_in(&self, dtype: DType) -> bool {
        dtype == self.float()
    }

    /// A new arena of zeros, aligned for any access.
    ///
    /// # Errors
    /// Out of memory: says how much was wanted.
    fn alloc(&mut self, bytes: usize) -> Result<u32>;

    /// Gives an arena back, after the work in flight. Its number is not given again; views of it and captured lists that use it
    /// are refused from now on. Dropping the device frees all.
    fn free(&mut self, arena: u32);

    /// Host to device: `bytes` holds the rows of `to` back to back.
    fn write(&mut self, to: &Tensor, bytes: &[u8]) -> Result<()>;

    /// Device to host, after the work in flight: the rows of `from` back to back.
    fn read(&mut self, from: &Tensor, bytes: &mut [u8]) -> Result<()>;

    /// Starts to bring a tensor to the host, after the work in flight, and does not wait. At most [`MAX_ASYNC_READS`] may be under way;
    /// each is to be collected.
    ///
    /// # Errors
    /// Too many under way.
    fn read_async(&mut self, from: &Tensor) -> Result<Ticket>;

    /// The rows of a posted tensor back to back, as they were after the work then in flight. Waits for that work and none later.
    fn wait_read(&mut self, ticket: Ticket, bytes: &mut [u8]) -> Result<()>;

    /// Device to device; equal rows and types, which do not overlap.
    fn copy(&mut self, from: &Tensor, to: &Tensor) -> Result<()>;

    /// Runs one operation now.
    ///
    /// # Errors
    /// Operands that do not fit, or lie outside their arenas; on host devices also an id or a label out of range.
    fn run(&mut self, op: &Op) -> Result<()>;

    /// Bytes that the device takes for itself to run an operation; operations share them.
    fn scratch(&self, _op: &Op) -> usize {
        0
    }

    /// Waits for the work in flight.
    fn sync(&mut self) -> Result<()>;

    /// Checks a list of operations once and keeps it for [`Device::replay`].
    fn capture(&mut self, ops: &[Op]) -> Result<Graph>;

    /// Runs a captured list, in order. Allocates nothing, unless a mapping's tables are to be checked again.
    ///
    /// # Errors
    /// The list was released, or an arena that it uses was freed: then nothing runs. On host devices also as [`Device::run`].
    fn replay(&mut self, graph: Graph) -> Result<()>;

    /// Forgets a captured list.
    fn release(&mut self, graph: Graph);

    /// Where the time of `run` and `replay` went.
    fn timings(&mut self) -> &mut Timings;
}

/// Tensors that may be on their way to the host at one time.
pub const MAX_ASYNC_READS: usize = 4;

/// Names that [`open`] knows, for messages and `vcycle info`.
pub const NAMES: &[&str] = &["cpu", "reference", "cuda", "emulator"];

/// Opens a device by name. `threads` 0: as many as the machine has.
///
/// # Errors
/// An unknown name, or a device that is not here.
pub fn open(name: &str, threads: usize) -> Result<Box<dyn Device>> {
    match name {
        "cpu" => Ok(Box::new(cpu::Cpu::new(threads))),
        "reference" => Ok(Box::new(reference::Reference::default())),
        "cuda" => Ok(Box::new(cuda::open()?)),
        "emulator" => emulator(threads),
        other => bail!("device {other:?} is unknown; choose one of {}", NAMES.join(", ")),
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
        "this build has no emulator: it needs the cargo feature `emulator` (on by default), Linux, and g++ 12, clang 14 or \
         later when it is built; see the warnings of `cargo build`"
    )
}

/// Allocates an arena for one contiguous tensor.
pub fn alloc_tensor(device: &mut dyn Device, dtype: DType, dims: &[usize]) -> Result<Tensor> {
    let t = Tensor::new(Place::Arena(0), dtype, 0, dims);
    Ok(t.with_place(Place::Arena(device.alloc(t.bytes())?)))
}

/// Writes floats, converted to the tensor's own type.
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
        other => bail!("floats cannot be written to a tensor of {other:?}"),
    }
}

/// As [`write_floats`], from f32.
pub fn write_f32(device: &mut dyn Device, to: &Tensor, values: &[f32]) -> Result<()> {
    if to.dtype() == DType::F32 {
        return device.write(to, bytemuck::cast_slice(values));
    }
    write_floats(device, to, &values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>())
}

/// Reads floats of any type.
pub fn read_floats(device: &mut dyn Device, from: &Tensor) -> Result<Vec<f64>> {
    if from.dtype() == DType::F64 {
        let mut values: Vec<f64> = memory::zeros(from.numel())?;
        device.read(from, bytemuck::cast_slice_mut(&mut values))?;
        return Ok(values);
    }
    Ok(read_f32(device, from)?.into_iter().map(f64::from).collect())
}

/// As [`read_floats`], to f32.
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
        other => bail!("a tensor of {other:?} holds no floats"),
    }
}

/// Reads one float; allocates nothing.
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
    use crate::parity::{STEMS, Size};

    /// Run and captured, on one thread and two, beside the reference.
    #[test]
    fn every_operation_leaves_the_same_bits_on_two_threads() {
        let mut harness = Harness::cpu(&[1, 2], true);
        for stem in STEMS {
            let op = match stem.name {
                // The sample is of rows far apart, which take Miri minutes to look through.
                "column_sum" => {
                    let (x, out) = (harness.input((&[5, 7], 9)), harness.f32_input((&[7], 0)));
                    ColumnSum { x, out, accumulate: true }.into()
                }
                _ => (stem.sample)(&mut harness, Size::Small),
            };
            harness.check(op, |_, _| f64::INFINITY);
            harness.clear();
        }
        harness.finish().expect("operations that fit");
        assert_eq!(harness.checked.len(), STEMS.len());
    }
}
