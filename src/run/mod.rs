//! A run: the V-cycle through its stages, and its scratch twin, in one folder; new, or gone on with.

pub mod folder;

use crate::config::Config;
use crate::device::Device;
use crate::error::{At, Error, Result};
use crate::eval::metrics::Measures;
use crate::families::build;
use crate::families::dataset::Data;
use crate::files::shell_quote;
use crate::report::html;
use crate::report::savings::Savings;
use crate::runlog::Metrics;
use crate::runlog::progress::Progress;
use crate::signals;
use crate::train::checkpoint;
use crate::train::memory_estimate::MemoryEstimate;
use crate::train::settings;
use crate::train::settings::{Branch, Settings};
use crate::train::trainer::{Context, Ended, Trainer, points};
use folder::{About, RunFolder};
use std::path::{Path, PathBuf};

/// What a run left.
#[derive(Debug)]
pub enum Outcome {
    /// Models are in `dir/vcycle/model` and, with a twin, `dir/scratch/model`.
    Finished {
        dir: PathBuf,
        /// Held-out loss of the V-cycle's.
        loss: f64,
        /// Of images and labelled texts, if this process has evaluated it.
        measures: Option<Measures>,
        /// Against the scratch twin, when there was one.
        savings: Option<Savings>,
    },
    /// Told to stop, after this step of a side. `resume` goes on.
    Stopped { dir: PathBuf, step: u64 },
}

impl Outcome {
    /// The run's folder.
    pub fn dir(&self) -> &Path {
        match self {
            Outcome::Finished { dir, .. } | Outcome::Stopped { dir, .. } => dir,
        }
    }
}

/// What a run needs besides its configuration and folder.
pub struct Tools<'a> {
    pub device: &'a mut dyn Device,
    /// Where prepared data is kept.
    pub cache: &'a Path,
    pub progress: &'a mut Progress,
    /// Asked after every step: whether to stop.
    pub stop: &'a dyn Fn() -> bool,
}

/// Trains as configured: prepares the data, writes `out/vcycle` and, with a twin, `out/scratch`.
///
/// # Errors
/// Before anything of `out` is written: sizes, schemes and data that do not fit, or `out` existing. Later: divergence,
/// memory, disk.
pub fn train(config: &Config, about: &About, out: &Path, tools: Tools<'_>) -> Result<Outcome> {
    // With any vocabulary: a wrong size is told before the data is prepared.
    build::build(config, 1)?;
    RunFolder::refuse_existing(out)?;
    let data = open_data(config, tools.cache, tools.progress)?;
    build::build(config, data.facts())?;
    let settings = Settings::of(config, &data)?;
    let folder = RunFolder::create(out, config, about)?;
    let ended = both(config, &data, &settings, &folder, false, tools);
    drop(folder);
    // A run that had no memory to begin with leaves nothing behind.
    if ended.is_err() && !out.join("vcycle").exists() {
        let _ = std::fs::remove_dir_all(out);
    }
    ended
}

/// Goes on with the run in `dir`, from the newest usable checkpoint of the side that is not finished.
///
/// # Errors
/// As [`train`]; a folder that holds no run or is in use; data that is not what the run was started with.
pub fn resume(dir: &Path, tools: Tools<'_>) -> Result<Outcome> {
    let (folder, config, about) = RunFolder::open(dir)?;
    settings::check_run(dir, &config)?;
    let data = open_data(&config, tools.cache, tools.progress).map_err(|e| match about {
        Some(about) if about.folder != std::env::current_dir().unwrap_or_default() => {
            Error::new(format!("{e}\n(the run was started in {}; paths begin there)", about.folder.display()))
        }
        _ => e,
    })?;
    build::build(&config, data.facts()).at(folder.dir.join("config.toml").display())?;
    let settings = Settings::of(&config, &data)?;
    both(&config, &data, &settings, &folder, true, tools)
}

/// What a run would take of the device's memory. Prepares the data, whose vocabulary it needs, and writes nothing else.
///
/// # Errors
/// As [`train`], before anything is written.
pub fn budget(config: &Config, tools: &mut Tools<'_>) -> Result<MemoryEstimate> {
    build::build(config, 1)?;
    let data = open_data(config, tools.cache, tools.progress)?;
    MemoryEstimate::new(config, &build::build(config, data.facts())?, tools.device)
}

fn open_data(config: &Config, cache: &Path, progress: &mut Progress) -> Result<Data> {
    Data::open(config, cache, &mut |text| progress.note(text))
}

/// The V-cycle and its twin, each unless it is finished.
fn both(
    config: &Config,
    data: &Data,
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
    let (mut sides, mut measures) = (Vec::new(), None);
    for (half, stage) in
        [(Branch::VCycle, None)].into_iter().chain(config.scratch.iter().map(|stage| (Branch::Scratch, Some(stage))))
    {
        let dir = dir.join(half.folder());
        if Trainer::is_finished(&dir) {
            context.progress.note(&format!("{}: finished before", dir.display()));
            sides.push(points(&Metrics::finished(&dir)?));
            continue;
        }
        let levels = build::build(config, facts)?;
        let mut side = match stage {
            None => Trainer::v_cycle(&mut context, &dir, levels)?,
            Some(stage) => Trainer::scratch(&mut context, &dir, levels, stage)?,
        };
        let ended = side.run(resume).map_err(|e| how_to_go_on(e, &folder.dir, &dir))?;
        match ended {
            Ended::Finished(_) => {
                if stage.is_none() {
                    measures = side.measures;
                }
                sides.push(side.points());
            }
            Ended::Stopped(step) => return Ok(Outcome::Stopped { dir: folder.dir.clone(), step }),
        }
    }
    // The run is finished, whatever becomes of its page.
    if let Err(error) = html::write(dir) {
        let run = shell_quote(dir);
        context.progress.note(&format!("no report: {error}; then `vcycle report {run}` writes it"));
    }
    let loss = sides[0].last().map_or(f64::NAN, |point| point.loss);
    let savings = sides.get(1).and_then(|scratch| Savings::of(&sides[0], scratch));
    Ok(Outcome::Finished { dir: dir.clone(), loss, measures, savings })
}

/// What of the run there is, and what to do next. Without a checkpoint `--resume` begins at the beginning.
fn how_to_go_on(error: Error, run: &Path, side: &Path) -> Error {
    if !side.exists() {
        return error;
    }
    let command = format!("`vcycle train --resume {}`", shell_quote(run));
    Error::new(match checkpoint::newest_state(side) {
        Ok(Some((dir, state))) => format!(
            "{error}\n{} holds what was done until step {}; mend the cause and go on with {command}",
            dir.display(),
            state.at.step
        ),
        Ok(None) => {
            let (run, side) = (run.display(), side.display());
            format!(
                "{error}\nno checkpoint was written yet; mend the cause, then {command} begins {side} again, or remove {run} and \
                 start a new run"
            )
        }
        Err(other) => format!(
            "{error}\nwhether there is a checkpoint cannot be seen: {other}\nmend the cause; then {command} goes on from the \
             newest, and where there is none it begins again"
        ),
    })
}
