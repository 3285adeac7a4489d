//! What changes from step to step, in device memory, so that a captured step can be replayed as it is.

use crate::tensor::{DType, Place, Tensor};
use bytemuck::{Pod, Zeroable};

/// 32 bytes in device memory that kernels read by address. The host writes them before each step.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct StepState {
    /// Key of the Philox generator.
    pub seed: [u32; 2],
    /// Part of Philox's counter: the optimizer step, or the micro-batch when gradients accumulate.
    pub step: u32,
    /// Learning rate.
    pub lr: f32,
    /// 1 - beta1^t and 1 - beta2^t of AdamW, t counted from 1.
    pub bias1: f32,
    pub bias2: f32,
    pub unused: [u32; 2],
}

impl StepState {
    pub const WORDS: usize = size_of::<StepState>() / 4;

    /// The view of a state at the start of an arena.
    pub fn tensor(arena: u32) -> Tensor {
        Tensor::new(Place::Arena(arena), DType::U32, 0, &[Self::WORDS])
    }

    pub fn with_seed(seed: u64) -> Self {
        StepState { seed: [seed as u32, (seed >> 32) as u32], ..Default::default() }
    }
}
