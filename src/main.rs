//! The `vcycle` binary: parses the command line and calls the library.

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;
use vcycle::allocator::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    vcycle::signals::install();
    match vcycle::cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            // Standard error may be closed.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::from(2)
        }
    }
}
