//! `metrics.jsonl`: one JSON object a line, for every step, every evaluation and what happens between them. Numbers go to a
//! TensorBoard file as well.

pub mod progress;
pub mod tensorboard;

use crate::bail;
use crate::error::{Error, Result};
use crate::eval::metrics::Measures;
use crate::train::checkpoint::State;
use crate::train::settings::Change;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tensorboard::TensorBoard;

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
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

/// Time spent in one kind of operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationTime {
    pub name: String,
    pub calls: u64,
    pub seconds: f64,
    pub flops: u64,
}

/// Text that a trained model wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    pub prompt: String,
    pub text: String,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A stage begins.
    Stage {
        #[serde(flatten)]
        at: Position,
        name: String,
        steps: u64,
        parameters: usize,
        layers: usize,
        width: usize,
    },
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
        /// Of images and labelled texts.
        #[serde(skip_serializing_if = "Option::is_none")]
        measures: Option<Measures>,
        /// Memory of the process, where the system tells.
        resident_bytes: Option<u64>,
    },
    /// Coalesced, or de-coalesced and interpolated, into the level of `at`.
    Operator {
        #[serde(flatten)]
        at: Position,
        name: &'static str,
        flops_spent: u64,
        /// Of an interpolation.
        alpha: Option<f64>,
    },
    /// The line search for alpha: each value that was tried, with its held-out loss, in that order.
    Search {
        #[serde(flatten)]
        at: Position,
        alpha: f64,
        tried: Vec<(f64, f64)>,
        flops_spent: u64,
    },
    /// The run went on with another configuration than that of its checkpoint.
    Settings {
        #[serde(flatten)]
        at: Position,
        changes: Vec<Change>,
    },
    /// The last line of a finished run.
    Summary {
        #[serde(flatten)]
        at: Position,
        /// The most memory the process ever took.
        resident_bytes: Option<u64>,
        tokens_per_second: f64,
        /// Seconds in which the next batch was waited for.
        waited_seconds: f64,
        operations: Vec<OperationTime>,
        sample: Option<Sample>,
    },
}

/// The file of one run.
pub struct Metrics {
    path: PathBuf,
    out: Option<(BufWriter<File>, TensorBoard)>,
    /// All evaluations, for the comparison at the end.
    pub evals: Vec<(Position, f64)>,
}

impl Metrics {
    const FILE: &'static str = "metrics.jsonl";
    const BOARD: &'static str = "tensorboard";

    /// For `dir/metrics.jsonl`. Folder and file appear with the first event.
    pub fn new(dir: &Path) -> Self {
        Metrics { path: dir.join(Self::FILE), out: None, evals: Vec::new() }
    }

