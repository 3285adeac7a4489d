//! Begins a stage: initialises its weights or applies a multi-level operator to them, and maps the moments that belong
//! to them.

use super::alpha_search::search;
use crate::config::levels::{Alpha, OptimizerState};
use crate::error::{At, Result};
use crate::hub::checkpoint::{PartialLoad, begin};
use crate::model::store::Store;
use crate::multilevel::methods::Transition;
use crate::multilevel::{coalesce, coalesce_as, interpolate, interpolate_as};
use crate::optim;
use crate::runlog::{Event, Operator, Search};
use crate::train::state::TrainState;
use crate::train::trainer::{Context, PlannedStage, Trainer};
use std::time::Instant;

/// Number of held-out batches that `alpha = "search"` evaluates at most.
const SEARCH_BATCHES: usize = 8;

impl Trainer<'_, '_> {
    /// Begins stage `number` (counted from 0): prepares its weights and moments, and logs the operator that was
    /// applied.
    pub(in crate::train) fn begin(&mut self, number: usize) -> Result<TrainState> {
        let PlannedStage { level, transition, stage, .. } = self.stages[number];
        (self.at.stage, self.at.level, self.stage_step) = (number + 1, level + 1, 0);
        let begin = Instant::now();
        let own = self.levels.take(level);
        let (params, optimizer) = own.map_or((None, None), |own| (Some(own.params), own.optimizer));
        let mut train_state = self.train_state(level, params)?;
        let transfer = stage.optimizer == OptimizerState::Transfer;
        let (spent, alpha) = match transition {
            Transition::Initialise => {
                train_state.params.initialise(self.context.device, self.context.config.seed)?;
                self.start(&train_state)?;
                (0, None)
            }
            Transition::Coalesce => (self.coalesce(level, &mut train_state, transfer)?, None),
            Transition::Interpolate => {
                let (spent, alpha) = self.interpolate(level, &mut train_state, optimizer.filter(|_| transfer))?;
                (spent, Some(alpha))
            }
        };
        train_state.params_changed();
        self.at.flops += spent;
        self.at.hardware_flops += spent;
        self.at.seconds += begin.elapsed().as_secs_f64();
        let name = match transition {
            Transition::Initialise => return Ok(train_state),
            Transition::Coalesce => "coalesce",
            Transition::Interpolate => "interpolate",
        };
        self.context.device.timings().mark(name, number as u64 + 1, begin);
        self.metrics.write(&Event::Operator(Operator { at: self.at, name: name.into(), flops_spent: spent, alpha }))?;
        Ok(train_state)
    }

    /// Replaces the initial weights by those of the checkpoint in `model.from`, if there is one.
    fn start(&mut self, train_state: &TrainState) -> Result<()> {
        let Context { config, device, progress, .. } = &mut *self.context;
        let Some(from) = &config.model.from else { return Ok(()) };
        let PartialLoad { fresh, unused, notes } =
            begin(from, &*train_state.model, &train_state.params, *device).at("model.from")?;
        notes.iter().for_each(|text| progress.note(&format!("  {text}")));
        let listed = |what: &str, names: &[String]| match names {
            [] => String::new(),
            names => format!("; {what}: {}", names.join(", ")),
        };
        let text =
            format!("  loaded weights of {}{}{}", from.display(), listed("new", &fresh), listed("not used", &unused));
        progress.note(&text);
        Ok(())
    }

    /// Coalesces the level above into `small`, the state of `level`; with `transfer` its moments too. Returns the FLOPs
    /// spent.
    fn coalesce(&mut self, level: usize, small: &mut TrainState, transfer: bool) -> Result<u64> {
        let Context { config, device, .. } = &mut *self.context;
        let Some(big) = self.levels.get(level - 1) else { unreachable!("the level above was trained earlier") };
        let (scheme, rules) = (config.scheme(level, &big.params, &small.params)?, config.rules());
        let mut flops = coalesce(*device, &big.params, &small.params, &scheme, &rules)?.flops;
        if let (true, Some(from)) = (transfer, &big.optimizer) {
            let to = small.optimizer_state_mut();
            for ((tensor, from), (_, to)) in from.tensors().zip(to.tensors()) {
                flops += coalesce_as(tensor.quantity, *device, from, to, &scheme, &rules)?.flops;
            }
            to.updates = from.updates;
        }
        Ok(flops)
    }

