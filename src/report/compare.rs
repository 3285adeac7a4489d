//! Compares any number of runs with any number of baselines: what each run needed to reach the baseline's best loss.

use super::configs::differences;
use super::measures::{Reached, reached};
use super::run::{BranchLog, gather, sides};
use super::savings::{self, Point};
use super::text::{engineering, in_seconds, percent};
use crate::bail;
use crate::error::{At, Result};
use crate::runlog::Eval;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};

/// An evaluation at level 1, with the steps, FLOPs and seconds that the whole run had used by then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// Completed steps of all levels.
    pub step: u64,
    /// FLOPs of all levels, the optimizer and the multi-level operators.
    pub flops: u64,
    /// Seconds of training, without evaluation.
    pub seconds: f64,
    /// Mean held-out loss.
    pub loss: f64,
}

impl Mark {
    fn of(eval: &Eval) -> Self {
        Mark { step: eval.at.step, flops: eval.at.flops, seconds: eval.at.seconds, loss: eval.loss }
    }

    fn point(&self) -> Point {
        Point { flops: self.flops, seconds: self.seconds, loss: self.loss }
    }
}

/// The results of one branch.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// Name in tables, for instance `gpt-sotu/vcycle`.
    pub name: String,
    /// Path of the metrics file.
    pub metrics: String,
    /// The evaluation at level 1 with the lowest loss; the first one of equal losses.
    pub best: Mark,
    /// The last evaluation at level 1 with a finite loss.
    #[serde(rename = "final")]
    pub last: Mark,
    /// Metrics besides the loss, of images and labelled texts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<Reached>,
    /// Steps of the whole branch. Like FLOPs and seconds, they include those after its last evaluation at level 1.
    pub steps: u64,
    /// FLOPs of the whole branch.
    pub flops: u64,
    /// Seconds of training of the whole branch, without evaluation.
    pub seconds: f64,
}

/// The comparison of one branch with one baseline.
#[derive(Clone, Debug, Serialize)]
pub struct Against {
    /// [`Standing::name`] of the run.
    pub run: String,
    /// [`Standing::name`] of the baseline.
    pub baseline: String,
    /// The baseline's best loss.
    pub target: f64,
    /// The first evaluation of the run whose loss is no higher; none if it never gets there.
    pub reached: Option<Mark>,
    /// Fraction saved of the FLOPs that the baseline had used at its best loss; negative if the run took more, none if
    /// it never gets there.
    pub flops_saved: Option<f64>,
    /// Fraction of seconds saved, defined like `flops_saved`.
    pub seconds_saved: Option<f64>,
    /// The run's best loss minus `target`.
    pub best_above: f64,
    /// The run's final loss minus `target`.
    pub final_above: f64,
}

/// The comparison of all branches. `vcycle compare --json` writes it as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Version of the JSON format: 1.
    pub format: u32,
    /// The results of every branch, including the baselines.
    pub runs: Vec<Standing>,
    /// [`Standing::name`] of every baseline.
    pub baselines: Vec<String>,
    /// Sorted by baseline, then by run. A baseline whose loss was best before training has no pairs.
    pub pairs: Vec<Against>,
    /// Notes on damaged files, and on the keys in which the configurations differ.
    pub notes: Vec<String>,
}

