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
    /// The same with what `train.recompute` computes a second time.
    pub hardware_flops: u64,
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
    out: Option<BufWriter<File>>,
    /// All evaluations, for the comparison at the end.
    pub evals: Vec<(Position, f64)>,
}

impl Metrics {
    /// For `dir/metrics.jsonl`. Folder and file appear with the first event: a run that cannot start leaves nothing.
    pub fn new(dir: &Path) -> Self {
        Metrics { path: dir.join("metrics.jsonl"), out: None, evals: Vec::new() }
    }

    fn file(&mut self) -> Result<&mut BufWriter<File>> {
        if self.out.is_none() {
            let dir = self.path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
            self.out = Some(BufWriter::new(File::create(&self.path).map_err(|e| Error::io("create", &self.path, e))?));
        }
        match &mut self.out {
            Some(out) => Ok(out),
            None => unreachable!("opened above"),
        }
    }

    /// # Errors
    /// The disk is full or gone.
    pub fn write(&mut self, event: Event) -> Result<()> {
        let out = self.file()?;
        let line = serde_json::to_writer(&mut *out, &event).map_err(std::io::Error::from);
        let written = line.and_then(|()| out.write_all(b"\n"));
        written.map_err(|e| Error::io("write", &self.path, e))?;
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
        let flushed = self.out.as_mut().map_or(Ok(()), |out| out.flush());
        flushed.map_err(|e| Error::io("write", &self.path, e))
    }
}
