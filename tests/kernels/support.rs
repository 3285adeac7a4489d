//! What the operation tests share: random numbers, and tensors filled with them.

use vcycle::device::ops::{StepState, philox};
use vcycle::device::{Device, alloc_tensor, write_floats};
use vcycle::tensor::{DType, Tensor};

/// Numbers that depend on the seed alone.
pub struct Random {
    seed: u64,
    next: u64,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Random { seed, next: 0 }
    }

    fn bits(&mut self) -> u32 {
        self.next += 1;
        philox::word([self.seed as u32, (self.seed >> 32) as u32], 0, 0, self.next)
    }

    /// Uniform in -1..1, never zero, on a grid that f32 holds exactly: every device starts from the same numbers.
    pub fn float(&mut self) -> f64 {
        f64::from((self.bits() >> 8) | 1) / f64::from(1 << 23) - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.float()).collect()
    }

    pub fn ids(&mut self, n: usize, below: usize) -> Vec<i32> {
        (0..n).map(|_| (self.bits() % below as u32) as i32).collect()
    }
}

/// A packed tensor of the device's own float type.
pub fn floats(device: &mut dyn Device, dims: &[usize], values: &[f64]) -> Tensor {
    let dtype = device.float();
    let t = alloc_tensor(device, dtype, dims).expect("memory for a test");
    write_floats(device, &t, values).expect("values for a tensor");
    t
}

/// Ids or labels.
pub fn integers(device: &mut dyn Device, dims: &[usize], values: &[i32]) -> Tensor {
    let t = alloc_tensor(device, DType::I32, dims).expect("memory for a test");
    device.write(&t, bytemuck::cast_slice(values)).expect("values for a tensor");
    t
}

/// A step's state in memory of its own.
pub fn state(device: &mut dyn Device, state: &StepState) -> Tensor {
    let t = alloc_tensor(device, DType::U32, &[StepState::WORDS]).expect("memory for a test");
    device.write(&t, bytemuck::bytes_of(state)).expect("a step's state");
    t
}
