use super::{DeviceArgs, bench_report, print};
use crate::bail;
use crate::bench::machine::VariantChoice;
use crate::bench::report::{LONGEST, MOST_BYTES};
use crate::bench::shapes::{self, Subject};
use crate::bench::{self, Peer, Request, Sink};
use crate::config::Precision;
use crate::error::{Error, Result};
use crate::files::{self, AtomicFile};
use clap::ValueEnum;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Measure operations and training steps: median and best time, spread, rates, and percentage of the roofline
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = shapes::help(), after_long_help = format!("{HOW}\n\n{}", shapes::help()))]
pub struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// What to measure
    #[arg(value_enum, required = true)]
    subject: Option<What>,
    /// Named shape or sizes; see the list below
    #[arg(long, value_name = "NAME|SIZES")]
    shape: Option<String>,
    /// Kernel variants to compare: a comma-separated list, or `all` [default: the one that the device chooses]
    #[arg(long, value_name = "NAMES|all")]
    variant: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Precision of the computation (bf16 only on cuda and emulator)
    #[arg(long, value_enum, default_value_t = In::F32)]
    precision: In,
    /// Also measure a peer in the same rounds: cublaslt, for gemm on cuda, in a build with the feature `cublaslt`
    #[arg(long, value_enum)]
    peer: Option<Theirs>,
    /// Least number of rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// Least number of seconds for every case [default: 1; for a step 15]
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Label for the lines of JSON, by which `vcycle bench report` distinguishes versions (before and after a change)
    #[arg(long, value_name = "TEXT", value_parser = label)]
    label: Option<String>,
    /// Write a line of JSON for every case to this file, keeping its lines with other labels; with - to standard
    /// output, and the table to standard error
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Other {
    Report(bench_report::Args),
}

const HOW: &str = "\
Method. Operands are random and laid out as in a training step. Each run uses another set of operands; there
are enough sets to exceed the caches twice (64 at most), because in a step the operands of an operation are
rarely in cache. Tiny shapes may stay in cache anyway. After a warm-up, all variants run in turn, round by
round. Operations are timed by the device (on cuda with events on the stream), steps by the host, from batch
to loss. The roofline is measured in the same process: the bandwidth of a copy or a sum larger than the caches,
whichever is faster, and the FLOP/s of the best square matrix product. Times of the emulator say nothing about
speed.";

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Gemm,
    Attention,
    #[value(name = "layernorm")]
    LayerNorm,
    CrossEntropy,
    #[value(name = "adamw")]
    AdamW,
    Multilevel,
    Step,
}

#[derive(Clone, Copy, ValueEnum)]
enum Theirs {
    #[value(name = "cublaslt")]
    CublasLt,
}

#[derive(Clone, Copy, ValueEnum)]
enum In {
    F32,
    Bf16,
}

fn seconds(text: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(n) if (0.0..=86_400.0).contains(&n) => Ok(n),
        _ => bail!("{text:?} is not a number of seconds from 0 to 86400"),
    }
}

fn label(text: &str) -> Result<String> {
    match text.chars().count() {
        1..=LONGEST if !text.trim().is_empty() => Ok(text.into()),
        n => bail!("a label needs 1 to {LONGEST} characters that are not all spaces; this one has {n}"),
    }
}

/// Returns the lines of a file that have another label. They are kept, so that one file can hold versions to compare.
fn of_other_labels(path: &Path, label: Option<&str>) -> Result<String> {
    if !path.is_file() {
        return Ok(String::new());
    }
    let text = files::read_text(path, MOST_BYTES)?;
    let mut kept = String::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let Ok(value) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line) else {
            bail!(
                "--json {}: line {} was not written by `vcycle bench --json`; choose another file, or remove this one",
                path.display(),
                number + 1
            );
        };
        let labelled = value.get("label").and_then(serde_json::Value::as_str);
        if labelled != label {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    Ok(kept)
}

impl Args {
    fn request(&self, subject: What) -> Request {
        Request {
            subject: match subject {
                What::Gemm => Subject::Gemm,
                What::Attention => Subject::Attention,
                What::LayerNorm => Subject::LayerNorm,
                What::CrossEntropy => Subject::CrossEntropy,
                What::AdamW => Subject::AdamW,
                What::Multilevel => Subject::Multilevel,
                What::Step => Subject::Step,
            },
            shape: self.shape.clone(),
            variant: match self.variant.as_deref() {
                None => VariantChoice::Chosen,
                Some("all") => VariantChoice::All,
                Some(names) => VariantChoice::Named(names.split(',').map(Into::into).collect()),
            },
            device: self.device.device.clone(),
            threads: self.device.threads(),
            precision: match self.precision {
                In::F32 => Precision::F32,
                In::Bf16 => Precision::Bf16,
            },
            peer: self.peer.map(|Theirs::CublasLt| Peer::CublasLt),
            rounds: self.rounds as usize,
            seconds: self.seconds,
            label: self.label.clone(),
        }
    }

    pub fn run(mut self) -> Result<()> {
        if let Some(Other::Report(report)) = self.other.take() {
            return report.run();
        }
        let Some(subject) = self.subject else { bail!("nothing to measure; `vcycle bench --help` lists all subjects") };
        let to_stdout = self.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
        // Open the file first, so that an error is reported before minutes of measurements.
        let mut file = match &self.json {
            Some(path) if !to_stdout => {
                let others = of_other_labels(path, self.label.as_deref())?;
                let mut file = AtomicFile::create(path)?;
                file.write(others.as_bytes())?;
                Some(file)
            }
            _ => None,
        };
        let mut say = |text: &str| match to_stdout {
            false => print(format_args!("{text}")),
            true => write!(std::io::stderr(), "{text}").map_err(|e| Error::new(format!("cannot write the table: {e}"))),
        };
        let mut json = |value: &serde_json::Value| match &mut file {
            Some(file) => file.write(format!("{value}\n").as_bytes()),
            None if to_stdout => print(format_args!("{value}\n")),
            None => Ok(()),
        };
        bench::run(&self.request(subject), &mut Sink { say: &mut say, json: &mut json })?;
        file.map_or(Ok(()), AtomicFile::commit)
    }
}
