//! One side of a run, in one folder: the V-cycle, or its scratch twin. The same loop over stages serves both.

use super::plan::{Transition, v_cycle};
use super::settings::{Branch, Settings};
use super::state::{Moments, Options, PendingStep, StepReport, TrainState};
use crate::bail;
use crate::config::Config;
use crate::config::levels::{OptimizerState, Stage};
use crate::data::loader::batch::{Field, Source};
use crate::data::loader::prefetch::Prefetch;
use crate::device::Device;
use crate::device::timing::Total;
use crate::error::Result;
use crate::eval::held_out::Means;
use crate::eval::metrics::{Agreement, Measures};
use crate::families::build::Levels;
use crate::families::dataset::Data;
use crate::memory;
use crate::model::Model;
use crate::model::store::Store;
use crate::report::savings::Point;
use crate::runlog::progress::Progress;
use crate::runlog::{Event, Metrics, OperationTime, Position};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What both sides of a run share.
pub struct Context<'a> {
    pub config: &'a Config,
    pub device: &'a mut dyn Device,
    pub data: &'a Data,
    /// What checkpoints are to say of both.
    pub settings: &'a Settings,
    pub progress: &'a mut Progress,
    /// Asked after every step: whether to stop.
    pub stop: &'a dyn Fn() -> bool,
}

/// How a side ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ended {
    /// With this held-out loss.
    Finished(f64),
    /// By `stop`, after this step of the run.
    Stopped(u64),
}

/// A stage with its place in the plan.
pub(super) struct PlannedStage {
    /// From 0.
    pub level: usize,
    pub enter: Transition,
    pub stage: Stage,
    /// Steps of the level before this stage.
    before: u64,
    name: String,
}

/// A level that waits for its next stage.
pub(super) struct IdleLevel {
    pub params: Store,
    pub moments: Option<Moments>,
}

/// See the module.
pub struct Trainer<'a, 'b> {
    pub(super) context: &'a mut Context<'b>,
    /// Which one.
    pub(super) half: Branch,
    pub(super) dir: PathBuf,
    pub(super) metrics: Metrics,
    pub(super) batches: Prefetch,
    pub(super) legs: Vec<PlannedStage>,
    /// Beside the levels: the models that no stage is using, and the weights that a later stage needs.
    pub(super) models: Vec<Option<Box<dyn Model>>>,
    pub(super) waiting: Vec<Option<IdleLevel>>,
    /// Some stage takes over moments.
    pub(super) keeps_moments: bool,
    pub(super) at: Position,
    pub(super) stage_step: u64,
    /// A step that was started and not yet reported: where it ended, and its learning rate.
    pending: Option<(PendingStep, Position, f64)>,
    pub(super) valid: f64,
    /// Of the last evaluation in this process, of images and labelled texts.
    pub measures: Option<Measures>,
    /// Time by operation before this process, and what the device had counted when this side began.
    pub(super) operations: Vec<OperationTime>,
    pub(super) at_start: Vec<Total>,
    /// Seconds waited for batches before this process.
    pub(super) waited: f64,
    source: Arc<dyn Source>,
    /// An evaluation's batch.
    held_out: Vec<Field>,
}

impl<'a, 'b> Trainer<'a, 'b> {
    /// Which folder of the run, and whether all its stages are over: the final model comes last.
    pub fn is_finished(dir: &Path) -> bool {
        dir.join("model").exists()
    }

    /// The V-cycle.
    pub fn v_cycle(context: &'a mut Context<'b>, dir: &Path, levels: Levels) -> Result<Self> {
        let plan = v_cycle(levels.len());
        let count = plan.len();
        let legs = plan.iter().enumerate().map(|(number, leg)| {
            let level = &context.config.levels[leg.level];
            let before = level.before.filter(|_| leg.last);
            let stage = if leg.last { level.train } else { level.before.unwrap_or(level.train) };
            let title = match count {
                1 => "Training".to_string(),
                _ => format!("V-cycle, stage {} of {count}: level {}", number + 1, leg.level + 1),
            };
            let name = title_of(&title, &*levels[leg.level], &stage);
            PlannedStage { level: leg.level, enter: leg.enter, stage, before: before.map_or(0, |b| b.steps), name }
        });
        let legs = legs.collect();
        Self::new(context, Branch::VCycle, dir, levels, legs)
    }

