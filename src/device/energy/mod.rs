//! Joules that a computation takes: of the processor's packages by RAPL, of a GPU by NVML. Not every machine tells.

pub mod nvml;
pub mod rapl;

use std::path::Path;

/// A counter that began at zero when it was made. It counts all that the chip does, also for others.
pub enum Meter {
    Rapl(rapl::Packages),
    Nvml(nvml::Gpu),
}

impl Meter {
    /// Of all processor packages. `None` where the system has no such counter, or lets only root read it.
    pub fn cpu() -> Option<Self> {
        rapl::Packages::open(Path::new(rapl::FOLDER)).map(Meter::Rapl)
    }

    /// Of the GPU at this address of the PCI bus, as in `00000000:65:00.0`. `None` where NVML is missing, or the GPU does not count.
    pub fn gpu(bus: &str) -> Option<Self> {
        nvml::Gpu::open(bus).map(Meter::Nvml)
    }

    /// Joules so far; `None` where the counter can no longer be read. RAPL wants to be asked every few minutes, before its counter
    /// has gone round twice.
    pub fn joules(&mut self) -> Option<f64> {
        match self {
            Meter::Rapl(packages) => packages.joules(),
            Meter::Nvml(gpu) => gpu.joules(),
        }
    }
}
