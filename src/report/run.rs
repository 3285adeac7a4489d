//! Reads a run folder: `vcycle/` and `scratch/`, the two branches of the run, each with a `metrics.jsonl`.

use super::savings::Point;
use super::text::printable;
use crate::bail;
use crate::error::{Error, Result};
use crate::files;
use crate::runlog::{Eval, Event, Operator, Position, Stage, Step, Summary};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// The metrics file of a branch.
const METRICS: &str = "metrics.jsonl";
/// The branches of a run.
const SIDES: [&str; 2] = ["vcycle", "scratch"];
/// Seconds at or above this (30,000 years) are rejected.
const MOST_SECONDS: f64 = 1e12;

/// Makes a name printable in one line of a table or legend.
fn one_line(name: &str) -> String {
    printable(name).replace(['\n', '\t'], " ")
}

/// The log of one branch of a run, or any file of metrics.
#[derive(Clone, Debug, Default)]
pub struct BranchLog {
    /// Name in tables and legends, for instance `gpt-sotu/vcycle`.
    pub name: String,
    /// The file it was read from.
    pub path: PathBuf,
    /// Training steps, in the order of the file.
    pub steps: Vec<Step>,
    /// Evaluations at all levels, in the order of the file.
    pub evals: Vec<Eval>,
    /// Multi-level operators, in the order of the file.
    pub operators: Vec<Operator>,
    /// Starts of stages, in the order of the file.
    pub stages: Vec<Stage>,
    /// The summary; none if the branch has not finished.
    pub summary: Option<Summary>,
    /// The furthest position of any line.
    pub end: Position,
    /// A note on a damaged last line.
    pub note: Option<String>,
}

impl BranchLog {
    /// Reads a `metrics.jsonl`. A damaged last line, as a killed run leaves it, becomes a note.
    ///
    /// # Errors
    /// If the file cannot be read, a line before the last is not an event (the message has its number), or there is no
    /// event.
    pub fn read(path: &Path, name: &str) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        let mut lines = BufReader::new(file);
        let mut side = BranchLog { name: one_line(name), path: path.to_path_buf(), ..BranchLog::default() };
        let mut damaged: Option<(usize, String)> = None;
        let mut text = Vec::new();
        let mut known = false;
        for number in 1.. {
            text.clear();
            if lines.read_until(b'\n', &mut text).map_err(|e| Error::io("read", path, e))? == 0 {
                break;
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            if let Some((number, why)) = damaged {
                bail!("{}, line {number}: {why}; restore the line, or remove it", path.display());
            }
            match serde_json::from_slice(&text).map_err(|e| e.to_string()).and_then(|line| side.take(line)) {
                Ok(()) => known = true,
                Err(why) => damaged = Some((number, why)),
            }
        }
        if !known {
            bail!(
                "{} holds no line of metrics; give a run folder, one of its branches, or a metrics.jsonl",
                path.display()
            );
        }
        side.note = damaged.map(|(number, _)| {
            format!("{}: line {number}, the last, is cut off, as after a killed run; ignored", path.display())
        });
        Ok(side)
    }

    /// Adds an event, or returns what is wrong with it.
    fn take(&mut self, event: Event) -> Result<(), String> {
        let Some(at) = event.at() else { return Ok(()) };
        if !(0.0..MOST_SECONDS).contains(&at.seconds) {
            return Err(format!("{} seconds are out of range", at.seconds));
        }
        match event {
            Event::Step(step) => self.steps.push(step),
            Event::Eval(eval) => self.evals.push(eval),
            Event::Operator(operator) => self.operators.push(operator),
            Event::Stage(stage) => self.stages.push(stage),
            Event::Summary(summary) => self.summary = Some(summary),
            // Reports do not show them.
            Event::Search(_) | Event::Settings(_) | Event::Unknown => return Ok(()),
        }
        if (at.flops, at.step) >= (self.end.flops, self.end.step) {
            self.end = at;
        }
        Ok(())
    }

    /// Returns the evaluations that count in a comparison: those at level 1 with a finite loss.
    pub fn of_target(&self) -> impl Iterator<Item = &Eval> {
        self.evals.iter().filter(|eval| eval.at.level == 1 && eval.loss.is_finite())
    }

    /// Returns the evaluations of [`BranchLog::of_target`] as points of a curve.
    pub fn points(&self) -> Vec<Point> {
        let point = |e: &Eval| Point { flops: e.at.flops, seconds: e.at.seconds, loss: e.loss };
        self.of_target().map(point).collect()
    }

    /// Returns whether the name ends in `scratch`, as in `gpt-sotu/scratch` and `seed1-scratch`.
    pub fn is_scratch(&self) -> bool {
        self.name.rsplit(['/', '-', '_']).next() == Some(SIDES[1])
    }
}

