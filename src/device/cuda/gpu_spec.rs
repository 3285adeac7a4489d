//! The peak rates of a GPU, and the roofline formulas that the time models of variants are built on.
//!
//! A time model predicts how long a variant takes, in seconds, from the cost of an operation (FLOPs, bytes) and the
//! rates here. Its other inputs are *efficiencies*: the fraction of a peak rate that a kernel is expected to reach,
//! from 0 to 1. Predictions only rank the variants of one operation.

/// Peak rates of a GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuSpec {
    /// The number of SMs.
    pub sms: usize,
    /// Dense bf16 throughput of the tensor cores, in FLOP/s for the whole GPU.
    pub tensor: f64,
    /// f32 multiply-add throughput outside of the tensor cores, in FLOP/s for the whole GPU (a multiply-add is 2
    /// FLOPs).
    pub vector: f64,
    /// Bandwidth of device memory, in bytes/s.
    pub bandwidth: f64,
    /// The time from the end of one kernel to the start of the next, in seconds. Models add it once per launch.
    pub launch: f64,
    /// Whether it runs code for sm_90a: `wgmma` and TMA.
    pub hopper: bool,
}

impl GpuSpec {
    /// NVIDIA A100 SXM, 40 GB (data sheet). The emulator uses it, and GPUs that do not report their clocks.
    pub const A100: GpuSpec =
        GpuSpec { sms: 108, tensor: 312e12, vector: 19.5e12, bandwidth: 1.555e12, launch: 2e-6, hopper: false };

    /// NVIDIA H100 SXM (data sheet). Decisions that must depend on shapes alone use it, whichever Hopper GPU runs them.
    pub const H100: GpuSpec =
        GpuSpec { sms: 132, tensor: 989e12, vector: 61.8e12, bandwidth: 3.35e12, launch: 2e-6, hopper: true };

    /// Computes the rates from what a driver reports: the number of SMs, their clock in Hz, the memory bandwidth in
    /// bytes/s and the compute capability. Multiply-adds per SM and clock are NVIDIA's (CUDA C++ programming guide,
    /// arithmetic throughput; white papers for bf16). The launch gap is that of [`GpuSpec::A100`].
    pub fn of(sms: usize, clock: f64, bandwidth: f64, capability: (i32, i32)) -> Self {
        let (vector, tensor) = match capability {
            (8, 0) => (64.0, 1024.0),
            (8, _) => (128.0, 512.0),
            (9, _) => (128.0, 2048.0),
            (10, _) => (128.0, 4096.0),
            _ => (128.0, 512.0),
        };
        let rate = |multiply_adds: f64| 2.0 * multiply_adds * sms as f64 * clock;
        let hopper = capability == (9, 0);
        GpuSpec { sms, tensor: rate(tensor), vector: rate(vector), bandwidth, hopper, ..GpuSpec::A100 }
    }

    /// Returns the peak bf16 throughput of `mma.sync`, in FLOP/s for the whole GPU: `tensor`, but at most 4.6 TFLOP/s
    /// per SM. Newer tensor cores are faster, but not for `mma.sync` (Hopper's need `wgmma`).
    pub fn mma(&self) -> f64 {
        // FLOP/s per SM.
        const MOST: f64 = 4.6e12;
        self.tensor.min(MOST * self.sms as f64)
    }

    /// Returns the predicted seconds of a memory-bound kernel: `bytes` at the fraction `efficiency` of the peak
    /// bandwidth, plus one launch gap for each of `launches`.
    pub fn memory(&self, bytes: u64, efficiency: f64, launches: usize) -> f64 {
        bytes as f64 / (self.bandwidth * efficiency) + self.launch * launches as f64
    }

    /// Returns the predicted seconds of a kernel without tensor cores: the longer of `flops` at the fraction
    /// `efficiency` of the peak f32 rate ([`GpuSpec::vector`]) and `bytes` at the full bandwidth, plus one launch gap
    /// for each of `launches`.
    pub fn arithmetic(&self, flops: u64, bytes: u64, efficiency: f64, launches: usize) -> f64 {
        (flops as f64 / (self.vector * efficiency)).max(bytes as f64 / self.bandwidth) + self.launch * launches as f64
    }
}

#[cfg(test)]
mod tests {
    use super::GpuSpec;

    #[test]
    fn data_sheets_follow_from_clocks() {
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 0.01;
        let a100 = GpuSpec::of(108, 1.41e9, 1.555e12, (8, 0));
        assert!(near(a100.tensor, 312e12) && near(a100.vector, 19.5e12), "{a100:?}");
        let h100 = GpuSpec::of(132, 1.83e9, 3.35e12, (9, 0));
        assert!(near(h100.tensor, 989e12) && near(h100.vector, 61.8e12), "{h100:?}");
        assert!(near(a100.mma(), 312e12) && near(h100.mma(), 607e12), "{h100:?}");
    }
}
