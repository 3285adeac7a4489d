//! The device under measurement, and which of its variants runs what.

use crate::bail;
use crate::device::cuda::Cuda;
use crate::device::cuda::cublaslt::PeerProducts;
use crate::device::cuda::driver::nvidia::Nvidia;
use crate::device::cuda::variants::{Variant, ladder};
use crate::device::energy::Meter;
use crate::device::ops::Op;
use crate::device::{self, Device};
use crate::error::Result;
use crate::memory;

/// See the module.
pub enum Machine {
    /// `cpu` and `reference`: one way to run every operation.
    Host(Box<dyn Device>),
    Nvidia(Box<Cuda<Nvidia>>),
    #[cfg(emulated)]
    Emulator(Box<Cuda<device::cuda::driver::emulator::Emulator>>),
}

impl Machine {
    /// # Errors
    /// As [`device::open`].
    pub fn open(name: &str, threads: usize) -> Result<Self> {
        match name {
            "cuda" => Ok(Machine::Nvidia(Box::new(device::cuda::open()?))),
            #[cfg(emulated)]
            "emulator" => {
                let options = device::cuda::driver::emulator::Options { threads, ..Default::default() };
                Ok(Machine::Emulator(Box::new(device::cuda::emulated(options).with_requested_variants()?)))
            }
            _ => Ok(Machine::Host(device::open(name, threads)?)),
        }
    }

    pub fn device(&mut self) -> &mut dyn Device {
        match self {
            Machine::Host(device) => &mut **device,
            Machine::Nvidia(device) => &mut **device,
            #[cfg(emulated)]
            Machine::Emulator(device) => &mut **device,
        }
    }

    /// Whether its seconds say anything about speed: those of the emulator do not.
    pub fn is_timed(&mut self) -> bool {
        self.device().name() != "emulator"
    }

    /// Bytes of the caches that a measurement must not live in.
    pub fn cache(&mut self) -> usize {
        match self.device().name() {
            "cpu" => last_level_cache(),
            // The largest second-level cache of a GPU yet has 126 MB.
            "cuda" => 128 << 20,
            _ => 0,
        }
    }

    /// What counts its energy, where something does: there is none of emulated hardware.
    pub fn meter(&self) -> Option<Meter> {
        match self {
            Machine::Host(_) => Meter::cpu(),
            Machine::Nvidia(device) => Meter::gpu(&device.driver().bus()?),
            #[cfg(emulated)]
            Machine::Emulator(_) => None,
        }
    }

    /// # Errors
    /// Host memory that is not there: it is handed out before it exists.
    pub fn require(&mut self, bytes: usize) -> Result<()> {
        match self {
            // A GPU refuses by itself.
            Machine::Nvidia(_) => Ok(()),
            _ => memory::require(bytes),
        }
    }

    /// From now on this variant runs its operation.
    pub fn prefer(&mut self, variant: &'static Variant) {
        match self {
            Machine::Host(_) => {}
            Machine::Nvidia(device) => device.prefer(variant),
            #[cfg(emulated)]
            Machine::Emulator(device) => device.prefer(variant),
        }
    }

    /// What would run this operation now.
    pub fn variant(&self, op: &Op) -> Option<&'static Variant> {
        match self {
            Machine::Host(_) => None,
            Machine::Nvidia(device) => device.variant(op),
            #[cfg(emulated)]
            Machine::Emulator(device) => device.variant(op),
        }
    }

    /// A list of bare products as cuBLASLt runs it.
    ///
    /// # Errors
    /// Another device; no cuBLASLt, or what it refuses.
    pub fn cublaslt(&mut self, list: &[Op]) -> Result<PeerProducts> {
        match self {
            Machine::Nvidia(device) => device.cublaslt(list),
            _ => bail!("cuBLASLt runs on the device cuda"),
        }
    }

    /// Appends the seconds of each of its products.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run_cublaslt(&mut self, products: &PeerProducts, into: &mut Vec<f64>) -> Result<()> {
        match self {
            Machine::Nvidia(device) => device.run_cublaslt(products, into),
            _ => bail!("cuBLASLt runs on the device cuda"),
        }
    }

    /// Refuses a wish that this device cannot grant for any of these operations.
    ///
    /// # Errors
    /// Names the variants that there are.
    pub fn admit(&mut self, wish: &Wish, operations: &[&str]) -> Result<()> {
        let Wish::Named(names) = wish else { return Ok(()) };
        if let Machine::Host(device) = self {
            bail!(
                "--variant {}: the device {} has one variant of every operation; leave it out, or use --device cuda or \
                 emulator",
                names.join(","),
                device.name()
            );
        }
        let mut known: Vec<_> = operations.iter().flat_map(|operation| ladder(operation)).map(|v| v.name).collect();
        if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
            known.sort_unstable();
            known.dedup();
            bail!(
                "--variant {name}: {} has no such variant; choose all, or some of {}",
                operations[0],
                known.join(", ")
            );
        }
        Ok(())
    }
}

/// Which variants are to run.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// The one that the device chooses.
    Chosen,
    All,
    /// Those of these names that the operation has.
    Named(Vec<String>),
}

/// Bytes of the largest cache that the system tells of, or what is usual.
fn last_level_cache() -> usize {
    let size = |i: u32| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size")).ok()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
    };
    (0..8).filter_map(size).max().unwrap_or(32 << 20).clamp(1 << 20, 512 << 20)
}
