//! Progress output on standard error: a bar on a terminal, else a line every few seconds.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Prints notes and the progress of stages to standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    last: Instant,
    quiet: bool,
}

/// Prints a line to standard error. Errors are ignored: a closed standard error should not end a run.
fn print(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Minimum time between progress lines when standard error is not a terminal.
const PERIOD: Duration = Duration::from_secs(5);

impl Progress {
    /// Creates a progress output; with `quiet`, one that prints nothing.
    pub fn new(quiet: bool) -> Self {
        Progress { bar: None, last: Instant::now(), quiet }
    }

    /// Prints a line that stays on the screen.
    pub fn note(&mut self, text: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| print(text)),
            None => print(text),
        }
    }

    /// Prints the name of a stage and starts its progress bar.
    pub fn begin(&mut self, name: &str, steps: u64) {
        self.note(name);
        if !self.quiet && std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(steps);
            // The template is valid; if it were not, the default bar would do.
            if let Ok(style) = ProgressStyle::with_template("  {bar:30} {pos}/{len}  {msg}  {eta} left") {
                bar.set_style(style);
            }
            self.bar = Some(bar);
        }
    }

    /// Updates the progress to `done` of `steps`. `message` is only called when it is going to be shown.
    pub fn step(&mut self, done: u64, steps: u64, message: impl FnOnce() -> String) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => {
                bar.set_position(done);
                if self.last.elapsed() > Duration::from_millis(100) {
                    bar.set_message(message());
                    self.last = Instant::now();
                }
            }
            None if self.last.elapsed() > PERIOD => {
                print(&format!("  step {done} of {steps}  {}", message()));
                self.last = Instant::now();
            }
            None => {}
        }
    }

    /// Removes the progress bar of the stage.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    /// Removes the bar, so that an error message is not printed into it.
    fn drop(&mut self) {
        self.end();
    }
}
