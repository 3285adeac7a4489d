//! One model in training on a device: parameters, gradients, moments, the tape, and AdamW.

use crate::bail;
use crate::device::ops::{ALIGN, AdamW, GlobalNorm, Op, StepState};
use crate::device::{self, Device, Graph};
use crate::error::{At, Result};
use crate::model::Model;
use crate::model::params::ParamTable;
use crate::model::store::Store;
use crate::tape::{LossOptions, Mode, StepCost, Tape, Var};
use crate::tensor::{DType, Place, Tensor};

/// Constants of AdamW and clipping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Largest global norm of the gradients; infinity: no clipping.
    pub clip: f64,
}

/// What a step reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean over the batch, before the update.
    pub loss: f64,
    /// Global norm of the gradients, before clipping.
    pub grad_norm: f64,
}

/// The running averages of AdamW.
#[derive(Clone, Debug)]
pub struct Moments {
    /// First moments, laid out as the parameters.
    pub m: Store,
    /// Second moments.
    pub v: Store,
    /// Updates that made them, for the bias corrections.
    pub updates: u64,
}

impl Moments {
    /// Zeros: no update yet.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(table: &ParamTable, device: &mut dyn Device) -> Result<Self> {
        let m = Store::new(table.clone(), device).at("first moments")?;
        let v = Store::new(table.clone(), device).at("second moments")?;
        Ok(Moments { m, v, updates: 0 })
    }

    pub fn free(self, device: &mut dyn Device) {
        self.m.free(device);
        self.v.free(device);
    }
}

/// FLOPs of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepFlops {
    pub model: u64,
    /// With what recomputed segments compute a second time.
    pub hardware: u64,
}

/// See the module.
pub struct Learner {
    pub model: Box<dyn Model>,
    pub params: Store,
    pub moments: Moments,
    grads: Store,
    decay_mask: Tensor,
    norm: Tensor,
    partials: Tensor,
    state: Tensor,
    ids: Tensor,
    labels: Tensor,
    tape: Tape,
    vars: Vec<Var>,
    update: Graph,
    update_flops: u64,
    train_cost: StepCost,
    evaluation_flops: u64,
    optimizer: OptimizerConfig,
    seed: u64,
    /// Micro-batches so far: dropout draws anew for each.
    passes: u32,
    recompute: bool,
}

