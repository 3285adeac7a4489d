use super::{DeviceArgs, say};
use crate::bail;
use crate::config::Config;
use crate::device::cpu::Cpu;
use crate::device::timing::Timings;
use crate::error::Result;
use crate::families;
use crate::files::{shell_quote, shell_quote_text};
use crate::hub::checkpoint;
use crate::model::Family;
use crate::report::run::sides;
use crate::report::{html, trace};
use crate::run::folder::RunInfo;
use crate::run::{Outcome, Tools, memory_estimate, resume, train};
use crate::runlog::progress::Progress;
use crate::signals;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Train a model in a V-cycle and, as its baseline, from scratch, as described by a configuration
#[derive(clap::Args)]
pub struct Args {
    /// Configuration file, for instance configs/gpt-sotu.toml
    #[arg(required_unless_present = "resume")]
    config: Option<PathBuf>,
    /// Resume the run in this folder, which was stopped or killed
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "out", "set", "seed"])]
    resume: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Folder for the run; must not exist [default: runs/NAME, or runs/NAME-2 and so on]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Override a key of the configuration, for instance --set levels.0.train.steps=500; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seed; the same as --set seed=N
    // The seed becomes a TOML value, and TOML integers are signed.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Time every operation; prints a table and writes OUT/trace.json for chrome://tracing or ui.perfetto.dev
    #[arg(long)]
    profile: bool,
    /// Print an estimate of the device memory that the run needs, by level, without training
    #[arg(long, conflicts_with_all = ["resume", "profile"])]
    memory: bool,
    /// Print results only
    #[arg(long)]
    quiet: bool,
}

impl Args {
    pub fn run(self) -> Result<ExitCode> {
        let start = match &self.config {
            Some(path) => Some(self.start(path)?),
            None => None,
        };
        let mut device = self.device.open()?;
        if self.profile {
            device.timings().record(trace::SPANS);
        }
        let mut progress = Progress::new(self.quiet);
        signals::listen()?;
        let mut tools = Tools {
            device: &mut *device,
            cache: Path::new("runs/data"),
            progress: &mut progress,
            stop: &signals::stop,
        };
        if let (true, Some((config, _))) = (self.memory, &start) {
            say(format_args!("{}", memory_estimate(config, &mut tools)?))?;
            return Ok(ExitCode::SUCCESS);
        }
        let outcome = match (start, &self.resume) {
            (Some((config, out)), _) => {
                let about = RunInfo::this_process(&self.device.device, self.device.threads(), Cpu::vector_unit());
                train(&config, &about, &out, tools)?
            }
            (None, Some(dir)) => resume(dir, tools)?,
            (None, None) => bail!("nothing to train: give a configuration, or --resume with the folder of a run"),
        };
        if self.profile {
            profile(&outcome.dir().join("trace.json"), device.timings())?;
        }
        match outcome {
            Outcome::Finished { dir, loss, measures, savings } => {
                if let Some(savings) = &savings {
                    say(format_args!("{savings}"))?;
                }
                let (model, report) = (dir.join("vcycle/model"), dir.join(html::FILE));
                let measures = measures.map_or(String::new(), |measures| format!(", {measures}"));
                say(format_args!("model: {} (held-out loss {loss:.4}{measures})", model.display()))?;
                // There is no report if the disk was full, which was reported.
                if report.exists() {
                    say(format_args!("report: {}", report.display()))?;
                }
                match checkpoint::load_config(&model)?.family() {
                    // Text generation needs a tokenizer, which data of token files alone does not have.
                    Family::Gpt(_) if model.join(checkpoint::TOKENIZER).exists() => {
                        let prompt = prompt(&dir.join("vcycle")).unwrap_or_else(|| "The".to_owned());
                        let (model, prompt) = (shell_quote(&model), shell_quote_text(&prompt));
                        say(format_args!("try: vcycle generate {model} --prompt {prompt}"))?;
                    }
                    Family::Gpt(_) => {}
                    Family::Bert(_) | Family::Deit(_) => {
                        let config = dir.join("config.toml");
                        let [model, config] = [&model, &config].map(|path| shell_quote(path));
                        say(format_args!("try: vcycle eval {model} --run {config}"))?;
                    }
                }
                Ok(ExitCode::SUCCESS)
            }
            Outcome::Stopped { dir, step } => {
                // Ignore errors: the terminal may be closed.
                let text =
                    format!("stopped after step {step}; resume with: vcycle train --resume {}", shell_quote(&dir));
                let _ = writeln!(std::io::stdout(), "{text}");
                Ok(ExitCode::from(signals::STOPPED))
            }
        }
    }

    /// Returns the configuration and folder of a new run.
    fn start(&self, path: &Path) -> Result<(Config, PathBuf)> {
        let mut changes = self.set.clone();
        changes.extend(self.seed.map(|seed| format!("seed={seed}")));
        let config = families::read(path, &changes)?;
        let out = match &self.out {
            Some(out) => out.clone(),
            None => free_folder(path)?,
        };
        Ok((config, out))
    }
}

/// Returns the first words of the held-out text that the model continued at the end of training.
fn prompt(side: &Path) -> Option<String> {
    let sample = sides(side).ok()?.pop()?.summary?.sample?;
    let line = sample.prompt.lines().max_by_key(|line| line.split_whitespace().count())?;
    let words: Vec<&str> = line.split_whitespace().filter(|word| !word.contains(char::is_control)).collect();
    // The last word may be incomplete, because a token may end within a word.
    let whole = if sample.prompt.ends_with(line) { words.len().saturating_sub(1).max(1) } else { words.len() };
    let prompt = words.get(..whole.min(PROMPT_WORDS))?.join(" ");
    if prompt.is_empty() { None } else { Some(prompt) }
}

/// Words of the suggested prompt.
const PROMPT_WORDS: usize = 6;

/// Prints the time of each operation and writes the trace.
fn profile(path: &Path, timings: &Timings) -> Result<()> {
    trace::write(path, timings)?;
    say(format_args!("{}", trace::Table(timings)))?;
    let more = match timings.spans().1 {
        0 => String::new(),
        n => format!(" (the first {} operations; {n} more were not recorded)", trace::SPANS),
    };
    say(format_args!("trace: {}{more}", path.display()))
}

/// Returns `runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3` and so on that does not exist.
fn free_folder(config: &Path) -> Result<PathBuf> {
    let Some(name) = config.file_stem() else { bail!("{} has no file name; give a file", config.display()) };
    let first = Path::new("runs").join(name);
    if !first.exists() {
        return Ok(first);
    }
    let numbered = |n: usize| Path::new("runs").join(format!("{}-{n}", name.to_string_lossy()));
    match (2..10_000).map(numbered).find(|path| !path.exists()) {
        Some(path) => Ok(path),
        None => bail!("runs/ has 10,000 runs of this name; give --out or remove some"),
    }
}
