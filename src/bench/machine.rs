//! The device under measurement and the choice of kernel variants.

use crate::bail;
use crate::device::cuda::Cuda;
use crate::device::cuda::cublaslt::PeerProducts;
use crate::device::cuda::driver::nvidia::Nvidia;
use crate::device::cuda::variants::{Variant, variants_of};
use crate::device::energy::Meter;
use crate::device::ops::Op;
use crate::device::{self, Device, Kind};
use crate::error::Result;
use crate::memory;

/// A device under measurement.
pub enum Machine {
    /// `cpu` or `reference`, which have one variant of every operation.
    Host(Box<dyn Device>),
    /// A GPU.
    Nvidia(Box<Cuda<Nvidia>>),
    /// The CUDA kernels on emulated hardware.
    #[cfg(emulated)]
    Emulator(Box<Cuda<device::cuda::driver::emulator::Emulator>>),
}

impl Machine {
    /// Opens a device by name. `threads` are those of the host; 0 means all.
    ///
    /// # Errors
    /// As for [`device::open`].
    pub fn open(name: &str, threads: usize) -> Result<Self> {
        match name.parse()? {
            Kind::Cuda { gpu } => Ok(Machine::Nvidia(Box::new(device::cuda::open(gpu)?))),
            #[cfg(emulated)]
            Kind::Emulator => {
                let options = device::cuda::driver::emulator::Options { threads, ..Default::default() };
                Ok(Machine::Emulator(Box::new(device::cuda::emulated(options).with_requested_variants()?)))
            }
            _ => Ok(Machine::Host(device::open(name, threads)?)),
        }
    }

    /// Returns the device for operations that do not depend on its kind.
    pub fn device(&mut self) -> &mut dyn Device {
        match self {
            Machine::Host(device) => &mut **device,
            Machine::Nvidia(device) => &mut **device,
            #[cfg(emulated)]
            Machine::Emulator(device) => &mut **device,
        }
    }

    /// Returns whether times on this device are meaningful. Those of the emulator are not.
    pub fn is_timed(&mut self) -> bool {
        self.device().name() != "emulator"
    }

    /// Returns the size in bytes of the caches that operands must exceed.
    pub fn cache(&mut self) -> usize {
        match self.device().name() {
            "cpu" => last_level_cache(),
            // The largest L2 of a GPU so far has 126 MB.
            "cuda" => 128 << 20,
            _ => 0,
        }
    }

    /// Returns the energy meter of the device, if there is one. Emulated hardware has none.
    pub fn meter(&self) -> Option<Meter> {
        match self {
            Machine::Host(_) => Meter::cpu(),
            Machine::Nvidia(device) => Meter::gpu(&device.driver().bus()?),
            #[cfg(emulated)]
            Machine::Emulator(_) => None,
        }
    }

    /// Checks that the host has `bytes` of memory left. Always succeeds on a GPU.
    ///
    /// # Errors
    /// If there is less: the system would grant the allocation and kill the process when it uses the memory.
    pub fn require(&mut self, bytes: usize) -> Result<()> {
        match self {
            // A failed allocation on a GPU is an error already.
            Machine::Nvidia(_) => Ok(()),
            _ => memory::require(bytes),
        }
    }

    /// Makes this variant run its operation from now on.
    pub fn prefer(&mut self, variant: &'static Variant) {
        match self {
            Machine::Host(_) => {}
            Machine::Nvidia(device) => device.prefer(variant),
            #[cfg(emulated)]
            Machine::Emulator(device) => device.prefer(variant),
        }
    }

    /// Returns the variant that would run this operation now; `None` on `cpu` and `reference`.
    pub fn variant(&self, op: &Op) -> Option<&'static Variant> {
        match self {
            Machine::Host(_) => None,
            Machine::Nvidia(device) => device.variant(op),
            #[cfg(emulated)]
            Machine::Emulator(device) => device.variant(op),
        }
    }

    /// Prepares a list of plain matrix products (no bias or epilogue) for cuBLASLt.
    ///
    /// # Errors
    /// If the device is not `cuda`, cuBLASLt is missing, or it rejects a product.
    pub fn cublaslt(&mut self, list: &[Op]) -> Result<PeerProducts> {
        match self {
            Machine::Nvidia(device) => device.cublaslt(list),
            _ => bail!("cuBLASLt runs on the device cuda"),
        }
    }

    /// Runs products with cuBLASLt and appends the seconds of each.
    ///
    /// # Errors
    /// If the device is not `cuda` or fails.
    pub fn run_cublaslt(&mut self, products: &PeerProducts, into: &mut Vec<f64>) -> Result<()> {
        match self {
            Machine::Nvidia(device) => device.run_cublaslt(products, into),
            _ => bail!("cuBLASLt runs on the device cuda"),
        }
    }

    /// Checks that each requested variant exists for at least one of these operations.
    ///
    /// # Errors
    /// If one does not; the message lists the existing variants.
    pub fn admit(&mut self, wish: &VariantChoice, operations: &[&str]) -> Result<()> {
        let VariantChoice::Named(names) = wish else { return Ok(()) };
        if let Machine::Host(device) = self {
            bail!(
                "--variant {}: the device {} has only one variant of every operation; leave --variant out, or use \
                 --device cuda or emulator",
                names.join(","),
                device.name()
            );
        }
        let mut known: Vec<_> =
            operations.iter().flat_map(|operation| variants_of(operation)).map(|v| v.name).collect();
        if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
            known.sort_unstable();
            known.dedup();
            bail!(
                "--variant {name}: {} has no such variant; use all, or one or more of {}",
                operations[0],
                known.join(", ")
            );
        }
        Ok(())
    }
}

/// The requested variants.
#[derive(Clone, Debug, PartialEq)]
pub enum VariantChoice {
    /// The one that the device chooses.
    Chosen,
    /// All variants of the operation.
    All,
    /// Those with these names, as far as the operation has them.
    Named(Vec<String>),
}

/// Returns the size in bytes of the largest CPU cache that Linux reports, or 32 MiB.
fn last_level_cache() -> usize {
    let size = |i: u32| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size")).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
    };
    (0..8).filter_map(size).max().unwrap_or(32 << 20).clamp(1 << 20, 512 << 20)
}
