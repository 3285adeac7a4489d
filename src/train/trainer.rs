//! Trains one branch of a run in its folder: the V-cycle or the baseline. Both use the same loop over stages.

use super::clock::Clock;
use super::evaluation::Evaluation;
use super::idle::{IdleLevel, IdleLevels};
use super::settings::Settings;
use super::state::{Options, PendingStep, StepReport, TrainState};
use crate::config::Config;
use crate::config::levels::{OptimizerState, Stage};
use crate::data::loader::prefetch::Prefetch;
use crate::device::Device;
use crate::error::Result;
use crate::eval::metrics::TaskMetrics;
use crate::families::{self, Dataset, Levels};
use crate::model::Model;
use crate::model::store::Store;
use crate::multilevel::methods::Transition;
use crate::report::savings::Point;
use crate::runlog::progress::Progress;
use crate::runlog::{self, Branch, Event, Metrics, Position};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What both branches of a run share.
pub struct Context<'a> {
    /// The configuration of the run.
    pub config: &'a Config,
    /// The device to train on.
    pub device: &'a mut dyn Device,
    /// The data of the run.
    pub data: &'a dyn Dataset,
    /// What checkpoints store about the configuration and the data.
    pub settings: &'a Settings,
    /// Where notes and progress are printed.
    pub progress: &'a mut Progress,
    /// Called after every step; returns whether to stop.
    pub stop: &'a dyn Fn() -> bool,
}

/// How the training of a branch ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ended {
    /// All stages are done; the last held-out loss.
    Finished(f64),
    /// Stopped on request after this step, which is counted over all stages.
    Stopped(u64),
}

/// A stage with its position in the plan.
pub(super) struct PlannedStage {
    /// Level, counted from 0.
    pub level: usize,
    /// How the stage begins.
    pub transition: Transition,
    /// Steps and learning rate, from the configuration.
    pub stage: Stage,
    /// Steps that the level was trained for in earlier stages.
    before: u64,
    /// Title for progress and metrics.
    name: String,
}

/// Trains one branch of a run through its stages.
pub struct Trainer<'a, 'b> {
    pub(super) context: &'a mut Context<'b>,
    /// The branch to train.
    pub(super) branch: Branch,
    /// The folder of the branch.
    pub(super) dir: PathBuf,
    pub(super) metrics: Metrics,
    pub(super) batches: Prefetch,
    pub(super) stages: Vec<PlannedStage>,
    pub(super) levels: IdleLevels,
    /// Position in the run.
    pub(super) at: Position,
    /// Completed steps of the current stage.
    pub(super) stage_step: u64,
    /// A step that was launched but not reported yet: the position after it, and its learning rate.
    pending: Option<(PendingStep, Position, f64)>,
    pub(super) evaluation: Evaluation,
    pub(super) clock: Clock,
}

impl<'a, 'b> Trainer<'a, 'b> {
    /// Whether the branch in the folder `dir` is finished. Its final model is written last.
    pub fn is_finished(dir: &Path) -> bool {
        dir.join("model").exists()
    }

    /// Creates a trainer for the V-cycle through `levels`, in the folder `dir`.
    ///
    /// # Errors
    /// The data cannot be cut into batches as configured; out of memory.
    pub fn v_cycle(context: &'a mut Context<'b>, dir: &Path, levels: Levels) -> Result<Self> {
        let plan = context.config.growth()?.plan(levels.len());
        let count = plan.len();
        let stages = plan.iter().enumerate().map(|(number, visit)| {
            let level = &context.config.levels[visit.level];
            let before = level.before.filter(|_| visit.last);
            let stage = if visit.last { level.train } else { level.before.unwrap_or(level.train) };
            let title = match count {
                1 => "Training".to_string(),
                _ => format!("V-cycle, stage {} of {count}: level {}", number + 1, visit.level + 1),
            };
            let name = title_of(&title, &*levels[visit.level], &stage);
            PlannedStage {
                level: visit.level,
                transition: visit.transition,
                stage,
                before: before.map_or(0, |b| b.steps),
                name,
            }
        });
        let stages = stages.collect();
        Self::new(context, Branch::VCycle, dir, levels, stages)
    }

    /// Creates a trainer for the baseline, which trains level 1 from initial weights, in the folder `dir`.
    ///
    /// # Errors
    /// As for [`Trainer::v_cycle`].
    pub fn scratch(context: &'a mut Context<'b>, dir: &Path, mut levels: Levels, stage: &Stage) -> Result<Self> {
        levels.truncate(1);
        let name = title_of("Scratch: level 1 alone", &*levels[0], stage);
        let stages =
            vec![PlannedStage { level: 0, transition: Transition::Initialise, stage: *stage, before: 0, name }];
        Self::new(context, Branch::Scratch, dir, levels, stages)
    }

