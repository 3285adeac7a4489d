//! What a person sees of a run: a bar on a terminal, a line now and then elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// See the module. Everything goes to standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    last: Instant,
    quiet: bool,
}

/// A line on standard error. Nobody reading it is no reason to end a run, so errors are passed over.
fn print(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Between lines where no terminal redraws a bar.
const PERIOD: Duration = Duration::from_secs(5);

impl Progress {
    pub fn new(quiet: bool) -> Self {
        Progress { bar: None, last: Instant::now(), quiet }
    }

    /// A sentence that stays.
    pub fn note(&mut self, text: &str) {
        match &self.bar {
            _ if self.quiet => {}
            Some(bar) => bar.suspend(|| print(text)),
            None => print(text),
        }
    }

    /// A stage of so many steps begins.
    pub fn begin(&mut self, name: &str, steps: u64) {
        self.note(name);
        if !self.quiet && std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(steps);
            // The template is a constant that indicatif accepts; a default bar would do as well.
            if let Ok(style) = ProgressStyle::with_template("  {bar:30} {pos}/{len}  {msg}  {eta} left") {
                bar.set_style(style);
            }
            self.bar = Some(bar);
        }
    }

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

    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    /// An error that ends a stage is not printed onto its bar.
    fn drop(&mut self) {
        self.end();
    }
}