/// Reads the branches of `paths` and returns them with the indices of the baselines: those `wanted` by name or path,
/// else all `scratch` branches, else the first branch. A baseline whose path is not in `paths` is added to the runs.
/// The path of a run folder means its `scratch` branch.
///
/// # Errors
/// As for [`gather`], and if a baseline is neither the name of a run nor a path.
pub fn choose(paths: &[PathBuf], wanted: &[String]) -> Result<(Vec<BranchLog>, Vec<usize>)> {
    let mut all = gather(paths)?;
    if all.is_empty() {
        bail!("nothing to compare; give the folder of a run");
    }
    if wanted.is_empty() {
        let scratch: Vec<usize> = (0..all.len()).filter(|&i| all[i].is_scratch()).collect();
        return Ok((all, if scratch.is_empty() { vec![0] } else { scratch }));
    }
    let mut files = Vec::new();
    for text in wanted {
        files.push(baseline(text, &all).at(format_args!("--baseline {text}"))?);
    }
    // Compare files, not names: a name becomes longer once another run has the same one.
    let position = |all: &[BranchLog], file: &PathBuf| all.iter().position(|side| same(&side.path, file));
    if files.iter().any(|file| position(&all, file).is_none()) {
        all = gather(&[paths, &files].concat())?;
    }
    let mut chosen: Vec<usize> = Vec::new();
    for at in files.iter().filter_map(|file| position(&all, file)) {
        if !chosen.contains(&at) {
            chosen.push(at);
        }
    }
    Ok((all, chosen))
}

/// Returns the metrics file of a baseline given by name or path.
fn baseline(text: &str, all: &[BranchLog]) -> Result<PathBuf> {
    if let Some(side) = all.iter().find(|side| side.name == text) {
        return Ok(side.path.clone());
    }
    if !Path::new(text).exists() {
        let names: Vec<&str> = all.iter().map(|side| side.name.as_str()).collect();
        bail!("neither a path nor the name of a run; the runs are {}", names.join(", "));
    }
    let mut found = sides(Path::new(text))?;
    let at = found.iter().position(BranchLog::is_scratch).unwrap_or(0);
    Ok(found.swap_remove(at).path)
}

fn same(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

impl Comparison {
    /// Compares every branch with the branches whose indices are in `baselines`.
    ///
    /// # Errors
    /// If a branch was never evaluated at level 1.
    pub fn of(sides: &[BranchLog], baselines: &[usize]) -> Result<Self> {
        let mut runs = Vec::with_capacity(sides.len());
        for side in sides {
            runs.push(Standing::of(side)?);
        }
        let mut pairs = Vec::new();
        for &base in baselines.iter().filter(|&&base| runs[base].best.flops > 0) {
            let others = (0..sides.len()).filter(|&run| run != base);
            pairs.extend(others.map(|run| Against::of(&sides[run], &runs[run], &runs[base])));
        }
        let baselines = baselines.iter().map(|&base| runs[base].name.clone()).collect();
        let notes = sides.iter().filter_map(|side| side.note.clone()).chain(differences(sides)).collect();
        Ok(Comparison { format: 1, runs, baselines, pairs, notes })
    }
}

impl Standing {
    fn of(side: &BranchLog) -> Result<Self> {
        let evals: Vec<&Eval> = side.of_target().collect();
        let (Some(best), Some(last)) = (savings::best(&side.points()), evals.last()) else {
            bail!(
                "{} holds no evaluation of level 1, so there is nothing to compare; wait for its first one, or leave \
                 the run out",
                side.path.display()
            );
        };
        Ok(Standing {
            name: side.name.clone(),
            metrics: side.path.display().to_string(),
            best: Mark::of(evals[best]),
            last: Mark::of(last),
            measures: reached(side),
            steps: side.end.step,
            flops: side.end.flops,
            seconds: side.end.seconds,
        })
    }
}

impl Against {
    fn of(side: &BranchLog, run: &Standing, base: &Standing) -> Self {
        let target = base.best.loss;
        let reached = side.of_target().find(|eval| eval.loss <= target).map(Mark::of);
        let saved = reached.map(|mark| savings::saved(&mark.point(), &base.best.point()));
        Against {
            run: run.name.clone(),
            baseline: base.name.clone(),
            target,
            reached,
            flops_saved: saved.map(|(flops, _)| flops),
            seconds_saved: saved.map(|(_, seconds)| seconds),
            best_above: run.best.loss - target,
            final_above: run.last.loss - target,
        }
    }

    /// Returns the cell for a run that does not reach the target: `never reaches it: ends 0.0123 above`.
    pub fn never(&self) -> String {
        let best = match self.best_above < self.final_above {
            true => format!(", {:.4} above at its best", self.best_above),
            false => String::new(),
        };
        format!("never reaches it: ends {:.4} above{best}", self.final_above)
    }
}

/// A table row: cells, or a name followed by a sentence.
enum Row {
    Cells(Vec<String>),
    Sentence(String, String),
}

/// Writes a table with its header: the first column left-aligned, all others right-aligned.
fn table(f: &mut fmt::Formatter<'_>, header: &[&str], rows: &[Row]) -> fmt::Result {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        match row {
            Row::Cells(cells) => {
                widths.iter_mut().zip(cells).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
            }
            Row::Sentence(name, _) => widths[0] = widths[0].max(name.chars().count()),
        }
    }
    let mut line = |cells: &[&str]| {
        let name = cells.first().copied().unwrap_or_default();
        let rest = cells.iter().zip(&widths).skip(1).map(|(cell, width)| format!("  {cell:>width$}"));
        writeln!(f, "{}", format!("{name:<0$}{1}", widths[0], rest.collect::<String>()).trim_end())
    };
    line(header)?;
    for row in rows {
        match row {
            Row::Cells(cells) => line(&cells.iter().map(String::as_str).collect::<Vec<_>>())?,
            Row::Sentence(name, text) => line(&[name, text])?,
        }
    }
    Ok(())
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.runs.iter().map(|run| {
            let loss = |loss: f64| format!("{loss:.4}");
            let (best, last) = (&run.best, &run.last);
            Row::Cells(vec![
                run.name.clone(),
                loss(best.loss),
                best.step.to_string(),
                engineering(best.flops as f64),
                in_seconds(best.seconds),
                loss(last.loss),
                run.steps.to_string(),
                engineering(run.flops as f64),
                in_seconds(run.seconds),
            ])
        });
        let header = ["run", "best loss", "at step", "FLOPs", "seconds", "final loss", "steps", "FLOPs", "seconds"];
        table(f, &header, &rows.collect::<Vec<_>>())?;
        self.measures(f)?;
        for base in &self.baselines {
            self.against(f, base)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "\nnote: {note}"))
    }
}

