//! A run from start to end: opens the data, trains the V-cycle and the optional baseline in one folder, and writes the
//! report.
//!
//! [`train`] starts a new run and [`resume`] continues a stopped one. [`folder`] creates, locks and opens the run
//! folder.

pub mod folder;

use crate::config::Config;
use crate::device::Device;
use crate::error::{At, Error, Result};
use crate::eval::metrics::TaskMetrics;
use crate::families::{self, DataFacts, Dataset};
use crate::files::shell_quote;
use crate::report::html;
use crate::report::savings::Savings;
use crate::runlog::progress::Progress;
use crate::runlog::{Branch, Metrics};
use crate::signals;
use crate::train::checkpoint;
use crate::train::memory_estimate::MemoryEstimate;
use crate::train::settings;
use crate::train::settings::Settings;
use crate::train::trainer::{Context, Ended, Trainer, points};
use folder::{RunFolder, RunInfo};
use std::path::{Path, PathBuf};

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// The run is finished. The models are in `dir/vcycle/model` and, with a baseline, `dir/scratch/model`.
    Finished {
        /// The run folder.
        dir: PathBuf,
        /// Last held-out loss of the V-cycle at level 1.
        loss: f64,
        /// Metrics of the V-cycle's model, for images and labelled texts. `None` if this process did not evaluate it.
        measures: Option<TaskMetrics>,
        /// Savings compared with the baseline, if there is one.
        savings: Option<Savings>,
    },
    /// Stopped on request after this step of a branch. [`resume`] continues.
    Stopped {
        /// The run folder.
        dir: PathBuf,
        /// The last completed step.
        step: u64,
    },
}

impl Outcome {
    /// Returns the run folder.
    pub fn dir(&self) -> &Path {
        match self {
            Outcome::Finished { dir, .. } | Outcome::Stopped { dir, .. } => dir,
        }
    }
}

/// What a run needs besides its configuration and folder.
pub struct Tools<'a> {
    /// The device to train on.
    pub device: &'a mut dyn Device,
    /// The cache folder of prepared data.
    pub cache: &'a Path,
    /// Where notes and progress are printed.
    pub progress: &'a mut Progress,
    /// Called after every step; returns whether to stop.
    pub stop: &'a dyn Fn() -> bool,
}

/// Starts a new run: prepares the data, then trains `out/vcycle` and, with a baseline, `out/scratch`.
///
/// # Errors
/// Before `out` is created: invalid sizes or schemes, data that does not fit the model, or `out` exists. Later:
/// training diverges, memory runs out, or a file cannot be written.
pub fn train(config: &Config, about: &RunInfo, out: &Path, tools: Tools<'_>) -> Result<Outcome> {
    // Check the sizes first, so that errors appear before the data is prepared.
    families::build(config, DataFacts::default())?;
    RunFolder::refuse_existing(out)?;
    let data = open_data(config, tools.cache, tools.progress)?;
    families::build(config, data.facts())?;
    let settings = Settings::of(config, &*data)?;
    let folder = RunFolder::create(out, config, about)?;
    let ended = both(config, &*data, &settings, &folder, false, tools);
    drop(folder);
    // A run that failed before it logged anything, for lack of memory say, leaves nothing behind.
    if ended.is_err() && !out.join("vcycle").exists() {
        let _ = std::fs::remove_dir_all(out);
    }
    ended
}

/// Resumes the run in `dir` from the newest usable checkpoint of the branch that is not finished.
///
/// # Errors
/// Those of [`train`]; `dir` is not a run folder or is in use; the data is not what the run was started with.
pub fn resume(dir: &Path, tools: Tools<'_>) -> Result<Outcome> {
    let (folder, config, about) = RunFolder::open(dir)?;
    settings::check_run(dir, &config)?;
    let data = open_data(&config, tools.cache, tools.progress).map_err(|e| match about {
        Some(about) if about.folder != std::env::current_dir().unwrap_or_default() => {
            Error::new(format!("{e}\n(the run was started in {}; relative paths start there)", about.folder.display()))
        }
        _ => e,
    })?;
    families::build(&config, data.facts()).at(folder.dir.join("config.toml").display())?;
    let settings = Settings::of(&config, &*data)?;
    both(&config, &*data, &settings, &folder, true, tools)
}

