use super::say;
use crate::error::Result;
use crate::report::html;
use std::path::PathBuf;

/// Write a run's report.html again from the files of the run
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the run, for instance runs/gpt-sotu
    run: PathBuf,
}

impl Args {
    pub fn run(self) -> Result<()> {
        html::write(&self.run)?;
        say(format_args!("{}", self.run.join(html::FILE).display()))
    }
}
