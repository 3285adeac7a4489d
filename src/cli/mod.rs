//! The command line: one file per subcommand. It parses options, calls the library and prints results.

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

/// The arguments of the `vcycle` binary.
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

/// The options that select the device.
#[derive(clap::Args)]
pub struct DeviceArgs {
    /// Device to compute on: cpu, cuda (or cuda:N for GPU N), emulator (runs the CUDA kernels without a GPU; slow), or
    /// reference (f64; slow)
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads of the cpu device and the emulator; 0 uses all cores. Results do not depend on it
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    threads: u16,
}

impl DeviceArgs {
    fn open(&self) -> Result<Box<dyn Device>> {
        crate::device::open(&self.device, usize::from(self.threads))
    }

    /// Returns the number of threads that the device will use.
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

/// Prints text and flushes. The macros of the standard library would panic if the reader has closed the pipe.
fn print(text: fmt::Arguments<'_>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // The reader has closed the pipe, as in `| head`: not a failure, and no more output is needed. Commands print
        // only after their files are complete and temporary files removed, so nothing is lost by exiting here.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(e) => bail!("cannot write to standard output: {e}; check where it is redirected"),
    }
}

/// Prints a line on standard error. Errors are ignored: standard error may be closed.
fn note(line: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Loads a GPT for evaluation or generation and prints notes about its folder on standard error.
fn load_gpt(model: &Path, device: &mut dyn Device) -> Result<(Gpt, Store)> {
    checkpoint::load_gpt_with_notes(model, device, &mut |text| note(format_args!("note: {text}")))
}

/// Loads the tokenizer of a model folder. Returns its path, too.
fn tokenizer(model: &Path) -> Result<(PathBuf, Tokenizer)> {
    let mut path = model.join(checkpoint::TOKENIZER);
    if !path.exists() && Tokenizer::is_in(model) {
        path = model.to_owned();
    } else if model.is_dir() && !path.exists() {
        bail!(
            "{} has no {}, so it cannot read text: it was trained on token files without data.tokenizer; put the \
             tokenizer.json of these tokens there",
            model.display(),
            checkpoint::TOKENIZER
        );
    }
    let tokenizer = Tokenizer::load(&path)?;
    tokenizer.notes().iter().for_each(|text| note(format_args!("note: {text}")));
    Ok((path, tokenizer))
}

/// Encodes a text with the tokenizer of a model folder. Returns the tokenizer and the tokens, all of which are below
/// `vocab`.
fn encode(model: &Path, vocab: usize, text: &str) -> Result<(Tokenizer, Vec<u32>)> {
    let (path, tokenizer) = tokenizer(model)?;
    let tokens = tokenizer.encode(text).at(path.display())?;
    let unknown = tokenizer.unknown();
    let count = tokens.iter().filter(|&&id| Some(id) == unknown).count() as u64;
    tokenizer.unknown_note(count, tokens.len() as u64).iter().for_each(|text| note(format_args!("{text}")));
    match tokens.iter().find(|&&t| t as usize >= vocab) {
        Some(id) => bail!(
            "{} returns token {id}, but the model has a vocabulary of {vocab} tokens; use the tokenizer it was trained \
             with",
            path.display()
        ),
        None => Ok((tokenizer, tokens)),
    }
}

impl Cli {
    /// Runs the subcommand and returns its exit code.
    ///
    /// # Errors
    /// If the command fails; the error is a message for the user.
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
