//! The command line: one file per subcommand, no logic of its own.

mod bench;
mod bench_report;
mod coalesce;
mod compare;
mod data;
mod decoalesce;
mod eval;
mod generate;
mod info;
mod interpolate;
mod kernels;
mod report;
mod rules;
mod train;

use crate::bail;
use crate::data::tokenizer::Tokenizer;
use crate::device::Device;
use crate::error::{At, Result};
use crate::hub::checkpoint;
use crate::model::gpt::Gpt;
use crate::model::store::Store;
use clap::{Parser, Subcommand};
use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The arguments of the binary.
#[derive(Parser)]
#[command(name = "vcycle", version, about, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Data(data::Args),
    Coalesce(coalesce::Args),
    Decoalesce(decoalesce::Args),
    Interpolate(interpolate::Args),
    Eval(eval::Args),
    Generate(generate::Args),
    Compare(compare::Args),
    Report(report::Args),
    Bench(bench::Args),
    Kernels(kernels::Args),
    Info(info::Args),
}

/// Where computation happens.
#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Device to compute on: cpu, cuda, emulator (the kernels of cuda without a GPU, slow), or reference (f64, slow)
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads of the cpu device and of the emulator; 0: as many as the machine has. Results do not depend on it
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    threads: u16,
}

impl DeviceArgs {
    fn open(&self) -> Result<Box<dyn Device>> {
        crate::device::open(&self.device, usize::from(self.threads))
    }

    /// Threads that the device will have.
    fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => usize::from(n),
        }
    }
}

/// Prints a line of results.
fn say(line: fmt::Arguments<'_>) -> Result<()> {
    print(format_args!("{line}\n"))
}

/// Prints text as it is, at once. The macros of the standard library would panic where the reader has gone.
fn print(text: fmt::Arguments<'_>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // Who reads has enough, as in `| head`: no failure, and nothing of what would follow is wanted. Commands print
        // when their files are whole and their temporary ones gone, so nothing is lost by leaving here.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => bail!("cannot write to standard output: {e}; check where it leads"),
    }
}

/// Prints a line on standard error. Nobody reading it is no reason to fail.
fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A model that goes on with a text; what a person should know about its folder goes to standard error.
fn load_gpt(model: &Path, device: &mut dyn Device) -> Result<(Gpt, Store)> {
    checkpoint::load_gpt_noting(model, device, &mut |text| note(format_args!("note: {text}")))
}

/// Where the tokenizer of a model folder lies, and the tokenizer.
fn tokenizer(model: &Path) -> Result<(PathBuf, Tokenizer)> {
    let mut path = model.join(checkpoint::TOKENIZER);
    if !path.exists() && Tokenizer::is_in(model) {
        path = model.to_owned();
    } else if model.is_dir() && !path.exists() {
        bail!(
            "{} has no {}, so it can read no text: it was trained on token files without data.tokenizer; put the \
             tokenizer.json of those tokens there",
            model.display(),
            checkpoint::TOKENIZER
        );
    }
    let tokenizer = Tokenizer::load(&path)?;
    tokenizer.notes().iter().for_each(|text| note(format_args!("note: {text}")));
    Ok((path, tokenizer))
}

/// The tokens of a text in the vocabulary of a model folder, and the tokenizer that lies there.
fn encode(model: &Path, vocab: usize, text: &str) -> Result<(Tokenizer, Vec<u32>)> {
    let (path, tokenizer) = tokenizer(model)?;
    let tokens = tokenizer.encode(text).at(path.display())?;
    let unknown = tokenizer.unknown();
    let count = tokens.iter().filter(|&&id| Some(id) == unknown).count() as u64;
    tokenizer.unknown_note(count, tokens.len() as u64).iter().for_each(|text| note(format_args!("{text}")));
    match tokens.iter().find(|&&t| t as usize >= vocab) {
        Some(id) => bail!(
            "{} gives token {id}, but the model knows {vocab} tokens; use the tokenizer it was trained with",
            path.display()
        ),
        None => Ok((tokenizer, tokens)),
    }
}

impl Cli {
    /// Runs the subcommand. Gives the exit code of a command that did what it was told.
    ///
    /// # Errors
    /// Whatever went wrong, as a sentence for a person.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Train(args) => return args.run(),
            Command::Data(args) => args.run(),
            Command::Coalesce(args) => args.run(),
            Command::Decoalesce(args) => args.run(),
            Command::Interpolate(args) => args.run(),
            Command::Eval(args) => args.run(),
            Command::Generate(args) => args.run(),
            Command::Compare(args) => args.run(),
            Command::Report(args) => args.run(),
            Command::Bench(args) => args.run(),
            Command::Kernels(args) => return args.run(),
            Command::Info(args) => args.run(),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}