    /// Reads what a finished run wrote.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn finished(dir: &Path) -> Result<Self> {
        let mut metrics = Self::new(dir);
        let file = File::open(&metrics.path).map_err(|e| Error::io("read", &metrics.path, e))?;
        metrics.read_evals(file)?;
        Ok(metrics)
    }

    /// Goes on after what the file and TensorBoard's held at a checkpoint; what came later never happened. A missing
    /// TensorBoard file begins anew.
    ///
    /// # Errors
    /// A file that is missing or shorter, whose beginning is damaged, or that does not lead up to the checkpoint. It stays
    /// as it was.
    pub fn resume(dir: &Path, state: &State) -> Result<Self> {
        let mut metrics = Self::new(dir);
        let path = metrics.path.clone();
        let io = |e| Error::io("go on with", &path, e);
        let (bytes, step) = (state.metrics_bytes, state.at.step);
        let facts = std::fs::metadata(&path).map_err(io)?;
        // A pipe, say, would be waited for.
        if !facts.is_file() {
            bail!("cannot go on with {}: it is not a file; restore it", path.display());
        }
        if facts.len() < bytes {
            bail!(
                "{} has {} bytes, but the checkpoint of step {step} was written after {bytes}; restore the file",
                path.display(),
                facts.len()
            );
        }
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(io)?;
        let last = metrics.read_evals((&file).take(bytes))?;
        let evaluated = metrics.evals.last().map(|(at, loss)| (*loss, *at == state.at));
        if last != Some(state.at) || evaluated != Some((state.valid_loss, state.valid_here)) {
            bail!(
                "{}: its first {bytes} bytes do not end where the checkpoint of step {step} was; restore the file",
                path.display()
            );
        }
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::End(0))).map_err(io)?;
        let board = dir.join(Self::BOARD);
        let board = TensorBoard::resume(&board, state.tensorboard_bytes).or_else(|_| anew(&board))?;
        metrics.out = Some((BufWriter::new(file), board));
        Ok(metrics)
    }

    /// Returns the position of the last line.
    fn read_evals(&mut self, file: impl Read) -> Result<Option<Position>> {
        #[derive(Deserialize)]
        struct Line {
            event: String,
            #[serde(flatten)]
            at: Position,
            valid_loss: Option<f64>,
        }
        let (mut lines, mut text, mut last) = (BufReader::new(file), Vec::new(), None);
        for number in 1.. {
            text.clear();
            let read = lines.read_until(b'\n', &mut text).map_err(|e| Error::io("read", &self.path, e))?;
            if read == 0 {
                break;
            }
            let line: Result<Line, String> = match text.ends_with(b"\n") {
                true => serde_json::from_slice(&text).map_err(|e| e.to_string()),
                false => Err("it is cut off".into()),
            };
            let line = line.map_err(|e| {
                Error::new(format!("{}: line {number} is damaged: {e}; restore the file", self.path.display()))
            })?;
            if let (true, Some(loss)) = (line.event == "eval", line.valid_loss) {
                self.evals.push((line.at, loss));
            }
            last = Some(line.at);
        }
        Ok(last)
    }

    fn open(&mut self) -> Result<&mut (BufWriter<File>, TensorBoard)> {
        if self.out.is_none() {
            let dir = self.path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
            let file = File::create(&self.path).map_err(|e| Error::io("create", &self.path, e))?;
            self.out = Some((BufWriter::new(file), anew(&dir.join(Self::BOARD))?));
        }
        match &mut self.out {
            Some(out) => Ok(out),
            None => unreachable!("opened above"),
        }
    }

    /// # Errors
    /// The disk is full or gone.
    pub fn write(&mut self, event: &Event) -> Result<()> {
        if let Event::Eval { at, valid_loss, .. } = event {
            self.evals.push((*at, *valid_loss));
        }
        let (out, board) = self.open()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        match event {
            Event::Step { at, lr, loss, grad_norm } => {
                let values = [("loss/train", *loss), ("lr", *lr), ("grad_norm", *grad_norm)];
                board.scalars(at.step, now, &values)?;
            }
            Event::Eval { at, valid_loss, measures, .. } => {
                let values = [
                    ("loss/held_out", *valid_loss),
                    ("progress/level", at.level as f64),
                    ("progress/flops", at.flops as f64),
                    ("progress/seconds", at.seconds),
                ];
                board.scalars(at.step, now, &values)?;
                let measures = measures.iter().flat_map(Measures::named).filter(|(_, value)| value.is_finite());
                for (name, value) in measures {
                    board.scalars(at.step, now, &[(&format!("held_out/{name}"), value)])?;
                }
            }
            _ => {}
        }
        let line = serde_json::to_writer(&mut *out, event).map_err(std::io::Error::from);
        let written = line.and_then(|()| out.write_all(b"\n"));
        written.map_err(|e| Error::io("write", self.path.as_path(), e))?;
        if !matches!(event, Event::Step { .. }) {
            self.flush()?;
        }
        Ok(())
    }

    /// # Errors
    /// As [`Metrics::write`].
    pub fn flush(&mut self) -> Result<()> {
        let Some((out, board)) = &mut self.out else { return Ok(()) };
        out.flush().map_err(|e| Error::io("write", &self.path, e))?;
        board.flush()
    }

    /// Brings everything to disk, and says how long this file and TensorBoard's are.
    ///
    /// # Errors
    /// As [`Metrics::write`].
    pub fn sync(&mut self) -> Result<(u64, u64)> {
        self.flush()?;
        let Some((out, board)) = &self.out else { return Ok((0, 0)) };
        let file = out.get_ref();
        let length = file.sync_data().and_then(|()| file.metadata()).map(|m| m.len());
        Ok((length.map_err(|e| Error::io("write", &self.path, e))?, board.bytes_written()))
    }
}

/// A TensorBoard file from the beginning: what lies there is of a try that left no checkpoint.
fn anew(dir: &Path) -> Result<TensorBoard> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(|e| Error::io("remove", dir, e))?;
    }
    TensorBoard::create(dir)
}