impl Learner {
    /// Takes the parameters; moments start at zero. `batch` sequences of `time` tokens are computed at a time.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        device: &mut dyn Device,
        model: Box<dyn Model>,
        params: Store,
        (batch, time): (usize, usize),
        optimizer: OptimizerConfig,
        seed: u64,
        recompute: bool,
    ) -> Result<Self> {
        let table = model.table().clone();
        let (n, float) = (table.elements(), device.float());
        let grads = Store::new(table.clone(), device).at("gradients")?;
        let moments = Moments::new(&table, device)?;
        let decay_mask = device::alloc_tensor(device, DType::U8, &[n / ALIGN])?;
        device.write(&decay_mask, &mask(&table))?;
        let norm = device::alloc_tensor(device, float, &[1])?;
        let partials = device::alloc_tensor(device, float, &[GlobalNorm::partials(n)])?;
        let state = StepState::tensor(device.alloc(size_of::<StepState>())?);
        let dims = [batch, time];
        let ids = device::alloc_tensor(device, DType::I32, &dims)?;
        let labels = device::alloc_tensor(device, DType::I32, &dims)?;
        let OptimizerConfig { beta1, beta2, eps, weight_decay, clip } = optimizer;
        let (p, g) = (params.flat(), grads.flat());
        let ops = [
            Op::from(GlobalNorm { x: g, partials, norm }),
            Op::from(AdamW {
                params: p,
                grads: g,
                m: moments.m.flat(),
                v: moments.v.flat(),
                copy: None,
                decay_mask,
                norm,
                state,
                beta1,
                beta2,
                eps,
                weight_decay,
                max_norm: clip,
            }),
        ];
        let update = device.capture(&ops)?;
        Ok(Learner {
            params,
            moments,
            grads,
            decay_mask,
            norm,
            partials,
            state,
            ids,
            labels,
            tape: Tape::new(float, state),
            vars: Vec::with_capacity(table.params.len()),
            update,
            update_flops: ops.iter().map(|op| op.cost().flops).sum(),
            train_cost: StepCost::default(),
            evaluation_flops: 0,
            optimizer,
            seed,
            passes: 0,
            recompute,
            model,
        })
    }

    /// One step of training on ids and labels `[n batch, time]`: the gradients of n micro-batches, each of the batch
    /// that [`Learner::new`] was given, accumulate to those of their mean loss; then one update.
    ///
    /// # Errors
    /// A loss or norm that is not finite: training has diverged. Tokens that are no whole number of micro-batches.
    /// Errors of the device.
    pub fn step(&mut self, device: &mut dyn Device, ids: &[i32], labels: &[i32], lr: f64) -> Result<StepReport> {
        let size = self.ids.numel();
        if ids.is_empty() || !ids.len().is_multiple_of(size) || ids.len() != labels.len() {
            bail!("{} ids and {} labels are no whole number of batches of {size}", ids.len(), labels.len());
        }
        let micro = ids.len() / size;
        self.moments.updates += 1;
        let correction = |beta: f64| (1.0 - beta.powf(self.moments.updates as f64)) as f32;
        let (bias1, bias2) = (correction(self.optimizer.beta1), correction(self.optimizer.beta2));
        let mut cost = StepCost::default();
        let mut total = 0.0;
        let options = LossOptions { weight: 1.0 / micro as f64, ..LossOptions::default() };
        for (i, (ids, labels)) in ids.chunks_exact(size).zip(labels.chunks_exact(size)).enumerate() {
            self.passes = self.passes.wrapping_add(1);
            let lr = lr as f32;
            let state = StepState { step: self.passes, lr, bias1, bias2, ..StepState::with_seed(self.seed) };
            device.write(&self.state, bytemuck::bytes_of(&state))?;
            let loss = self.record(device, ids, labels, Mode::Train { accumulate: i > 0 }, options)?;
            let StepCost { model_flops, hardware_flops, activation_bytes } = self.tape.cost();
            cost.model_flops += model_flops;
            cost.hardware_flops += hardware_flops;
            cost.activation_bytes = cost.activation_bytes.max(activation_bytes);
            total += device::read_scalar(device, &self.tape.value(loss)?)?;
        }
        self.train_cost = cost;
        device.replay(self.update)?;
        let report = StepReport { loss: total, grad_norm: device::read_scalar(device, &self.norm)? };
        if !report.loss.is_finite() || !report.grad_norm.is_finite() {
            bail!(
                "training diverged: loss {} and gradient norm {} at update {}; lower the learning rate or lengthen the \
                 warm-up",
                report.loss,
                report.grad_norm,
                self.moments.updates
            );
        }
        Ok(report)
    }

    /// Takes over moments.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn adopt(&mut self, device: &mut dyn Device, moments: &Moments) -> Result<()> {
        device.copy(&moments.m.flat(), &self.moments.m.flat())?;
        device.copy(&moments.v.flat(), &self.moments.v.flat())?;
        self.moments.updates = moments.updates;
        Ok(())
    }

    /// Goes on as after so many micro-batches.
    pub fn count_from(&mut self, passes: u32) {
        self.passes = passes;
    }

    /// Micro-batches trained on so far.
    pub fn passes(&self) -> u32 {
        self.passes
    }

    /// The mean loss of a batch, without dropout and without learning from it.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn evaluate(&mut self, device: &mut dyn Device, ids: &[i32], labels: &[i32]) -> Result<f64> {
        let loss = self.record(device, ids, labels, Mode::Evaluate, LossOptions::default())?;
        self.evaluation_flops = self.tape.cost().model_flops;
        device::read_scalar(device, &self.tape.value(loss)?)
    }

    fn record(
        &mut self,
        device: &mut dyn Device,
        ids: &[i32],
        labels: &[i32],
        mode: Mode,
        options: LossOptions,
    ) -> Result<Var> {
        device.write(&self.ids, bytemuck::cast_slice(ids))?;
        device.write(&self.labels, bytemuck::cast_slice(labels))?;
        let tape = &mut self.tape;
        tape.begin(mode);
        let (ids, labels) = (tape.input(self.ids), tape.input(self.labels));
        match mode {
            Mode::Evaluate => self.params.declare_frozen(tape, &mut self.vars),
            Mode::Train { .. } => self.params.declare(tape, &self.grads, &mut self.vars),
        }
        let loss = self.model.loss(tape, &self.vars, ids, labels, options, self.recompute);
        match mode {
            Mode::Evaluate => tape.keep(loss),
            Mode::Train { .. } => tape.backward(&[loss]),
        }
        tape.run(device)?;
        Ok(loss)
    }

    /// FLOPs of the training step before, with its update. Zero before the first step.
    pub fn step_flops(&self) -> StepFlops {
        let StepCost { model_flops, hardware_flops, .. } = self.train_cost;
        let update = if self.train_cost == StepCost::default() { 0 } else { self.update_flops };
        StepFlops { model: model_flops + update, hardware: hardware_flops + update }
    }

    /// FLOPs of the evaluation before. Zero before the first one.
    pub fn evaluation_flops(&self) -> u64 {
        self.evaluation_flops
    }

    /// Ends training: gives back all memory but the parameters.
    pub fn finish(self, device: &mut dyn Device) -> (Box<dyn Model>, Store) {
        let (model, params, moments) = self.finish_keeping_moments(device);
        moments.free(device);
        (model, params)
    }

    /// As [`Learner::finish`], with the moments.
    pub fn finish_keeping_moments(mut self, device: &mut dyn Device) -> (Box<dyn Model>, Store, Moments) {
        self.tape.forget(device);
        device.release(self.update);
        self.grads.free(device);
        for t in [self.decay_mask, self.norm, self.partials, self.state, self.ids, self.labels] {
            if let Place::Arena(arena) = t.place {
                device.free(arena);
            }
        }
        (self.model, self.params, self.moments)
    }
}

/// One byte for each 64 elements of the arena: whether they decay.
fn mask(table: &ParamTable) -> Vec<u8> {
    let mut mask = vec![0; table.elements() / ALIGN];
    for (i, param) in table.params.iter().enumerate() {
        let end = if i + 1 < table.params.len() { table.offset(i + 1) } else { table.elements() };
        mask[table.offset(i) / ALIGN..end / ALIGN].fill(u8::from(param.decay));
    }
    mask
}
