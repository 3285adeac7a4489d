use super::say;
use crate::device::{NAMES, cpu::Cpu, ops};
use crate::error::Result;

/// Build, devices, operations, CPU features
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
        say(format_args!("kernels:      none are compiled in: this version has no CUDA device"))?;
        say(format_args!("cpu threads:  {}", Cpu::new(0).threads()))?;
        say(format_args!("vector unit:  {}", Cpu::vector_unit()))
    }
}
