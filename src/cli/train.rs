use super::{DeviceArgs, say};
use crate::bail;
use crate::error::Result;
use crate::hub::checkpoint;
use crate::train::config::Config;
use crate::train::progress::Progress;
use crate::train::run::train;
use std::path::{Path, PathBuf};

/// Train a model in a V-cycle, and its scratch twin, as a configuration says
#[derive(clap::Args)]
pub struct Args {
    /// Configuration, for instance configs/gpt-sotu.toml
    config: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    /// Folder for the run, which must not exist; default: runs/NAME, or runs/NAME-2 and so on
    #[arg(long)]
    out: Option<PathBuf>,
    /// Change one key, for instance --set levels.0.train.steps=500 (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seed; the same as --set seed=N
    // TOML, through which the seed goes, has signed integers.
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Print results only
    #[arg(long)]
    quiet: bool,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let mut changes = self.set;
        changes.extend(self.seed.map(|seed| format!("seed={seed}")));
        let config = Config::read(&self.config, &changes)?;
        let out = match self.out {
            Some(out) => out,
            None => free_folder(&self.config)?,
        };
        let mut device = self.device.open()?;
        let mut progress = Progress::new(self.quiet);
        let outcome = train(&config, &mut *device, Path::new("runs/data"), &out, &mut progress)?;
        if let Some(savings) = &outcome.savings {
            say(format_args!("{savings}"))?;
        }
        let model = outcome.model.display();
        say(format_args!("model: {model} (held-out loss {:.4})", outcome.loss))?;
        // Token files alone have no tokenizer, without which nothing is generated.
        if !outcome.model.join(checkpoint::TOKENIZER).exists() {
            return Ok(());
        }
        say(format_args!("try: vcycle generate {model} --prompt \"The people of the United States\""))
    }
}

/// `runs/NAME`, or the first of `runs/NAME-2`, `runs/NAME-3` ... that does not exist.
fn free_folder(config: &Path) -> Result<PathBuf> {
    let Some(name) = config.file_stem() else { bail!("{} names no file", config.display()) };
    let first = Path::new("runs").join(name);
    if !first.exists() {
        return Ok(first);
    }
    let numbered = |n: usize| Path::new("runs").join(format!("{}-{n}", name.to_string_lossy()));
    match (2..10_000).map(numbered).find(|path| !path.exists()) {
        Some(path) => Ok(path),
        None => bail!("runs/ holds 10,000 runs of this name; give --out or remove some"),
    }
}
