//! A run: the V-cycle through its stages, and its scratch twin.

use super::config::{Config, Family, Stage};
use super::learner::Learner;
use super::metrics::{Event, Metrics, Position};
use super::progress::Progress;
use crate::data::corpus::Corpus;
use crate::data::prefetch::Prefetch;
use crate::data::sampler::{Sampler, check_length, validation_batch};
use crate::device::Device;
use crate::error::{At, Error, Result};
use crate::files::write_dir_atomic;
use crate::hub::checkpoint;
use crate::model::Model;
use crate::model::gpt::{Gpt, GptConfig};
use crate::model::store::Store;
use crate::multilevel::plan::{Enter, v_cycle};
use crate::multilevel::scheme::ModelShape;
use crate::multilevel::{coalesce, interpolate};
use crate::report::savings::{Point, Savings};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What a finished run left.
#[derive(Debug)]
pub struct Outcome {
    /// The V-cycle's final model.
    pub model: PathBuf,
    /// Held-out loss of that model.
    pub loss: f64,
    /// Against the scratch twin, when there was one.
    pub savings: Option<Savings>,
}

/// Everything that can be wrong with a configuration's sizes, before anything is written.
struct Levels(Vec<Box<dyn Model>>);

impl Levels {
    fn new(config: &Config, vocab: usize) -> Result<Self> {
        let m = &config.model;
        let Family::Gpt = m.family;
        let width = m.heads.checked_mul(m.head_size).filter(|w| *w < 1 << 24);
        let width = width.ok_or_else(|| Error::new("model: heads x head_size is beyond reason"))?;
        let first = Gpt::new(GptConfig {
            vocab,
            context: m.context,
            width,
            heads: m.heads,
            layers: m.layers,
            ffn: 4 * width,
            eps: 1e-5,
            init_std: m.init_std,
            dropout_embedding: m.dropout,
            dropout_attention: m.dropout,
            dropout_residual: m.dropout,
            bos: None,
            eos: None,
        });
        let mut levels: Vec<Box<dyn Model>> = vec![Box::new(first.at("model")?)];
        for (i, level) in config.levels.iter().enumerate().skip(1) {
            let place = format!("levels[{i}]");
            let above = levels[i - 1].table();
            let (layers, heads) = level.scheme().small();
            let layers = level.layers.or(layers).unwrap_or(above.layers);
            let heads = level.heads.or(heads).unwrap_or(above.heads);
            let small = levels[i - 1].resized(layers, heads).at(&place)?;
            let shapes = (ModelShape::of(above), ModelShape::of(small.table()));
            if shapes.0 == shapes.1 {
                crate::bail!("{place}: the level is no smaller than the one above; give fewer layers or heads");
            }
            let grouping = level.scheme().resolve(shapes.0, shapes.1).at(&place)?;
            config.rules().admit(&grouping).at(&place)?;
            levels.push(small);
        }
        Ok(Levels(levels))
    }
}

/// Trains as configured: prepares the data in `cache`, writes `out/vcycle` and, with a twin, `out/scratch`.
///
/// # Errors
/// Before anything of `out` is written: sizes, schemes and data that do not fit, or `out` existing. Later: divergence,
/// memory, disk.
pub fn train(
    config: &Config,
    device: &mut dyn Device,
    cache: &Path,
    out: &Path,
    progress: &mut Progress,
) -> Result<Outcome> {
    // With any vocabulary: a wrong size is told before the data is prepared.
    Levels::new(config, 1)?;
    if out.exists() {
        crate::bail!("{} exists already; choose another --out, or remove it", out.display());
    }
    let data = Corpus::open(&config.data_source()?, cache, &mut |text| progress.note(text))?;
    check_length(&*data.train, config.model.context)?;
    check_length(&*data.valid, config.model.context)?;
    let done = both(config, device, &data, out, progress);
    done.map_err(|e| match out.exists() {
        true => Error::new(format!(
            "{e}\nwhat was measured until then is in {}; remove it, or choose another --out, before the next try",
            out.display()
        )),
        false => e,
    })
}

/// The V-cycle and its twin.
fn both(
    config: &Config,
    device: &mut dyn Device,
    data: &Corpus,
    out: &Path,
    progress: &mut Progress,
) -> Result<Outcome> {
    let vocab = data.vocab_size;
    let mut vcycle = Runner::new(config, device, data, &out.join("vcycle"), progress)?;
    let loss = vcycle.v_cycle(Levels::new(config, vocab)?)?;
    let points = vcycle.points(1);
    let mut savings = None;
    if let Some(stage) = &config.scratch {
        let mut scratch = Runner::new(config, device, data, &out.join("scratch"), progress)?;
        scratch.scratch(Levels::new(config, vocab)?, stage)?;
        savings = Savings::of(&points, &scratch.points(1));
    }
    Ok(Outcome { model: out.join("vcycle/model"), loss, savings })
}

