use super::say;
use crate::bail;
use crate::device::Kind;
use crate::device::cuda::compiled::{self, NVCC, occupancy};
use crate::device::cuda::variants::{VARIANTS, Variant};
use crate::device::ops::NAMES;
use crate::error::{Error, Result};
use crate::parity::harness::Choice;
use crate::parity::kernels;
use clap::{Subcommand, ValueEnum};
use std::process::ExitCode;
use std::time::Instant;

/// List the CUDA kernels of this build, or check them against the f64 reference
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List every kernel by operation and variant, with registers, shared memory and occupancy as compiled
    List,
    Check(Check),
}

/// Run kernels on the test cases and compare the results with the f64 reference
#[derive(clap::Args)]
struct Check {
    /// The name of an operation or variant, OPERATION/VARIANT, or part of the name of operations or kernels
    /// [default: all kernels]
    name: Option<String>,
    /// Where the kernels run: emulator, cuda or cuda:N
    #[arg(long, default_value_t = Kind::Emulator)]
    device: Kind,
    /// Order in which emulated threads run; all orders must give the same bits, except for nondeterministic variants
    #[arg(long, value_enum, default_value_t = Orders::All)]
    orders: Orders,
    /// Check every memory access of emulated threads for bounds, uninitialised reads and races; reports name the
    /// operand, row, column and source line. Without it, a kernel that accesses memory outside its operands may
    /// corrupt memory or crash the process
    #[arg(long)]
    shadow: bool,
    /// Also check the sizes of real models (takes minutes for each operation)
    #[arg(long)]
    full: bool,
    /// Leave out the barrier, fence, wait or commit at this source line, for instance kernels/linear.cu:147, and report
    /// whether the check notices: exit code 0 if it does, 1 if not. Implies --shadow
    #[arg(long, value_name = "FILE:LINE")]
    drop: Option<String>,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum Orders {
    Forward,
    Reverse,
    Random,
    All,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::List => list().map(|()| ExitCode::SUCCESS),
            Command::Check(check) => check.run(),
        }
    }
}

fn list() -> Result<()> {
    match NVCC {
        Some(version) => say(format_args!(
            "compiled by nvcc {version}; registers and fixed shared memory by ptxas; a launch may add shared memory"
        ))?,
        None => say(format_args!(
            "no device code in this build: no nvcc was found when it was built (see docs/kernels.md)"
        ))?,
    }
    let threads = |name: &str| threads(name).map_or("?".to_string(), |n| n.to_string());
    for variant in VARIANTS {
        let floats: Vec<_> = variant.floats.iter().map(|float| format!("{float:?}").to_lowercase()).collect();
        let (floats, about) = (floats.join(", "), variant.description());
        say(format_args!("{} {} ({floats}): {about}", variant.operation, variant.name))?;
        for name in variant.kernels {
            say(format_args!("    {name}, {} threads", threads(name)))?;
            for kernel in compiled::kernel(name) {
                let busy = self::threads(name)
                    .and_then(|threads| occupancy(kernel.arch, kernel.registers, kernel.shared, threads))
                    .map_or(String::new(), |(blocks, part)| {
                        format!(", {blocks} blocks per SM, {:.0} % of its warps", 100.0 * part)
                    });
                say(format_args!(
                    "        {:<7} {:>3} registers, {:>6} B shared, no spills{busy}",
                    kernel.arch, kernel.registers, kernel.shared
                ))?;
            }
        }
    }
    Ok(())
}

/// Returns the maximum threads per block that the kernel declares.
#[cfg(emulated)]
fn threads(kernel: &str) -> Option<u32> {
    crate::device::cuda::driver::emulator::find(kernel).map(|k| k.threads)
}

#[cfg(not(emulated))]
fn threads(_kernel: &str) -> Option<u32> {
    None
}