    fn new(
        context: &'a mut Context<'b>,
        branch: Branch,
        dir: &Path,
        levels: Levels,
        stages: Vec<PlannedStage>,
    ) -> Result<Self> {
        let train = &context.config.train;
        let source = context.data.source(context.config)?;
        let evaluation = Evaluation::new(Arc::clone(&source), train)?;
        Ok(Trainer {
            branch,
            dir: dir.to_path_buf(),
            metrics: Metrics::new(dir),
            batches: Prefetch::new(source, train.batch, 0, context.config.data.workers())?,
            levels: IdleLevels::new(levels),
            stages,
            at: Position::default(),
            stage_step: 0,
            pending: None,
            evaluation,
            clock: Clock::default(),
            context,
        })
    }

    /// Trains all stages and writes `model/`. With `resume`, starts from the newest usable checkpoint.
    ///
    /// # Errors
    /// Training diverges, memory runs out, or a file cannot be read or written. Existing checkpoints are left intact.
    pub fn run(&mut self, resume: bool) -> Result<Ended> {
        self.clock.start(self.context.device);
        let mut train_state = if resume { self.resume()? } else { None };
        let first = train_state.as_ref().map_or(0, |_| self.at.stage - 1);
        for number in first..self.stages.len() {
            let mut train_state = match train_state.take() {
                Some(train_state) => train_state,
                None => self.begin(number)?,
            };
            if let Some(stopped) = self.stage(number, &mut train_state)? {
                return Ok(stopped);
            }
            if number + 1 == self.stages.len() {
                self.finish(&train_state)?;
            }
            let (model, params, optimizer) = train_state.finish_keeping_optimizer(self.context.device);
            let optimizer = if self.keeps_optimizer() {
                Some(optimizer)
            } else {
                optimizer.free(self.context.device);
                None
            };
            self.levels.put(self.stages[number].level, model, IdleLevel { params, optimizer });
        }
        self.levels.free(self.context.device);
        Ok(Ended::Finished(self.evaluation.loss))
    }

    /// Returns whether any stage takes over optimizer state, so that idle levels keep theirs.
    pub(super) fn keeps_optimizer(&self) -> bool {
        self.stages.iter().any(|planned| planned.stage.optimizer == OptimizerState::Transfer)
    }

    /// Returns the metrics of the last evaluation in this process, for images and labelled texts.
    pub fn measures(&self) -> Option<TaskMetrics> {
        self.evaluation.measures
    }

    /// Returns the evaluations of level 1 as points of its loss curve.
    pub fn points(&self) -> Vec<Point> {
        points(&self.metrics)
    }

    /// Prepares a level for training, with weights `params` or, if `None`, newly allocated ones.
    pub(super) fn train_state(&mut self, level: usize, params: Option<Store>) -> Result<TrainState> {
        let Context { config, device, .. } = &mut *self.context;
        let model = self.levels.take_model(level);
        let params = match params {
            Some(params) => params,
            None => Store::new(model.table().clone(), *device)?,
        };
        let options = Options {
            seed: config.seed.wrapping_add(self.at.stage as u64 - 1),
            recompute: config.train.recompute,
            precision: config.train.precision,
            smoothing: config.train.label_smoothing,
        };
        TrainState::new(*device, model, params, families::shape(config)?, config.optimizer()?, options)
    }