/// One run in one folder.
struct Runner<'a> {
    config: &'a Config,
    device: &'a mut dyn Device,
    data: &'a Corpus,
    dir: PathBuf,
    progress: &'a mut Progress,
    metrics: Metrics,
    batches: Prefetch,
    at: Position,
    ids: Vec<i32>,
    labels: Vec<i32>,
}

impl<'a> Runner<'a> {
    fn new(
        config: &'a Config,
        device: &'a mut dyn Device,
        data: &'a Corpus,
        dir: &Path,
        progress: &'a mut Progress,
    ) -> Result<Self> {
        let tokens = config.train.batch * config.model.context;
        let sampler = Sampler { seed: config.seed, rank: 0, world: 1 };
        let sizes = (config.train.batch, config.model.context);
        Ok(Runner {
            config,
            device,
            data,
            dir: dir.to_path_buf(),
            progress,
            metrics: Metrics::new(dir),
            batches: Prefetch::new(Arc::clone(&data.train), sampler, sizes, 0)?,
            at: Position::default(),
            ids: vec![0; tokens],
            labels: vec![0; tokens],
        })
    }

    /// Evaluations of a level as points of its curve.
    fn points(&self, level: usize) -> Vec<Point> {
        let of_level = self.metrics.evals.iter().filter(|(at, _)| at.level == level);
        of_level.map(|(at, loss)| Point { flops: at.flops, seconds: at.seconds, loss: *loss }).collect()
    }

    fn v_cycle(&mut self, Levels(levels): Levels) -> Result<f64> {
        let mut models: Vec<Option<Box<dyn Model>>> = levels.into_iter().map(Some).collect();
        let mut stores: Vec<Option<Store>> = models.iter().map(|_| None).collect();
        let mut loss = f64::INFINITY;
        let legs = v_cycle(models.len());
        for (number, leg) in legs.iter().enumerate() {
            let level = leg.level;
            let Some(model) = models[level].take() else { unreachable!("a stage gives its model back") };
            (self.at.stage, self.at.level) = (number + 1, level + 1);
            let store = self.enter(leg.enter, level, &*model, &mut stores)?;
            let stages = &self.config.levels[level];
            let stage = if leg.last { stages.train } else { stages.before.unwrap_or(stages.train) };
            let table = model.table();
            let name = format!(
                "V-cycle, stage {} of {}: level {}, {} layers x {} wide, {} parameters, {} steps",
                number + 1,
                legs.len(),
                level + 1,
                table.layers,
                table.heads * table.head_size,
                table.count(),
                stage.steps
            );
            let (model, store, value) = self.stage(&name, model, store, &stage)?;
            loss = value;
            if number + 1 == legs.len() {
                self.save(&*model, &store)?;
            }
            (models[level], stores[level]) = (Some(model), Some(store));
        }
        stores.into_iter().flatten().for_each(|store| store.free(self.device));
        Ok(loss)
    }

    /// The parameters with which a leg begins.
    fn enter(&mut self, enter: Enter, level: usize, model: &dyn Model, stores: &mut [Option<Store>]) -> Result<Store> {
        let rules = self.config.rules();
        let begin = Instant::now();
        let (store, name, cost) = match enter {
            Enter::Coalesce => {
                let small = Store::new(model.table().clone(), self.device)?;
                let scheme = self.config.levels[level].scheme();
                let Some(big) = &stores[level - 1] else { unreachable!("the level above was trained before") };
                let cost = coalesce(self.device, big, &small, &scheme, &rules)?;
                (small, "coalesce", cost)
            }
            Enter::Interpolate => {
                let below = &self.config.levels[level + 1];
                let (Some(big), Some(small)) = (stores[level].take(), stores[level + 1].take()) else {
                    unreachable!("both levels were trained on the way down")
                };
                let alpha = below.alpha.unwrap_or(1.0);
                let cost = interpolate(self.device, &big, &small, alpha, &below.scheme(), &rules)?;
                small.free(self.device);
                (big, "interpolate", cost)
            }
            Enter::Initialise => return self.initialise(model),
        };
        self.at.flops += cost.flops;
        self.at.hardware_flops += cost.flops;
        self.at.seconds += begin.elapsed().as_secs_f64();
        self.metrics.write(Event::Operator { at: self.at, name, flops_spent: cost.flops })?;
        Ok(store)
    }

