//! The log of a training: `metrics.jsonl`, TensorBoard event files, and progress on the terminal.
//!
//! [`Metrics`] writes one JSON object ([`Event`]) per line to `metrics.jsonl`: every step, every evaluation, and the
//! operators between stages. It also writes the numbers to a TensorBoard file ([`tensorboard`]). [`progress`] prints to
//! standard error.

mod event;
mod measured;
pub mod progress;
pub mod tensorboard;

pub use event::{
    Change, Eval, Event, OperationTime, Operator, Position, Sample, Search, Settings, Stage, Step, Summary,
};
pub use measured::Measured;

use crate::bail;
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tensorboard::TensorBoard;

/// The two trainings of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// The V-cycle.
    VCycle,
    /// The baseline: level 1 trained from scratch.
    Scratch,
}

impl Branch {
    /// Both branches, in the order in which they are trained.
    pub const ALL: [Branch; 2] = [Branch::VCycle, Branch::Scratch];

    /// Returns the name of the branch's folder in the run folder.
    pub fn folder(self) -> &'static str {
        match self {
            Branch::VCycle => "vcycle",
            Branch::Scratch => "scratch",
        }
    }
}

/// Where a log continues after a checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct ResumePoint {
    /// Position of the checkpoint.
    pub at: Position,
    /// Held-out loss of the last evaluation.
    pub valid_loss: f64,
    /// Whether the last evaluation was made at the position of the checkpoint.
    pub valid_here: bool,
    /// Length of `metrics.jsonl` at the checkpoint.
    pub metrics_bytes: u64,
    /// Length of the TensorBoard file at the checkpoint.
    pub tensorboard_bytes: u64,
}

/// The metrics file of one branch of a run, and its TensorBoard file.
pub struct Metrics {
    path: PathBuf,
    out: Option<(BufWriter<File>, TensorBoard)>,
    /// Position and held-out loss of every evaluation, for the comparison at the end.
    pub evals: Vec<(Position, f64)>,
}

impl Metrics {
    const FILE: &'static str = "metrics.jsonl";
    const BOARD: &'static str = "tensorboard";

    /// Creates a log that writes to `dir/metrics.jsonl`. Folder and file are created with the first event.
    pub fn new(dir: &Path) -> Self {
        Metrics { path: dir.join(Self::FILE), out: None, evals: Vec::new() }
    }

    /// Reads the evaluations of a finished run.
    ///
    /// # Errors
    /// The file is missing or damaged.
    pub fn finished(dir: &Path) -> Result<Self> {
        let mut metrics = Self::new(dir);
        let file = File::open(&metrics.path).map_err(|e| Error::io("read", &metrics.path, e))?;
        metrics.read_evals(file)?;
        Ok(metrics)
    }

    /// Reopens the files to continue after a checkpoint, and truncates them to their lengths at that checkpoint. A
    /// TensorBoard file that is missing or cannot be continued is started again.
    ///
    /// # Errors
    /// `metrics.jsonl` is missing, damaged, or shorter than at the checkpoint, or does not end at the checkpoint's
    /// position. It is then left unchanged.
    pub fn resume(dir: &Path, from: &ResumePoint) -> Result<Self> {
        let mut metrics = Self::new(dir);
        let path = metrics.path.clone();
        let io = |e| Error::io("continue", &path, e);
        let (bytes, step) = (from.metrics_bytes, from.at.step);
        let facts = std::fs::metadata(&path).map_err(io)?;
        // Opening a pipe, for instance, would block.
        if !facts.is_file() {
            bail!("cannot continue {}: it is not a file; restore it", path.display());
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
        let evaluated = metrics.evals.last().map(|(at, loss)| (*loss, *at == from.at));
        if last != Some(from.at) || evaluated != Some((from.valid_loss, from.valid_here)) {
            bail!(
                "{}: its first {bytes} bytes do not end at the checkpoint of step {step}; restore the file",
                path.display()
            );
        }
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::End(0))).map_err(io)?;
        let board = dir.join(Self::BOARD);
        let board = TensorBoard::resume(&board, from.tensorboard_bytes).or_else(|_| anew(&board))?;
        metrics.out = Some((BufWriter::new(file), board));
        Ok(metrics)
    }

    /// Reads all evaluations of the file. Returns the position in its last line.
    fn read_evals(&mut self, file: impl Read) -> Result<Option<Position>> {
        let (mut lines, mut text, mut last) = (BufReader::new(file), Vec::new(), None);
        for number in 1.. {
            text.clear();
            let read = lines.read_until(b'\n', &mut text).map_err(|e| Error::io("read", &self.path, e))?;
            if read == 0 {
                break;
            }
            let event: Result<Event, String> = match text.ends_with(b"\n") {
                true => serde_json::from_slice(&text).map_err(|e| e.to_string()),
                false => Err("the line is cut off".into()),
            };
            let event = event.map_err(|e| {
                Error::new(format!("{}: line {number} is damaged: {e}; restore the file", self.path.display()))
            })?;
            if let Event::Eval(eval) = &event {
                self.evals.push((eval.at, eval.loss));
            }
            last = event.at();
        }
        Ok(last)
    }

    /// Returns the open files, creating them on the first call.
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

    /// Appends an event. All events but steps are flushed at once.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&mut self, event: &Event) -> Result<()> {
        if let Event::Eval(eval) = event {
            self.evals.push((eval.at, eval.loss));
        }
        let (out, board) = self.open()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        match event {
            Event::Step(Step { at, lr, loss, grad_norm }) => {
                let values = [("loss/train", *loss), ("lr", *lr), ("grad_norm", *grad_norm)];
                board.scalars(at.step, now, &values)?;
            }
            Event::Eval(Eval { at, loss, measures, .. }) => {
                let values = [
                    ("loss/held_out", *loss),
                    ("progress/level", at.level as f64),
                    ("progress/flops", at.flops as f64),
                    ("progress/seconds", at.seconds),
                ];
                board.scalars(at.step, now, &values)?;
                for (name, value) in measures.iter().flat_map(Measured::named) {
                    board.scalars(at.step, now, &[(&format!("held_out/{name}"), value)])?;
                }
            }
            _ => {}
        }
        let line = serde_json::to_writer(&mut *out, event).map_err(std::io::Error::from);
        let written = line.and_then(|()| out.write_all(b"\n"));
        written.map_err(|e| Error::io("write", self.path.as_path(), e))?;
        if !matches!(event, Event::Step(_)) {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes buffered events to the files.
    ///
    /// # Errors
    /// Those of [`Metrics::write`].
    pub fn flush(&mut self) -> Result<()> {
        let Some((out, board)) = &mut self.out else { return Ok(()) };
        out.flush().map_err(|e| Error::io("write", &self.path, e))?;
        board.flush()
    }

    /// Flushes all events and syncs `metrics.jsonl` to disk. Returns the lengths of `metrics.jsonl` and of the
    /// TensorBoard file.
    ///
    /// # Errors
    /// Those of [`Metrics::write`].
    pub fn sync(&mut self) -> Result<(u64, u64)> {
        self.flush()?;
        let Some((out, board)) = &self.out else { return Ok((0, 0)) };
        let file = out.get_ref();
        let length = file.sync_data().and_then(|()| file.metadata()).map(|m| m.len());
        Ok((length.map_err(|e| Error::io("write", &self.path, e))?, board.bytes_written()))
    }
}

/// Creates an empty TensorBoard file. A folder that exists is removed: it is from an attempt that left no checkpoint.
fn anew(dir: &Path) -> Result<TensorBoard> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(|e| Error::io("remove", dir, e))?;
    }
    TensorBoard::create(dir)
}