/// Estimates the device memory that a run needs. Prepares the data, whose vocabulary size it needs, and writes nothing
/// else.
///
/// # Errors
/// Those of [`train`] before `out` is created.
pub fn memory_estimate(config: &Config, tools: &mut Tools<'_>) -> Result<MemoryEstimate> {
    families::build(config, DataFacts::default())?;
    let data = open_data(config, tools.cache, tools.progress)?;
    MemoryEstimate::new(config, &families::build(config, data.facts())?, tools.device)
}

fn open_data(config: &Config, cache: &Path, progress: &mut Progress) -> Result<Box<dyn Dataset>> {
    families::open(config, cache, &mut |text| progress.note(text))
}

/// Trains the V-cycle and the baseline, skipping branches that are finished, and writes the report.
fn both(
    config: &Config,
    data: &dyn Dataset,
    settings: &Settings,
    folder: &RunFolder,
    resume: bool,
    tools: Tools<'_>,
) -> Result<Outcome> {
    let dir = &folder.dir;
    let Tools { device, progress, stop, .. } = tools;
    let facts = data.facts();
    let mut context = Context { config, device, data, settings, progress, stop };
    signals::training(dir);
    let (mut curves, mut measures) = (Vec::new(), None);
    for (branch, stage) in
        [(Branch::VCycle, None)].into_iter().chain(config.scratch.iter().map(|stage| (Branch::Scratch, Some(stage))))
    {
        let dir = dir.join(branch.folder());
        if Trainer::is_finished(&dir) {
            context.progress.note(&format!("{}: already finished", dir.display()));
            curves.push(points(&Metrics::finished(&dir)?));
            continue;
        }
        let levels = families::build(config, facts)?;
        let mut trainer = match stage {
            None => Trainer::v_cycle(&mut context, &dir, levels)?,
            Some(stage) => Trainer::scratch(&mut context, &dir, levels, stage)?,
        };
        let ended = trainer.run(resume).map_err(|e| with_remedy(e, &folder.dir, &dir))?;
        match ended {
            Ended::Finished(_) => {
                if stage.is_none() {
                    measures = trainer.measures();
                }
                curves.push(trainer.points());
            }
            Ended::Stopped(step) => return Ok(Outcome::Stopped { dir: folder.dir.clone(), step }),
        }
    }
    // A report that cannot be written does not make the run fail.
    if let Err(error) = html::write(dir) {
        let run = shell_quote(dir);
        context.progress.note(&format!("cannot write the report: {error}; afterwards run `vcycle report {run}`"));
    }
    let loss = curves[0].last().map_or(f64::NAN, |point| point.loss);
    let savings = curves.get(1).and_then(|scratch| Savings::of(&curves[0], scratch));
    Ok(Outcome::Finished { dir: dir.clone(), loss, measures, savings })
}

/// Adds to `error` how far the run got and how to resume it. Without a checkpoint, `--resume` starts from the
/// beginning.
fn with_remedy(error: Error, run: &Path, branch: &Path) -> Error {
    if !branch.exists() {
        return error;
    }
    let command = format!("`vcycle train --resume {}`", shell_quote(run));
    Error::new(match checkpoint::newest_state(branch) {
        Ok(Some((dir, state))) => format!(
            "{error}\n{} has everything up to step {}; fix the cause and resume with {command}",
            dir.display(),
            state.at.step
        ),
        Ok(None) => {
            let (run, branch) = (run.display(), branch.display());
            format!(
                "{error}\nno checkpoint was written yet; fix the cause, then {command} starts {branch} from the \
                 beginning, or remove {run} and start a new run"
            )
        }
        Err(other) => format!(
            "{error}\ncannot look for checkpoints: {other}\nfix the cause; then {command} resumes from the newest \
             checkpoint, or from the beginning if there is none"
        ),
    })
}