    fn initialise(&mut self, model: &dyn Model) -> Result<Store> {
        let store = Store::new(model.table().clone(), self.device)?;
        store.initialise(self.device, self.config.seed)?;
        Ok(store)
    }

    fn scratch(&mut self, Levels(mut levels): Levels, stage: &Stage) -> Result<()> {
        let model = levels.swap_remove(0);
        (self.at.stage, self.at.level) = (1, 1);
        let store = self.initialise(&*model)?;
        let name = format!("Scratch: level 1 alone, {} steps", stage.steps);
        let (model, store, _) = self.stage(&name, model, store, stage)?;
        self.save(&*model, &store)?;
        store.free(self.device);
        Ok(())
    }

    /// Trains one stage with a fresh optimizer. Returns model, parameters and the last held-out loss.
    fn stage(
        &mut self,
        name: &str,
        model: Box<dyn Model>,
        store: Store,
        stage: &Stage,
    ) -> Result<(Box<dyn Model>, Store, f64)> {
        let (batch, context) = (self.config.train.batch, self.config.model.context);
        let seed = self.config.seed.wrapping_add(self.at.stage as u64 - 1);
        let recompute = self.config.train.recompute;
        let optimizer = self.config.optimizer();
        let begin = Instant::now();
        let mut learner = Learner::new(self.device, model, store, (batch, context), optimizer, seed, recompute)?;
        self.at.seconds += begin.elapsed().as_secs_f64();
        let schedule = stage.schedule();
        self.progress.begin(name, stage.steps);
        let mut valid = self.evaluate(&mut learner)?;
        for step in 0..stage.steps {
            let begin = Instant::now();
            let (ids, labels) = self.batches.next(self.at.step)?;
            let lr = schedule.rate(step);
            let report = learner.step(self.device, ids, labels, lr)?;
            let elapsed = begin.elapsed().as_secs_f64();
            self.at.step += 1;
            let flops = learner.step_flops();
            self.at.flops += flops.model;
            self.at.hardware_flops += flops.hardware;
            self.at.seconds += elapsed;
            let (loss, grad_norm) = (report.loss, report.grad_norm);
            self.metrics.write(Event::Step { at: self.at, lr, loss, grad_norm })?;
            if (step + 1).is_multiple_of(self.config.train.eval_every) || step + 1 == stage.steps {
                valid = self.evaluate(&mut learner)?;
            }
            self.progress.step(step + 1, stage.steps, || {
                let speed = (batch * context) as f64 / elapsed;
                format!("loss {loss:.3}  held-out {valid:.3}  {speed:.0} tokens/s")
            });
        }
        self.progress.end();
        let seconds = self.at.seconds;
        self.progress
            .note(&format!("  held-out loss {valid:.4} after {:.3e} FLOPs, {seconds:.1} s", self.at.flops as f64));
        let waited = self.batches.waited().as_secs_f64();
        if waited > 0.01 * seconds {
            self.progress.note(&format!("  {waited:.1} s so far were spent waiting for data; is its disk slow?"));
        }
        let (model, store) = learner.finish(self.device);
        Ok((model, store, valid))
    }

    /// Mean loss over the held-out batches.
    fn evaluate(&mut self, learner: &mut Learner) -> Result<f64> {
        let (batch, context) = (self.config.train.batch, self.config.model.context);
        let most = match self.config.train.eval_batches {
            0 => usize::MAX,
            n => n,
        };
        let (mut total, mut tokens) = (0.0, 0);
        for index in 0..most {
            let scored = validation_batch(&*self.data.valid, index, batch, context, &mut self.ids, &mut self.labels)?;
            if scored == 0 {
                break;
            }
            total += learner.evaluate(self.device, &self.ids, &self.labels)? * scored as f64;
            tokens += scored;
        }
        let valid_loss = total / tokens.max(1) as f64;
        if !valid_loss.is_finite() {
            crate::bail!(
                "training diverged: held-out loss {valid_loss}; lower the learning rate or lengthen the warm-up"
            );
        }
        self.metrics.write(Event::Eval { at: self.at, valid_loss, tokens })?;
        Ok(valid_loss)
    }

    /// Writes `model/` whole.
    fn save(&mut self, model: &dyn Model, store: &Store) -> Result<()> {
        let tokenizer = &self.data.tokenizer;
        let device = &mut *self.device;
        write_dir_atomic(&self.dir.join("model"), |dir| {
            checkpoint::save(dir, model, store, device)?;
            tokenizer.as_ref().map_or(Ok(()), |tokenizer| tokenizer.save(&dir.join(checkpoint::TOKENIZER)))
        })?;
        self.metrics.flush()
    }
}
