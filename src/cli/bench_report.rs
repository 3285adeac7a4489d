use super::print;
use crate::bench::report::Report;
use crate::error::Result;
use std::path::PathBuf;

/// Report on measurements of vcycle and peers: tables, a roofline plot, and the time of each operation in a step
#[derive(clap::Args)]
#[command(after_help = HOW)]
pub struct Args {
    /// Files with lines of JSON from `vcycle bench --json` and from the peers in benches/baselines/, in any combination
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Also write report.md, report.html (self-contained), roofline.svg and step.svg into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

const HOW: &str = "\
Lines with the same case and peer are rounds, numbered by their key `round` or else by their order. Ratios are
ours / theirs for times of the same round: below 1 ours is faster. Versions of vcycle are distinguished by
`vcycle bench --label`, or, if several files hold the same case without a label, by the file names.";

impl Args {
    pub fn run(self) -> Result<()> {
        let report = Report::of(&self.files)?;
        if let Some(folder) = &self.out {
            report.write(folder)?;
        }
        print(format_args!("{}", report.markdown()))
    }
}
