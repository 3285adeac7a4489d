use super::{DeviceArgs, bench_report, print};
use crate::bail;
use crate::bench::machine::Wish;
use crate::bench::report::{LONGEST, MOST_BYTES};
use crate::bench::shapes::{self, Subject};
use crate::bench::{self, Peer, Request, Sink};
use crate::error::{Error, Result};
use crate::files::{self, AtomicFile};
use crate::train::state::Precision;
use clap::ValueEnum;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What operations and training steps take: median, best, spread, rates, and the part of what this device gives at its best
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = shapes::help(), after_long_help = format!("{HOW}\n\n{}", shapes::help()))]
pub struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// What to measure
    #[arg(value_enum, required = true)]
    subject: Option<What>,
    /// A name, or sizes: see below
    #[arg(long, value_name = "NAME|SIZES")]
    shape: Option<String>,
    /// Variants of the kernels, side by side: some, parted by commas, or `all`; without it the one that the device chooses
    #[arg(long, value_name = "NAMES|all")]
    variant: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// In what to compute (bf16: cuda and emulator)
    #[arg(long, value_enum, default_value_t = In::F32)]
    precision: In,
    /// Measure a peer in the same rounds: cublaslt, for gemm on cuda, in a build with the feature of that name
    #[arg(long, value_enum)]
    peer: Option<Theirs>,
    /// At least so many rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// At least so many seconds for every case [default: 1, for a step 15]
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Written into the lines of JSON: tells this version from others, as before and after a change, in `vcycle bench report`
    #[arg(long, value_name = "TEXT", value_parser = label)]
    label: Option<String>,
    /// A line of JSON for every case into this file, where lines of other labels stay, or with `-` to standard output (the table then goes to standard error)
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Other {
    Report(bench_report::Args),
}

const HOW: &str = "\
How it measures. Operands are random, laid out as in a step. As many sets of them take turns as exceed the caches twice (64 at \
most), since a step meets its operands after all others; tiny shapes may stay in cache all the same. After a warm-up all variants \
run in turn, round by round. Seconds of operations are the device's own (on cuda between events of the stream); those of a step \
are the host's, from batch to loss. The roofline is measured in the same process: bytes a second of a copy or a sum \
larger than the caches, whichever is better, and FLOPs a second of the best square product. Times of the emulator say nothing about speed.";

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
        _ => bail!("{text:?} is no number of seconds from 0 to 86400"),
    }
}

fn label(text: &str) -> Result<String> {
    match text.chars().count() {
        1..=LONGEST if !text.trim().is_empty() => Ok(text.into()),
        n => bail!("a label has 1 to {LONGEST} characters, and not only spaces; this one has {n}"),
    }
}

/// The lines of a file that were measured under another label: they stay, so that one file may hold what is to be compared.
fn of_other_labels(path: &Path, label: Option<&str>) -> Result<String> {
    if !path.is_file() {
        return Ok(String::new());
    }
    let text = files::read_text(path, MOST_BYTES)?;
    let mut kept = String::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let Ok(value) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line) else {
            bail!(
                "--json {}: line {} is none of `vcycle bench --json`; name another file, or remove this one",
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
                None => Wish::Chosen,
                Some("all") => Wish::All,
                Some(names) => Wish::Named(names.split(',').map(Into::into).collect()),
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
        let Some(subject) = self.subject else { bail!("what to measure? `vcycle bench --help` lists all") };
        let to_stdout = self.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
        // Opened first: nobody wants to hear after minutes that it cannot be.
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
