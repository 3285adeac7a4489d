//! What the time models of variants know of a GPU.

/// Rates that a GPU reaches at its best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GpuSpec {
    /// Multiprocessors.
    pub sms: usize,
    /// Products of tensor cores in bf16, in FLOP/s.
    pub tensor: f64,
    /// Multiply-adds in f32, in FLOP/s.
    pub vector: f64,
    /// Device memory, in bytes/s.
    pub bandwidth: f64,
    /// From the end of one kernel to the begin of the next, in seconds.
    pub launch: f64,
    /// Runs code for sm_90a: `wgmma` and the copy engine.
    pub hopper: bool,
}

impl GpuSpec {
    /// NVIDIA A100 SXM, 40 GB (its data sheet): what is assumed where nothing is known, and by the emulator.
    pub const A100: GpuSpec =
        GpuSpec { sms: 108, tensor: 312e12, vector: 19.5e12, bandwidth: 1.555e12, launch: 2e-6, hopper: false };

    /// NVIDIA H100 SXM (its data sheet): for what is to depend on shapes alone, whatever Hopper runs it.
    pub const H100: GpuSpec =
        GpuSpec { sms: 132, tensor: 989e12, vector: 61.8e12, bandwidth: 3.35e12, launch: 2e-6, hopper: true };

    /// From what a driver says: multiprocessors, their clock in Hz, bytes/s of memory and compute capability. Multiply-adds of a
    /// multiprocessor and clock are NVIDIA's (CUDA C++ programming guide, arithmetic throughput; white papers for bf16).
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

    /// Products in bf16 by `mma.sync`, in FLOP/s: it gets no more of newer tensor cores, which want `wgmma`.
    pub fn mma(&self) -> f64 {
        const MOST: f64 = 4.6e12;
        self.tensor.min(MOST * self.sms as f64)
    }

    /// Seconds of a kernel bound by memory that reaches `part` of the bandwidth, with as many launches.
    pub fn memory(&self, bytes: u64, part: f64, launches: usize) -> f64 {
        bytes as f64 / (self.bandwidth * part) + self.launch * launches as f64
    }

    /// Seconds of a kernel bound by multiply-adds in f32 of which it reaches `part`, or by memory at its best.
    pub fn arithmetic(&self, flops: u64, bytes: u64, part: f64, launches: usize) -> f64 {
        (flops as f64 / (self.vector * part)).max(bytes as f64 / self.bandwidth) + self.launch * launches as f64
    }

    /// Seconds of Hopper's kernels that no GPU has run, from those that they should take, or that what runs in their place does:
    /// twice as many, so that nothing chooses them by itself until they are measured.
    pub fn unproven(&self, seconds: f64) -> f64 {
        if self.hopper { 2.0 * seconds } else { f64::INFINITY }
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