    /// The twin: level 1 from initial weights.
    pub fn scratch(context: &'a mut Context<'b>, dir: &Path, mut levels: Levels, stage: &Stage) -> Result<Self> {
        levels.truncate(1);
        let name = title_of("Scratch: level 1 alone", &*levels[0], stage);
        let legs = vec![PlannedStage { level: 0, enter: Transition::Initialise, stage: *stage, before: 0, name }];
        Self::new(context, Branch::Scratch, dir, levels, legs)
    }

    fn new(
        context: &'a mut Context<'b>,
        half: Branch,
        dir: &Path,
        levels: Levels,
        legs: Vec<PlannedStage>,
    ) -> Result<Self> {
        let train = &context.config.train;
        let source = context.data.source(context.config)?;
        let held_out = source.room(train.batch / train.accumulate)?;
        Ok(Trainer {
            half,
            dir: dir.to_path_buf(),
            metrics: Metrics::new(dir),
            batches: Prefetch::new(Arc::clone(&source), train.batch, 0, context.config.data.workers())?,
            keeps_moments: legs.iter().any(|leg| leg.stage.optimizer == OptimizerState::Transfer),
            waiting: levels.iter().map(|_| None).collect(),
            models: levels.into_iter().map(Some).collect(),
            legs,
            at: Position::default(),
            stage_step: 0,
            pending: None,
            valid: f64::INFINITY,
            measures: None,
            source,
            held_out,
            operations: Vec::new(),
            at_start: Vec::new(),
            waited: 0.0,
            context,
        })
    }

    /// Trains through all stages, or from the newest usable checkpoint on with `resume`, and writes `model/`.
    ///
    /// # Errors
    /// Divergence, memory, disk. What was saved stays.
    pub fn run(&mut self, resume: bool) -> Result<Ended> {
        self.at_start = self.context.device.timings().totals().collect();
        let mut learner = if resume { self.resume()? } else { None };
        let first = learner.as_ref().map_or(0, |_| self.at.stage - 1);
        for number in first..self.legs.len() {
            let mut learner = match learner.take() {
                Some(learner) => learner,
                None => self.begin(number)?,
            };
            if let Some(stopped) = self.stage(number, &mut learner)? {
                return Ok(stopped);
            }
            if number + 1 == self.legs.len() {
                self.finish(&learner)?;
            }
            let (model, params, moments) = learner.finish_keeping_moments(self.context.device);
            let moments = if self.keeps_moments {
                Some(moments)
            } else {
                moments.free(self.context.device);
                None
            };
            let level = self.legs[number].level;
            self.models[level] = Some(model);
            self.waiting[level] = Some(IdleLevel { params, moments });
        }
        for number in 0..self.waiting.len() {
            self.release(number);
        }
        Ok(Ended::Finished(self.valid))
    }

    /// Evaluations of level 1 as points of its curve.
    pub fn points(&self) -> Vec<Point> {
        points(&self.metrics)
    }

    /// A learner of a level with these weights, or with memory for them.
    pub(super) fn learner(&mut self, level: usize, params: Option<Store>) -> Result<TrainState> {
        let Context { config, device, .. } = &mut *self.context;
        let Some(model) = self.models[level].take() else { unreachable!("a stage gives its model back") };
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
        TrainState::new(*device, model, params, config.shape(), config.optimizer(), options)
    }

