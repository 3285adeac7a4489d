//! The part of [`Trainer`] that deals with files: resuming from a checkpoint, saving one, and writing the final model.

use super::checkpoint::{self, Checkpoint, Part, State};
use super::idle::IdleLevel;
use super::settings;
use super::state::TrainState;
use super::trainer::{Context, PlannedStage, Trainer};
use super::validate;
use super::validate::Planned;
use crate::bail;
use crate::device::Device;
use crate::error::{At, Error, Result};
use crate::families::Dataset;
use crate::files::write_dir_atomic;
use crate::hub::checkpoint as hub;
use crate::memory;
use crate::model::Model;
use crate::model::store::Store;
use crate::optim;
use crate::runlog::{self, Event, Metrics, Summary};
use std::path::Path;

impl Trainer<'_, '_> {
    /// Restores the branch from its newest usable checkpoint. Returns `None` if there is no checkpoint; the branch then
    /// starts from the beginning.
    pub(super) fn resume(&mut self) -> Result<Option<TrainState>> {
        let (dir, keeps_optimizer) = (self.dir.clone(), self.keeps_optimizer());
        let Context { data, progress, config, settings: now, .. } = &mut *self.context;
        let planned = |stage: &PlannedStage| Planned { level: stage.level + 1, steps: stage.stage.steps };
        let plan: Vec<Planned> = self.stages.iter().map(planned).collect();
        let name = data.name();
        // Run all of these checks before the metrics file is truncated to its length at the checkpoint.
        let fits = |checkpoint: &Checkpoint| {
            let state = &checkpoint.state;
            settings::changes(&checkpoint.dir, state, config, self.branch)?;
            if state.data != name {
                bail!(
                    "{}: the run was trained on {}, but [data] now gives {name}; restore the old data, or start a new \
                     run",
                    checkpoint.dir.display(),
                    state.data
                );
            }
            state.settings.as_ref().map_or(Ok(()), |then| then.same_content(now)).at(checkpoint.dir.display())
        };
        let accept = |checkpoint: &Checkpoint| {
            validate::check(&checkpoint.state, &plan, keeps_optimizer)?;
            Metrics::resume(&dir, &checkpoint.state.resume_point())
        };
        let newest = checkpoint::newest(&dir, &mut |text| progress.note(text), fits, accept)?;
        let Some((checkpoint, metrics)) = newest else {
            progress.note(&format!("{}: no checkpoint yet, starting from the beginning", dir.display()));
            return Ok(None);
        };
        let state = &checkpoint.state;
        progress.note(&format!("resuming after step {} from {}", state.at.step, checkpoint.dir.display()));
        if state.settings.is_none() {
            progress.note(
                "  an earlier version wrote it and did not store the configuration, so config.toml was not compared",
            );
        }
        let changes = settings::changes(&checkpoint.dir, state, config, self.branch)?;
        self.metrics = metrics;
        if !changes.is_empty() {
            changes.iter().for_each(|change| progress.note(&format!("  {change}")));
            self.metrics.write(&Event::Settings(runlog::Settings { at: state.at, changes }))?;
        }
        (self.at, self.stage_step, self.evaluation.loss) = (state.at, state.stage_step, state.valid_loss);
        self.clock.before.clone_from(&state.operations);
        self.clock.waited = state.waited;
        self.restore(&checkpoint).map(Some)
    }

    /// Allocates the state of every level that `checkpoint` contains and fills it. Returns that of the level in
    /// training.
    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<TrainState> {
        let state = &checkpoint.state;
        let level = state.at.level - 1;
        for saved in state.levels.iter().filter(|l| l.level != level + 1) {
            let table = self.levels.model(saved.level - 1).table();
            let params = Store::new(table.clone(), self.context.device)?;
            let mut optimizer = match saved.updates {
                Some(_) => {
                    let config = self.context.config.optimizer()?;
                    Some(optim::State::new(&*config.optimizer, table, self.context.device)?)
                }
                None => None,
            };
            checkpoint.restore(saved.level, &params, optimizer.as_mut(), self.context.device)?;
            self.levels.put_weights(saved.level - 1, IdleLevel { params, optimizer });
        }
        let mut train_state = self.train_state(level, None)?;
        let params = train_state.params.clone();
        checkpoint.restore(level + 1, &params, Some(train_state.optimizer_state_mut()), self.context.device)?;
        train_state.set_passes(state.passes);
        Ok(train_state)
    }