    /// Interpolates `big`, the state of `level`, with the de-coalesced level below, and frees that level. `moments` are
    /// the level's own moments from its earlier stage if moments are to be interpolated too. Returns the FLOPs spent
    /// and alpha.
    fn interpolate(
        &mut self,
        level: usize,
        big: &mut TrainState,
        optimizer: Option<optim::State>,
    ) -> Result<(u64, f64)> {
        let Some(small) = self.levels.take(level + 1) else { unreachable!("the level below was trained earlier") };
        let (mut flops, alpha) = match self.context.config.levels[level + 1].alpha.unwrap_or(Alpha::Fixed(1.0)) {
            Alpha::Fixed(alpha) => (0, alpha),
            Alpha::Search(_) => self.search(level, big, &small.params)?,
        };
        let Context { config, device, .. } = &mut *self.context;
        let (scheme, rules) = (config.scheme(level + 1, &big.params, &small.params)?, config.rules());
        flops += interpolate(*device, &big.params, &small.params, alpha, &scheme, &rules)?.flops;
        if let (Some(own), Some(from)) = (optimizer, &small.optimizer) {
            let to = big.optimizer_state_mut();
            to.copy_from(*device, &own)?;
            for ((tensor, to), (_, from)) in to.tensors().zip(from.tensors()) {
                flops += interpolate_as(tensor.quantity, *device, to, from, alpha, &scheme, &rules)?.flops;
            }
            // Take the bias corrections of the state with the larger weight.
            to.updates = if alpha > 0.5 { from.updates } else { own.updates };
            own.free(*device);
        }
        small.params.free(*device);
        small.optimizer.into_iter().for_each(|optimizer| optimizer.free(*device));
        Ok((flops, alpha))
    }

    /// Searches for the alpha with the lowest held-out loss, leaving `big` unchanged. Returns the FLOPs spent and
    /// alpha.
    fn search(&mut self, level: usize, big: &mut TrainState, small: &Store) -> Result<(u64, f64)> {
        let (scheme, rules) = (self.context.config.scheme(level + 1, &big.params, small)?, self.context.config.rules());
        let base = Store::new(big.params.table.clone(), self.context.device)?;
        self.context.device.copy(&big.params.flat(), &base.flat())?;
        let most = match self.context.config.train.eval_batches {
            0 => SEARCH_BATCHES,
            n => n.min(SEARCH_BATCHES),
        };
        let mut flops = 0;
        let found = search(|alpha| {
            let device = &mut *self.context.device;
            device.copy(&base.flat(), &big.params.flat())?;
            flops += interpolate(device, &big.params, small, alpha, &scheme, &rules)?.flops;
            big.params_changed();
            let (loss, _, spent) = self.held_out(big, most, None)?;
            flops += spent;
            Ok(loss)
        })?;
        self.context.device.copy(&base.flat(), &big.params.flat())?;
        base.free(self.context.device);
        let loss = |alpha: f64| found.tried.iter().find(|t| t.0 == alpha).map_or(f64::NAN, |t| t.1);
        self.context.progress.note(&format!(
            "  alpha by search: {:.3} (held-out loss {:.4}; at 0: {:.4}, at 1: {:.4})",
            found.alpha,
            loss(found.alpha),
            loss(0.0),
            loss(1.0)
        ));
        let alpha = found.alpha;
        let tried = found.tried.into_iter().map(|(alpha, loss)| (alpha, Some(loss))).collect();
        self.metrics.write(&Event::Search(Search { at: self.at, alpha, tried, flops_spent: flops }))?;
        Ok((flops, alpha))
    }
}
