//! Allocates operands and fills them with random numbers that are never zero.

use crate::device::ops::StepState;
use crate::device::{self, Device};
use crate::error::{At, Result};
use crate::memory;
use crate::tensor::{DType, Place, Tensor};

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), which generates about a gigabyte of operands per second.
pub struct Random(u64);

impl Random {
    /// Starts the generator from a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number uniform in -1..1 and never zero.
    pub fn float(&mut self) -> f32 {
        ((self.bits() >> 40) | 1) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Returns an integer uniform in `0..below`, with a negligible bias.
    pub fn below(&mut self, below: usize) -> usize {
        ((u128::from(self.bits()) * below as u128) >> 64) as usize
    }
}

/// Numbers that are generated at a time.
const BLOCK: usize = 1 << 20;

/// Allocates operands on a device and keeps track of their arenas, to free them together.
pub struct OperandAllocator<'a> {
    /// The device that holds the operands.
    pub device: &'a mut dyn Device,
    /// The type in which the operation computes.
    pub float: DType,
    random: Random,
    arenas: Vec<u32>,
}

impl<'a> OperandAllocator<'a> {
    /// Makes operands of type `float` on `device`, with a fixed seed.
    pub fn new(device: &'a mut dyn Device, float: DType) -> Self {
        OperandAllocator { device, float, random: Random::new(1), arenas: Vec::new() }
    }

    /// Frees all operands.
    pub fn free(&mut self) {
        self.arenas.drain(..).for_each(|arena| self.device.free(arena));
    }

    /// Returns the arenas of all operands, for the caller to free.
    pub fn into_arenas(self) -> Vec<u32> {
        self.arenas
    }

    /// Adds the arena of a tensor to those that [`OperandAllocator::free`] frees, and returns the tensor.
    pub fn adopt(&mut self, t: Tensor) -> Tensor {
        if let Place::Arena(arena) = t.place() {
            self.arenas.push(arena);
        }
        t
    }

    /// Allocates a tensor whose rows are padded to a multiple of `pad` elements.
    fn alloc(&mut self, dtype: DType, dims: &[usize], pad: usize) -> Result<Tensor> {
        let mut t = Tensor::new(Place::Arena(0), dtype, 0, dims);
        if dims.len() > 1 {
            t = t.with_pitch(t.width().next_multiple_of(pad));
        }
        let bytes = t.byte_range().end.checked_next_multiple_of(256).unwrap_or(usize::MAX);
        let arena = self.device.alloc(bytes).at("operands")?;
        Ok(self.adopt(t.with_place(Place::Arena(arena))))
    }

    /// Allocates a tensor of random floats. Rows are padded to a multiple of `pad` elements, as in a model.
    ///
    /// # Errors
    /// If memory runs out or a transfer fails.
    pub fn input(&mut self, dims: &[usize], pad: usize) -> Result<Tensor> {
        let t = self.alloc(self.float, dims, pad)?;
        self.fill(&t, |x| x)?;
        Ok(t)
    }

    /// Allocates a tensor of the accumulator type (f32, or f64 on the reference device) with random numbers mapped by
    /// `f`.
    ///
    /// # Errors
    /// As for [`OperandAllocator::input`].
    pub fn accumulator_input(&mut self, dims: &[usize], f: fn(f32) -> f32) -> Result<Tensor> {
        let t = self.alloc(self.float.accumulator(), dims, 1)?;
        self.fill(&t, f)?;
        Ok(t)
    }

    /// Allocates an output of the type in which the operation computes.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn output(&mut self, dims: &[usize], pad: usize) -> Result<Tensor> {
        self.alloc(self.float, dims, pad)
    }

    /// Allocates an output of the accumulator type (f32, or f64 on the reference device).
    ///
    /// # Errors
    /// If memory runs out.
    pub fn accumulator_output(&mut self, dims: &[usize], pad: usize) -> Result<Tensor> {
        self.alloc(self.float.accumulator(), dims, pad)
    }

    /// Allocates `count` random integers in `0..below`.
    ///
    /// # Errors
    /// As for [`OperandAllocator::input`].
    pub fn integers(&mut self, count: usize, below: usize) -> Result<Tensor> {
        let t = self.alloc(DType::I32, &[count], 1)?;
        let mut values: Vec<i32> = memory::zeros(count)?;
        values.iter_mut().for_each(|v| *v = self.random.below(below) as i32);
        self.device.write(&t, bytemuck::cast_slice(&values))?;
        Ok(t)
    }

    /// Allocates `count` random bytes of 0 or 1.
    ///
    /// # Errors
    /// As for [`OperandAllocator::input`].
    pub fn mask(&mut self, count: usize) -> Result<Tensor> {
        let t = self.alloc(DType::U8, &[count], 1)?;
        let mut values: Vec<u8> = memory::zeros(count)?;
        values.iter_mut().for_each(|v| *v = self.random.below(2) as u8);
        self.device.write(&t, &values)?;
        Ok(t)
    }

    /// Copies the state of a step to the device.
    ///
    /// # Errors
    /// As for [`OperandAllocator::input`].
    pub fn state(&mut self, state: &StepState) -> Result<Tensor> {
        let t = self.alloc(DType::U32, &[StepState::WORDS], 1)?;
        self.device.write(&t, bytemuck::bytes_of(state))?;
        Ok(t)
    }

    /// Fills a tensor with random numbers mapped by `f`, a block of rows or elements at a time.
    ///
    /// # Errors
    /// If host memory runs out or a transfer fails.
    pub fn fill(&mut self, t: &Tensor, f: fn(f32) -> f32) -> Result<()> {
        let (count, width) = match t.is_contiguous() {
            true => (t.numel(), 1),
            false => (t.rows(), t.width()),
        };
        let step = (BLOCK / width.max(1)).max(1);
        for start in (0..count).step_by(step) {
            let some = step.min(count - start);
            let part = match t.is_contiguous() {
                true => Tensor::new(t.place(), t.dtype(), t.offset() + start, &[some]),
                false => t.row_block(start, some),
            };
            let mut values: Vec<f32> = memory::zeros(part.numel())?;
            values.iter_mut().for_each(|v| *v = f(self.random.float()));
            device::write_f32(self.device, &part, &values)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{OperandAllocator, Random};
    use crate::device::cpu::Cpu;
    use crate::device::read_f32;
    use crate::tensor::DType;

    #[test]
    fn random_numbers_fill_rows_and_vectors_and_are_never_zero() {
        let mut random = Random::new(7);
        assert!((0..100_000).all(|_| random.below(3) < 3));
        let mut cpu = Cpu::new(1);
        let mut maker = OperandAllocator::new(&mut cpu, DType::F32);
        for dims in [&[3, 5][..], &[2_100_000], &[3, 700_001], &[1, 1]] {
            let t = maker.input(dims, 8).expect("memory");
            let values = read_f32(maker.device, &t).expect("read");
            assert!(values.iter().all(|v| *v != 0.0 && v.abs() < 1.0), "{dims:?}");
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
            assert!(values.len() < 1000 || mean.abs() < 0.01, "{mean}");
        }
        maker.free();
    }
}
