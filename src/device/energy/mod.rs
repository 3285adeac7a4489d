//! Energy counters: CPU packages through RAPL and NVIDIA GPUs through NVML. Not every machine has them.

pub mod nvml;
pub mod rapl;

use std::path::Path;

/// An energy counter that starts at zero when it is opened. It counts everything that the CPU or GPU does, including
/// other processes.
pub enum Meter {
    /// All CPU packages.
    Rapl(rapl::Packages),
    /// One NVIDIA GPU.
    Nvml(nvml::Gpu),
}

impl Meter {
    /// Opens the counters of all CPU packages; `None` if the system has none or lets only root read them.
    pub fn cpu() -> Option<Self> {
        rapl::Packages::open(Path::new(rapl::FOLDER)).map(Meter::Rapl)
    }

    /// Opens the counter of the GPU at a PCI address such as `00000000:65:00.0`; `None` if NVML is missing or the GPU
    /// has no counter.
    pub fn gpu(bus: &str) -> Option<Self> {
        nvml::Gpu::open(bus).map(Meter::Nvml)
    }

    /// Returns the joules since the counter was opened; `None` if it can no longer be read. With RAPL, call this every
    /// few minutes: a counter that wraps around twice between two calls gives a wrong result.
    pub fn joules(&mut self) -> Option<f64> {
        match self {
            Meter::Rapl(packages) => packages.joules(),
            Meter::Nvml(gpu) => gpu.joules(),
        }
    }
}