    /// Writes a checkpoint and removes old ones, as `train.keep_last` and `train.keep_best` say. `valid_here`: the
    /// model was evaluated at this step.
    pub(super) fn save(&mut self, train_state: &TrainState, valid_here: bool) -> Result<()> {
        // The steps before this checkpoint are only valid if the data files have not changed.
        self.context.data.check_unchanged()?;
        let (metrics_bytes, tensorboard_bytes) = self.metrics.sync()?;
        let operations = self.clock.operations(self.context.device);
        let Context { config, device, data, settings, .. } = &mut *self.context;
        let idle = self.levels.trained();
        let mut parts: Vec<Part<'_>> = idle
            .map(|(level, idle)| Part { level: level + 1, params: &idle.params, optimizer: idle.optimizer.as_ref() })
            .collect();
        parts.push(Part {
            level: self.at.level,
            params: &train_state.params,
            optimizer: Some(train_state.optimizer_state()),
        });
        let state = State {
            settings: Some(settings.clone()),
            at: self.at,
            stage_step: self.stage_step,
            passes: train_state.passes(),
            valid_loss: self.evaluation.loss,
            valid_here,
            waited: self.clock.waited + self.batches.waited().as_secs_f64(),
            metrics_bytes,
            tensorboard_bytes,
            data: data.name(),
            levels: parts.iter().map(Part::saved).collect(),
            operations,
        };
        let with_model = config.train.keep_best && self.at.level == 1;
        let saved = checkpoint::save(&self.dir, &state, &parts, *device, |dir, device| match with_model {
            true => write_model(&dir.join("model"), &*train_state.model, &train_state.params, *data, device),
            false => Ok(()),
        });
        saved.map_err(|e| {
            Error::new(format!("{e}\nthe checkpoint of step {} was not written; earlier ones are intact", self.at.step))
        })?;
        checkpoint::prune(&self.dir, config.train.keep_last, config.train.keep_best);
        Ok(())
    }

    /// Writes the summary, which is the last line of the metrics, and `model/`.
    pub(super) fn finish(&mut self, train_state: &TrainState) -> Result<()> {
        let operations = self.clock.operations(self.context.device);
        let Context { data, device, config, .. } = &mut *self.context;
        let sample = data.sample(*device, &*train_state.model, &train_state.params, config.seed)?;
        let tokens = self.at.step as f64 * self.tokens();
        self.metrics.write(&Event::Summary(Summary {
            at: self.at,
            resident_bytes: memory::resident().map(|(_, most)| most),
            tokens_per_second: Some(tokens / self.at.seconds.max(f64::MIN_POSITIVE)),
            waited_seconds: Some(self.clock.waited + self.batches.waited().as_secs_f64()),
            operations,
            sample,
        }))?;
        self.metrics.sync()?;
        let Context { data, device, .. } = &mut *self.context;
        write_model(&self.dir.join("model"), &*train_state.model, &train_state.params, *data, *device)
    }
}

/// Writes a model folder in the Hugging Face format, atomically.
fn write_model(
    dir: &Path,
    model: &dyn Model,
    params: &Store,
    data: &dyn Dataset,
    device: &mut dyn Device,
) -> Result<()> {
    write_dir_atomic(dir, |dir| {
        hub::save_with_class_names(dir, model, params, device, data.class_names())?;
        data.tokenizer().map_or(Ok(()), |tokenizer| tokenizer.save_in(dir))
    })
}
