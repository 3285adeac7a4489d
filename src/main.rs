//! The thin binary over the library.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match vcycle::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
