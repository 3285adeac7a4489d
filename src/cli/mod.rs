//! The command line: one file per subcommand, no logic of its own.

mod coalesce;
mod decoalesce;
mod eval;
mod generate;
mod info;
mod interpolate;
mod rules;
mod train;

use crate::error::Result;
use clap::{Parser, Subcommand};

/// Train transformers in multi-level V-cycles on hand-written kernels.
#[derive(Parser)]
#[command(name = "vcycle", version, about, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Coalesce(coalesce::Args),
    Decoalesce(decoalesce::Args),
    Interpolate(interpolate::Args),
    Eval(eval::Args),
    Generate(generate::Args),
    Info(info::Args),
}

/// Where computation happens.
#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Device to compute on: cpu, or reference (f64, slow)
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads of the cpu device; 0: as many as the machine has. Results do not depend on it
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

impl DeviceArgs {
    fn open(&self) -> Result<Box<dyn crate::device::Device>> {
        crate::device::open(&self.device, self.threads)
    }
}

impl Cli {
    /// Runs the subcommand.
    ///
    /// # Errors
    /// Whatever went wrong, as a sentence for a person.
    pub fn run(self) -> Result<()> {
        match self.command {
            Command::Train(args) => args.run(),
            Command::Coalesce(args) => args.run(),
            Command::Decoalesce(args) => args.run(),
            Command::Interpolate(args) => args.run(),
            Command::Eval(args) => args.run(),
            Command::Generate(args) => args.run(),
            Command::Info(args) => args.run(),
        }
    }
}