/// Reads the branches at a path: both for a run folder, one for the folder of a branch or a file.
///
/// # Errors
/// As for [`BranchLog::read`], and if a folder has no metrics.
pub fn sides(path: &Path) -> Result<Vec<BranchLog>> {
    let kind = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    let own = folder_name(path);
    if !kind.is_dir() {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = if path.ends_with(METRICS) { side_name(parent) } else { stem };
        return Ok(vec![BranchLog::read(path, &name)?]);
    }
    if path.join(METRICS).is_file() {
        return Ok(vec![BranchLog::read(&path.join(METRICS), &side_name(path))?]);
    }
    let files = SIDES.map(|side| (side, path.join(side).join(METRICS)));
    let found: Vec<_> = files.iter().filter(|(_, file)| file.is_file()).collect();
    if found.is_empty() {
        bail!(
            "{} holds no metrics: neither {METRICS}, nor vcycle/{METRICS}, nor scratch/{METRICS}; give the folder of a run",
            path.display()
        );
    }
    found.into_iter().map(|(side, file)| BranchLog::read(file, &format!("{own}/{side}"))).collect()
}

/// Returns `gpt-sotu/vcycle` for the folder of a branch, the folder's own name for any other.
fn side_name(dir: &Path) -> String {
    let own = folder_name(dir);
    match SIDES.contains(&own.as_str()) {
        true => format!("{}/{own}", folder_name(&dir.join(".."))),
        false => own,
    }
}

/// Returns the last part of a path, which may be `.` or `a/..`.
fn folder_name(path: &Path) -> String {
    let whole = path.canonicalize();
    let path = whole.as_deref().unwrap_or(path);
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Reads the branches at several paths, each file once. Branches with the same name are renamed to their paths.
///
/// # Errors
/// As for [`sides`].
pub fn gather(paths: &[PathBuf]) -> Result<Vec<BranchLog>> {
    let mut all: Vec<BranchLog> = Vec::new();
    let mut seen = HashSet::new();
    for path in paths {
        let new = sides(path)?;
        all.extend(new.into_iter().filter(|side| seen.insert(side.path.canonicalize().ok())));
    }
    let names: Vec<String> = all.iter().map(|side| side.name.clone()).collect();
    for side in &mut all {
        if names.iter().filter(|name| **name == side.name).count() > 1 {
            let path = if side.path.ends_with(METRICS) { side.path.parent() } else { Some(side.path.as_path()) };
            side.name = one_line(&path.unwrap_or(&side.path).with_extension("").to_string_lossy());
        }
    }
    Ok(all)
}

/// A whole run.
pub struct Run {
    /// The run folder, as it was given.
    pub dir: PathBuf,
    /// Name of the run folder, made printable in one line.
    pub name: String,
    /// The V-cycle; none if the folder has no metrics of it.
    pub vcycle: Option<BranchLog>,
    /// The baseline, level 1 trained from scratch; none if the folder has no metrics of it.
    pub scratch: Option<BranchLog>,
    /// The resolved configuration as TOML; none in runs of earlier versions.
    pub config: Option<String>,
    /// The content of `run.json`; empty for runs of earlier versions.
    pub about: serde_json::Map<String, serde_json::Value>,
}

impl Run {
    /// Reads a run folder.
    ///
    /// # Errors
    /// As for [`sides`], and if `run.json` or `config.toml` exists but cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        if !dir.is_dir() {
            bail!("{} is not a folder; give the folder of a run, which holds vcycle/{METRICS}", dir.display());
        }
        if dir.join(METRICS).is_file() {
            bail!("{} is one branch of a run; give the folder above it", dir.display());
        }
        let (mut vcycle, mut scratch) = (None, None);
        for side in sides(dir)? {
            if side.is_scratch() { scratch = Some(side) } else { vcycle = Some(side) }
        }
        let optional = |name: &str| -> Result<Option<String>> {
            let path = dir.join(name);
            let missing = std::fs::symlink_metadata(&path).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
            if missing {
                return Ok(None);
            }
            Ok(Some(String::from_utf8_lossy(&files::read(&path, 16 << 20)?).into_owned()))
        };
        let about = match optional("run.json")? {
            Some(text) => serde_json::from_str(&text).map_err(|e| {
                Error::new(format!("{}: {e}; restore it, or remove it", dir.join("run.json").display()))
            })?,
            None => serde_json::Map::new(),
        };
        let name = one_line(&folder_name(dir));
        Ok(Run { dir: dir.to_path_buf(), name, vcycle, scratch, config: optional("config.toml")?, about })
    }

    /// Returns the branches of the run, the V-cycle first.
    pub fn sides(&self) -> Vec<&BranchLog> {
        self.vcycle.iter().chain(&self.scratch).collect()
    }
}
