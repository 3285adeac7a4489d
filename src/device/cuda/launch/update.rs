//! Launch code of [`Update`]: `kernels/update.cu`.

use super::Launch;
use super::addresses::Addresses;
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::ops::{ALIGN, Op, Update};
use crate::tensor::DType;

const THREADS: usize = 256;
/// Elements of a thread: `kEach` in the kernel.
const EACH: usize = 4;

/// Returns whether the copy, if there is one, is in bf16.
pub fn fits_copy(op: &Update) -> bool {
    op.copy.is_none_or(|t| t.dtype() == DType::BF16)
}

/// One element at a time, with the registers of each thread in shared memory.
pub fn interpreted(op: &Update, addresses: &Addresses, out: &mut Vec<Launch>) {
    let n = op.params.numel();
    out.push(
        Launch::new("update_f32", n.div_ceil(EACH * THREADS), THREADS as u32)
            .ptr(addresses.ptr(&op.params))
            .ptr(addresses.ptr(&op.grads))
            .ptr(addresses.maybe(&op.state0))
            .ptr(addresses.maybe(&op.state1))
            .ptr(addresses.ptr(&op.decay_mask))
            .ptr(addresses.ptr(&op.norm))
            .ptr(addresses.ptr(&op.state))
            .ptr(addresses.ptr(&op.program))
            .ptr(addresses.maybe(&op.copy))
            .int(op.program.rows())
            .int(n / ALIGN)
            .float(op.max_norm),
    );
}

/// A prediction: memory-bound at 70 % of the data sheet's bandwidth. Not measured.
pub fn seconds(op: &Update, gpu: &GpuSpec) -> f64 {
    gpu.memory(Op::from(*op).cost().bytes, 0.7, 1)
}
