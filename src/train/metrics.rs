//! `metrics.jsonl`: one JSON object a line, for every step and every evaluation.

use crate::error::{Error, Result};
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Position {
    /// Stage of the plan and level of its model, from 1.
    pub stage: usize,
    pub level: usize,
    /// Steps of the whole run that are done.
    pub step: u64,
    /// FLOPs so far: all levels, the optimizer and the operators.
    pub flops: u64,
    /// Seconds of training so far: without evaluation and without preparing data.
    pub seconds: f64,
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    Step {
        #[serde(flatten)]
        at: Position,
        lr: f64,
        loss: f64,
        grad_norm: f64,
    },
    Eval {
        #[serde(flatten)]
        at: Position,
        valid_loss: f64,
        tokens: usize,
    },
    /// Coalesced, or de-coalesced and interpolated, into the level of `at`.
    Operator {
        #[serde(flatten)]
        at: Position,
        name: &'static str,
        flops_spent: u64,
    },
}

/// The file of one run.
pub struct Metrics {
    path: PathBuf,
    out: BufWriter<File>,
    /// All evaluations, for the comparison at the end.
    pub evals: Vec<(Position, f64)>,
}

impl Metrics {
    /// Creates `dir/metrics.jsonl`.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(dir: &Path) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let file = File::create(&path).map_err(|e| Error::io("create", &path, e))?;
        Ok(Metrics { path, out: BufWriter::new(file), evals: Vec::new() })
    }

    /// # Errors
    /// The disk is full or gone.
    pub fn write(&mut self, event: Event) -> Result<()> {
        let line = serde_json::to_writer(&mut self.out, &event).map_err(std::io::Error::from);
        line.and_then(|()| self.out.write_all(b"\n")).map_err(|e| Error::io("write", &self.path, e))?;
        if let Event::Eval { at, valid_loss, .. } = event {
            self.evals.push((at, valid_loss));
        }
        if !matches!(event, Event::Step { .. }) {
            self.flush()?;
        }
        Ok(())
    }

    /// # Errors
    /// As [`Metrics::write`].
    pub fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|e| Error::io("write", &self.path, e))
    }
}