impl Comparison {
    /// Writes the table of metrics besides the loss, if there are any.
    fn measures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_run = |run: &Standing| {
            let row = |reached: &Reached| Row::Cells([vec![run.name.clone()], reached.cells().to_vec()].concat());
            run.measures.iter().map(row).collect::<Vec<_>>()
        };
        let rows: Vec<Row> = self.runs.iter().flat_map(of_run).collect();
        if rows.is_empty() {
            return Ok(());
        }
        writeln!(f)?;
        table(f, &["run", "metric", "best", "at step", "final"], &rows)
    }

    /// Writes the table of the comparison with one baseline.
    fn against(&self, f: &mut fmt::Formatter<'_>, base: &str) -> fmt::Result {
        let pairs: Vec<&Against> = self.pairs.iter().filter(|pair| pair.baseline == base).collect();
        let Some(best) = self.runs.iter().find(|run| run.name == base).map(|run| run.best) else { return Ok(()) };
        if best.flops == 0 {
            return writeln!(f, "\n{base} never improved on its initial weights, so nothing is compared with it");
        }
        let (flops, seconds) = (engineering(best.flops as f64), in_seconds(best.seconds));
        writeln!(f, "\nreaching the best loss of {base}: {:.4}, after {flops} FLOPs and {seconds} s", best.loss)?;
        let rows = pairs.iter().map(|pair| match (pair.reached, pair.flops_saved, pair.seconds_saved) {
            (Some(mark), Some(flops), Some(seconds)) => Row::Cells(vec![
                pair.run.clone(),
                mark.step.to_string(),
                engineering(mark.flops as f64),
                percent(flops),
                in_seconds(mark.seconds),
                percent(seconds),
            ]),
            _ => Row::Sentence(pair.run.clone(), pair.never()),
        });
        table(f, &["run", "at step", "FLOPs", "saved", "seconds", "saved"], &rows.collect::<Vec<_>>())
    }
}