    fn release(&mut self, level: usize) {
        if let Some(IdleLevel { params, moments }) = self.waiting[level].take() {
            params.free(self.context.device);
            moments.into_iter().for_each(|moments| moments.free(self.context.device));
        }
    }

    /// Trains the rest of one stage. Returns early when told to stop.
    fn stage(&mut self, number: usize, learner: &mut TrainState) -> Result<Option<Ended>> {
        let PlannedStage { stage, before, level, ref name, .. } = self.legs[number];
        let last = number + 1 == self.legs.len();
        self.context.progress.begin(name, stage.steps);
        if self.stage_step == 0 {
            let table = learner.model.table();
            let (parameters, layers, width) = (table.count(), table.layers, table.heads * table.head_size);
            let name = name.clone();
            self.metrics.write(&Event::Stage { at: self.at, name, steps: stage.steps, parameters, layers, width })?;
            self.evaluate(learner)?;
        }
        let train = &self.context.config.train;
        let (eval_every, save_every) = (train.eval_every, train.checkpoint_every.unwrap_or(train.eval_every));
        let (target, tokens) = (train.target_loss.filter(|_| last && level == 0), self.tokens());
        let mut done = target.is_some_and(|target| self.valid <= target) || self.stage_step >= stage.steps;
        while !done {
            let seconds = self.step(learner, stage.rate(self.stage_step, before))?;
            let step = self.stage_step;
            let evaluated = step.is_multiple_of(eval_every) || step == stage.steps;
            let stop = (self.context.stop)();
            let saved = stop || step.is_multiple_of(save_every);
            if evaluated || saved {
                self.report(learner)?;
            }
            if evaluated {
                self.evaluate(learner)?;
            }
            done = step == stage.steps || (evaluated && target.is_some_and(|target| self.valid <= target));
            let valid = self.valid;
            self.context
                .progress
                .step(step, stage.steps, || format!("held-out {valid:.3}  {:.0} tokens/s", tokens / seconds));
            if saved || done {
                self.save(learner, evaluated)?;
            }
            if stop {
                self.context.progress.end();
                return Ok(Some(Ended::Stopped(self.at.step)));
            }
        }
        self.context.progress.end();
        let Position { flops, seconds, .. } = self.at;
        let early = if self.stage_step < stage.steps { ", the target, early" } else { "" };
        let text = format!("  held-out loss {:.4}{early} after {:.3e} FLOPs, {seconds:.1} s", self.valid, flops as f64);
        self.context.progress.note(&text);
        let waited = self.batches.waited().as_secs_f64();
        // At least half a second: in a stage of milliseconds any wait is more than one percent.
        if waited > (0.01 * seconds).max(0.5) {
            let why = match self.context.data {
                Data::Images { .. } => "is its disk slow, or data.images.workers too low?",
                Data::Text(_) | Data::Labelled(_) => "is its disk slow?",
            };
            self.context.progress.note(&format!("  {waited:.1} s so far were spent waiting for data; {why}"));
        }
        Ok(None)
    }

    /// Tokens of a step; of images, patches.
    pub(super) fn tokens(&self) -> f64 {
        let Config { train, model, .. } = self.context.config;
        let each = match self.context.data {
            Data::Text(_) | Data::Labelled(_) => model.context,
            Data::Images { train, .. } => self.context.config.patches(train.channels()).rows(),
        };
        (train.batch * each) as f64
    }

    /// Starts a step and reports the one before. Returns the seconds that both took.
    fn step(&mut self, learner: &mut TrainState, lr: f64) -> Result<f64> {
        let begin = Instant::now();
        let fields = self.batches.next(self.at.step)?;
        let submitted = learner.launch_step(self.context.device, fields, lr)?;
        if let Some((before, at, lr)) = self.pending.take() {
            self.write_step(learner, before, at, lr)?;
        }
        let seconds = begin.elapsed().as_secs_f64();
        self.context.device.timings().mark("step", self.at.step, begin);
        self.at.step += 1;
        self.stage_step += 1;
        let flops = learner.step_flops();
        self.at.flops += flops.model;
        self.at.hardware_flops += flops.hardware;
        self.at.seconds += seconds;
        self.pending = Some((submitted, self.at, lr));
        Ok(seconds)
    }

