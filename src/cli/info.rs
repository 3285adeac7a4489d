use super::say;
use crate::device::cuda;
use crate::device::cuda::compiled::NVCC;
use crate::device::cuda::driver::nvidia::Nvidia;
use crate::device::cuda::variants::VARIANTS;
use crate::device::{NAMES, cpu::Cpu, ops};
use crate::error::Result;
use std::collections::BTreeSet;

/// Show the version, devices, operations, kernels, GPU and CPU features
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self) -> Result<()> {
        say(format_args!(
            "vcycle {} ({}, {})",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::ARCH,
            std::env::consts::OS
        ))?;
        say(format_args!("devices:      {}", NAMES.join(", ")))?;
        say(format_args!("operations:   {}", ops::NAMES.join(", ")))?;
        say(format_args!("kernels:      {}", kernels()))?;
        for gpu in 0..Nvidia::count().max(1) {
            let found = cuda::open(gpu).map_or_else(|e| e.to_string(), |device| device.driver().describe());
            say(format_args!("gpu:          {found}"))?;
        }
        say(format_args!("cpu threads:  {}", Cpu::new(0).threads()))?;
        say(format_args!("vector unit:  {}", Cpu::vector_unit()))
    }
}

/// Returns the number of kernels and how they were compiled.
fn kernels() -> String {
    let named: BTreeSet<_> = VARIANTS.iter().flat_map(|v| v.kernels).collect();
    let device = match NVCC {
        Some(version) => format!("device code by nvcc {version}"),
        None => "no device code (no nvcc when this was built)".into(),
    };
    let emulated = if cfg!(emulated) { "emulated" } else { "no emulator" };
    format!("{}; {device}; {emulated}", named.len())
}