impl Check {
    fn run(&self) -> Result<ExitCode> {
        let wanted = |v: &&Variant| {
            self.name.as_deref().is_none_or(|name| match name.split_once('/') {
                Some(exactly) => exactly == (v.operation, v.name),
                None if NAMES.contains(&name) => v.operation == name,
                None => {
                    v.operation.contains(name) || v.name == name || v.kernels.iter().any(|kernel| kernel.contains(name))
                }
            })
        };
        let variants: Vec<_> = VARIANTS.iter().filter(wanted).collect();
        if variants.is_empty() {
            let name = self.name.as_deref().unwrap_or_default();
            bail!("no operation, variant or kernel matches {name:?}; `vcycle kernels list` lists them");
        }
        match self.device {
            Kind::Cuda { .. } if self.shadow || self.drop.is_some() => {
                bail!("--shadow and --drop work only on the emulator; leave out --device {}", self.device)
            }
            Kind::Cuda { .. } => {}
            Kind::Emulator => {
                #[cfg(emulated)]
                crate::device::cuda::driver::emulator::compile_changed()?;
            }
            Kind::Cpu | Kind::Reference => {
                bail!("--device {}: kernels run on emulator, cuda or cuda:N; choose one of these", self.device)
            }
        }
        let choice = Choice { every: 1, flops: if self.full { u64::MAX } else { 30_000_000 }, full: self.full };
        match &self.drop {
            Some(site) => self.without(site, &variants, choice),
            None => self.with(&variants, choice),
        }
    }

    fn with(&self, variants: &[&'static Variant], choice: Choice) -> Result<ExitCode> {
        let mut failed = 0;
        for variant in variants {
            let begin = Instant::now();
            let done = match self.device {
                // A GPU is fast enough for large shapes.
                Kind::Cuda { gpu } => kernels::on_gpu(gpu, variant, Choice { flops: u64::MAX, ..choice }),
                _ => self.emulated(variant, None, choice),
            };
            let (name, seconds) = (format!("{} {}", variant.operation, variant.name), begin.elapsed().as_secs_f64());
            match done {
                Ok(done) => say(format_args!(
                    "{name:<28} ok: {:>4} operations, {:>5.1} % of the tolerance used, {seconds:.1} s",
                    done.comparisons,
                    100.0 * done.worst
                ))?,
                // Without the device, no kernel can be checked.
                Err(error) if !self.is_there() => return Err(error),
                Err(error) => {
                    failed += 1;
                    say(format_args!("{name:<28} FAILED: {error}"))?;
                }
            }
        }
        if failed > 0 {
            return Err(Error::new(format!("{failed} of {} variants failed", variants.len())));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn is_there(&self) -> bool {
        match self.device {
            Kind::Cuda { gpu } => crate::device::cuda::open(gpu).is_ok(),
            _ => cfg!(emulated),
        }
    }

    #[cfg(emulated)]
    fn emulated(&self, variant: &'static Variant, drop: Option<&str>, choice: Choice) -> Result<kernels::Outcome> {
        use crate::device::cuda::driver::emulator::{Options, Order, Site};
        let drop = match drop.map(|text| (text, Site::parse(text))) {
            Some((text, None)) => bail!("--drop {text:?}: expected FILE:LINE, for instance kernels/linear.cu:147"),
            Some((_, site)) => site,
            None => None,
        };
        let wanted = |order: Order| match self.orders {
            Orders::All => true,
            Orders::Forward => order == Order::Forward,
            Orders::Reverse => order == Order::Reverse,
            Orders::Random => order == Order::Random,
        };
        let schedules = Options::schedules(self.shadow || drop.is_some()).into_iter();
        let schedules: Vec<_> =
            schedules.filter(|o| wanted(o.order)).map(|o| Options { drop: drop.clone(), ..o }).collect();
        kernels::emulated(variant, &schedules, choice)
    }

    #[cfg(not(emulated))]
    fn emulated(&self, _variant: &'static Variant, _drop: Option<&str>, _choice: Choice) -> Result<kernels::Outcome> {
        crate::device::open("emulator", 0).map(|_| kernels::Outcome { comparisons: 0, worst: 0.0 })
    }

    /// Runs the variants that reach `site` with the barrier, fence, wait or commit there left out.
    fn without(&self, site: &str, variants: &[&'static Variant], choice: Choice) -> Result<ExitCode> {
        let reached = kernels::reaching(site, variants)?;
        if reached.is_empty() {
            bail!(
                "--drop {site}: no kernel reaches a barrier, fence, wait or commit there; give FILE:LINE as in a report"
            );
        }
        let mut noticed = true;
        for variant in reached {
            let name = format!("{} {}", variant.operation, variant.name);
            match self.emulated(variant, Some(site), choice) {
                Err(error) => say(format_args!("{name:<28} notices: {error}"))?,
                Ok(_) => {
                    noticed = false;
                    say(format_args!("{name:<28} does not notice"))?;
                }
            }
        }
        Ok(if noticed { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}