    /// Waits for the step under way and reports it.
    fn report(&mut self, learner: &mut TrainState) -> Result<()> {
        let Some((submitted, at, lr)) = self.pending.take() else { return Ok(()) };
        let begin = Instant::now();
        self.context.device.sync()?;
        self.at.seconds += begin.elapsed().as_secs_f64();
        self.write_step(learner, submitted, Position { seconds: self.at.seconds, ..at }, lr)
    }

    fn write_step(&mut self, learner: &mut TrainState, submitted: PendingStep, at: Position, lr: f64) -> Result<()> {
        let StepReport { loss, grad_norm } = learner.report(self.context.device, submitted)?;
        self.metrics.write(&Event::Step { at, lr, loss, grad_norm })
    }

    /// Mean loss over up to `most` held-out batches, the tokens that were scored, and FLOPs; predictions go to `agreement`.
    pub(super) fn held_out(
        &mut self,
        learner: &mut TrainState,
        most: usize,
        mut agreement: Option<&mut Agreement>,
    ) -> Result<(f64, usize, u64)> {
        let train = &self.context.config.train;
        let fields = &mut self.held_out;
        let (mut means, mut flops) = (Means::default(), 0);
        // `most` counts batches of a step, however they are cut.
        for index in 0..most.saturating_mul(train.accumulate) {
            let Some(scored) = self.source.held_out_batch(index, fields)? else { break };
            learner.evaluate(self.context.device, fields, &mut means)?;
            if let Some(agreement) = &mut agreement {
                agreement.add(&learner.scores(self.context.device)?, fields, scored);
            }
            flops += learner.evaluation_flops();
        }
        Ok((means.loss(), means.scored(), flops))
    }

    fn evaluate(&mut self, learner: &mut TrainState) -> Result<()> {
        let most = match self.context.config.train.eval_batches {
            0 => usize::MAX,
            n => n,
        };
        self.context.data.check_unchanged()?;
        let begin = Instant::now();
        let mut agreement = Agreement::of(&*learner.model);
        let (valid_loss, tokens, _) = self.held_out(learner, most, agreement.as_mut())?;
        self.context.device.timings().mark("evaluation", self.at.step, begin);
        if !valid_loss.is_finite() {
            bail!("training diverged: held-out loss {valid_loss}; lower the learning rate or lengthen the warm-up");
        }
        self.valid = valid_loss;
        self.measures = agreement.map(|agreement| agreement.measures()).transpose()?;
        if let Some(measures) = &self.measures {
            let text = format!("  after step {}: held-out loss {valid_loss:.4}, {measures}", self.stage_step);
            self.context.progress.note(&text);
        }
        let (measures, resident_bytes) = (self.measures, memory::resident().map(|(now, _)| now));
        self.metrics.write(&Event::Eval { at: self.at, valid_loss, tokens, measures, resident_bytes })
    }
}

/// `V-cycle, stage 1 of 3: level 1, 4 layers x 128 wide, 940800 parameters, 50 steps`.
fn title_of(title: &str, model: &dyn Model, stage: &Stage) -> String {
    let table = model.table();
    let (layers, width, count) = (table.layers, table.heads * table.head_size, table.count());
    format!("{title}, {layers} layers x {width} wide, {count} parameters, {} steps", stage.steps)
}

/// Evaluations of level 1 as points of its curve.
pub fn points(metrics: &Metrics) -> Vec<Point> {
    let of_level = metrics.evals.iter().filter(|(at, _)| at.level == 1);
    of_level.map(|(at, loss)| Point { flops: at.flops, seconds: at.seconds, loss: *loss }).collect()
}
