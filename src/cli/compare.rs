use super::{print, say};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::report::compare::{Comparison, choose};
use crate::report::curves::held_out;
use std::path::{Path, PathBuf};

/// Compare runs: FLOPs and seconds to be as good as a baseline at its best
#[derive(clap::Args)]
pub struct Args {
    /// Run folders (both sides count), folders of one side, or metrics.jsonl files
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Side to compare with, by name (run/scratch) or path (may be repeated); default: all scratch sides, else the first
    #[arg(long, value_name = "NAME|PATH")]
    baseline: Vec<String>,
    /// Draw held-out loss against FLOPs and seconds into this file
    #[arg(long, value_name = "OUT.svg")]
    plot: Option<PathBuf>,
    /// Write all numbers as JSON into this file; -: to standard output, in place of the tables
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
