use super::print;
use crate::bench::report::Report;
use crate::error::Result;
use std::path::PathBuf;

/// Tables, a roofline plot and bars of where a step's time goes, from lines of JSON of ours and of peers
#[derive(clap::Args)]
#[command(after_help = HOW)]
pub struct Args {
    /// Files with lines of `vcycle bench --json`, and of benches/baselines/ with the same keys, in any mixture
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Also write report.md, report.html (which needs nothing else), roofline.svg and step.svg into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

const HOW: &str = "\
Lines of the same case and the same peer are rounds: by their key `round`, else in the order in which they stand. Ratios are of times \
of the same round, ours / theirs: below 1 ours is faster. Versions of ours are told apart by `vcycle bench --label`, or, where several \
files hold the same case without one, by the names of the files.";

impl Args {
    pub fn run(self) -> Result<()> {
        let report = Report::of(&self.files)?;
        if let Some(folder) = &self.out {
            report.write(folder)?;
        }
        print(format_args!("{}", report.markdown()))
    }
}
