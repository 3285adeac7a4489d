use crate::device::{NAMES, cpu::Cpu, ops};
use crate::error::Result;

/// Build, devices, operations, CPU features
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self) -> Result<()> {
        println!("vcycle {} ({}, {})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS);
        println!("devices:      {}", NAMES.join(", "));
        println!("operations:   {}", ops::NAMES.join(", "));
        println!("kernels:      none are compiled in: this version has no CUDA device");
        println!("cpu threads:  {}", Cpu::new(0).threads());
        println!("vector unit:  {}", Cpu::vector_unit());
        Ok(())
    }
}
