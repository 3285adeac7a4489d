//! The values that change from step to step. They are in device memory, so that a captured step can be replayed
//! unchanged.

use crate::tensor::{DType, Place, Tensor};
use bytemuck::{Pod, Zeroable};

/// State of a training step: 32 bytes in device memory, written by the host before each step and read by kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub struct StepState {
    /// Key of the Philox generator: the low and the high word of the seed.
    pub seed: [u32; 2],
    /// Part of the Philox counter: the number of the optimizer step, or of the micro-batch if gradients are
    /// accumulated.
    pub step: u32,
    /// Learning rate.
    pub lr: f32,
    /// Bias correction of AdamW's first moment: `1 - beta1^t`, with `t` counted from 1.
    pub bias1: f32,
    /// Bias correction of AdamW's second moment: `1 - beta2^t`, with `t` counted from 1.
    pub bias2: f32,
    /// Padding.
    pub unused: [u32; 2],
}

impl StepState {
    /// Size in 32-bit words.
    pub const WORDS: usize = size_of::<StepState>() / 4;

    /// Returns the view of a state at the start of an arena: `[8]`, U32.
    pub fn tensor(arena: u32) -> Tensor {
        Tensor::new(Place::Arena(arena), DType::U32, 0, &[Self::WORDS])
    }

    /// Returns a state with this seed and all other fields zero.
    pub fn with_seed(seed: u64) -> Self {
        StepState { seed: [seed as u32, (seed >> 32) as u32], ..Default::default() }
    }
}