    /// Trains the remaining steps of stage `number`. Returns `Some` if it was stopped on request.
    fn stage(&mut self, number: usize, train_state: &mut TrainState) -> Result<Option<Ended>> {
        let PlannedStage { stage, before, level, ref name, .. } = self.stages[number];
        let last = number + 1 == self.stages.len();
        self.context.progress.begin(name, stage.steps);
        if self.stage_step == 0 {
            let table = train_state.model.table();
            self.metrics.write(&Event::Stage(runlog::Stage {
                at: self.at,
                name: name.clone(),
                steps: Some(stage.steps),
                parameters: Some(table.count() as u64),
                layers: Some(table.layers as u64),
                width: Some((table.heads * table.head_size) as u64),
            }))?;
            self.evaluate(train_state)?;
        }
        let train = &self.context.config.train;
        let (eval_every, save_every) = (train.eval_every, train.checkpoint_every.unwrap_or(train.eval_every));
        let (target, tokens) = (train.target_loss.filter(|_| last && level == 0), self.tokens());
        let mut done = target.is_some_and(|target| self.evaluation.loss <= target) || self.stage_step >= stage.steps;
        while !done {
            let seconds = self.step(train_state, stage.rate(self.stage_step, before))?;
            let step = self.stage_step;
            let evaluated = step.is_multiple_of(eval_every) || step == stage.steps;
            let stop = (self.context.stop)();
            let saved = stop || step.is_multiple_of(save_every);
            if evaluated || saved {
                self.report(train_state)?;
            }
            if evaluated {
                self.evaluate(train_state)?;
            }
            done = step == stage.steps || (evaluated && target.is_some_and(|target| self.evaluation.loss <= target));
            let valid = self.evaluation.loss;
            self.context
                .progress
                .step(step, stage.steps, || format!("held-out {valid:.3}  {:.0} tokens/s", tokens / seconds));
            if saved || done {
                self.save(train_state, evaluated)?;
            }
            if stop {
                self.context.progress.end();
                return Ok(Some(Ended::Stopped(self.at.step)));
            }
        }
        self.context.progress.end();
        let Position { flops, seconds, .. } = self.at;
        let early = if self.stage_step < stage.steps { " (target reached early)" } else { "" };
        let text = format!(
            "  held-out loss {:.4}{early} after {:.3e} FLOPs, {seconds:.1} s",
            self.evaluation.loss, flops as f64
        );
        self.context.progress.note(&text);
        let waited = self.batches.waited().as_secs_f64();
        // Ignore waits below half a second: in a stage of milliseconds any wait exceeds one percent.
        if waited > (0.01 * seconds).max(0.5) {
            let why = self.context.data.waiting();
            self.context.progress.note(&format!("  {waited:.1} s so far were spent waiting for data; {why}"));
        }
        Ok(None)
    }

    /// Returns the tokens of a step; for images, patches and special tokens.
    pub(super) fn tokens(&self) -> f64 {
        let config = self.context.config;
        (config.train.batch * self.context.data.tokens_per_example(config)) as f64
    }

    /// Launches a step and reports the previous one. Returns the seconds that both took.
    fn step(&mut self, train_state: &mut TrainState, lr: f64) -> Result<f64> {
        let begin = Instant::now();
        let fields = self.batches.next(self.at.step)?;
        let pending = train_state.launch_step(self.context.device, fields, lr)?;
        if let Some((before, at, lr)) = self.pending.take() {
            self.write_step(train_state, before, at, lr)?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        self.context.device.timings().mark("step", self.at.step, begin);
        self.at.step += 1;
        self.stage_step += 1;
        let flops = train_state.step_flops();
        self.at.flops += flops.model;
        self.at.hardware_flops += flops.hardware;
        self.at.seconds += seconds;
        self.pending = Some((pending, self.at, lr));
        Ok(seconds)
    }

    /// Waits for the step in flight, if any, and reports it.
    fn report(&mut self, train_state: &mut TrainState) -> Result<()> {
        let Some((pending, at, lr)) = self.pending.take() else { return Ok(()) };
        let begin = Instant::now();
        self.context.device.sync()?;
        self.at.seconds += begin.elapsed().as_secs_f64();
        self.write_step(train_state, pending, Position { seconds: self.at.seconds, ..at }, lr)
    }

    /// Reads the results of a step and logs them.
    fn write_step(&mut self, train_state: &mut TrainState, pending: PendingStep, at: Position, lr: f64) -> Result<()> {
        let StepReport { loss, grad_norm } = train_state.wait_step(self.context.device, pending)?;
        self.metrics.write(&Event::Step(runlog::Step { at, lr, loss, grad_norm }))
    }
}

/// Returns, for instance, `V-cycle, stage 1 of 3: level 1, 4 layers x 128 wide, 940800 parameters, 50 steps`.
fn title_of(title: &str, model: &dyn Model, stage: &Stage) -> String {
    let table = model.table();
    let (layers, width, count) = (table.layers, table.heads * table.head_size, table.count());
    format!("{title}, {layers} layers x {width} wide, {count} parameters, {} steps", stage.steps)
}

/// Returns the evaluations of level 1 as points of its loss curve.
pub fn points(metrics: &Metrics) -> Vec<Point> {
    let of_level = metrics.evals.iter().filter(|(at, _)| at.level == 1);
    of_level.map(|(at, loss)| Point { flops: at.flops, seconds: at.seconds, loss: *loss }).collect()
}
