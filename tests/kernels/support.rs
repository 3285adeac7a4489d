//! Helpers for tests of steps and gradients: random numbers, and tensors filled with values.

use vcycle::device::ops::StepState;
use vcycle::device::{Device, alloc_tensor, write_floats};
pub use vcycle::parity::random::Random;
use vcycle::tensor::{DType, Tensor};

/// Allocates a contiguous tensor of the device's float type.
pub fn floats(device: &mut dyn Device, dims: &[usize], values: &[f64]) -> Tensor {
    let dtype = device.float();
    let t = alloc_tensor(device, dtype, dims).expect("memory for a test");
    write_floats(device, &t, values).expect("values for a tensor");
    t
}

/// Allocates a tensor of ids or labels.
pub fn integers(device: &mut dyn Device, dims: &[usize], values: &[i32]) -> Tensor {
    let t = alloc_tensor(device, DType::I32, dims).expect("memory for a test");
    device.write(&t, bytemuck::cast_slice(values)).expect("values for a tensor");
    t
}

/// Allocates a step state.
pub fn state(device: &mut dyn Device, state: &StepState) -> Tensor {
    let t = alloc_tensor(device, DType::U32, &[StepState::WORDS]).expect("memory for a test");
    device.write(&t, bytemuck::bytes_of(state)).expect("a step's state");
    t
}
