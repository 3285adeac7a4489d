use super::{print, say};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::report::compare::{Comparison, choose};
use crate::report::curves::held_out;
use std::path::{Path, PathBuf};

/// Compare runs: FLOPs and seconds needed to reach a baseline's best held-out loss
#[derive(clap::Args)]
pub struct Args {
    /// Run folders (for both branches, vcycle and scratch), folders of one branch, or metrics.jsonl files
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Baseline, by name (RUN/scratch) or path; may be repeated [default: all scratch branches, else the first run]
    #[arg(long, value_name = "NAME|PATH")]
    baseline: Vec<String>,
    /// Plot held-out loss against FLOPs and seconds to this file
    #[arg(long, value_name = "OUT.svg")]
    plot: Option<PathBuf>,
    /// Write all numbers as JSON to this file, or with - to standard output instead of the tables
    #[arg(long, value_name = "OUT")]
    json: Option<PathBuf>,
}

impl Args {
    pub fn run(self) -> Result<()> {
        let (sides, baselines) = choose(&self.runs, &self.baseline)?;
        let comparison = Comparison::of(&sides, &baselines)?;
        if let Some(path) = &self.plot {
            let svg = held_out(&sides.iter().collect::<Vec<_>>(), &baselines).svg()?;
            write_atomic(path, |out| out.write_all(svg.as_bytes()))?;
        }
        let json = || serde_json::to_string_pretty(&comparison).map_err(|e| Error::new(format!("--json: {e}")));
        match &self.json {
            Some(path) if path == Path::new("-") => return say(format_args!("{}", json()?)),
            Some(path) => {
                let text = json()?;
                write_atomic(path, |out| writeln!(out, "{text}"))?;
            }
            None => {}
        }
        print(format_args!("{comparison}"))
    }
}
