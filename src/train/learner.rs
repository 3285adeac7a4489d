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
    grads: Store,
    m: Store,
    v: Store,
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
    optimizer: OptimizerConfig,
    seed: u64,
    steps: u64,
    recompute: bool,
}

impl Learner {
    /// Takes the parameters; moments start at zero. `batch` sequences of `time` tokens a step.
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
        let m = Store::new(table.clone(), device).at("first moments")?;
        let v = Store::new(table.clone(), device).at("second moments")?;
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
                m: m.flat(),
                v: v.flat(),
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
            grads,
            m,
            v,
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
            optimizer,
            seed,
            steps: 0,
            recompute,
            model,
        })
    }

    /// One step of training on ids and labels `[batch, time]`.
    ///
    /// # Errors
    /// A loss or norm that is not finite: training has diverged. Errors of the device.
    pub fn step(&mut self, device: &mut dyn Device, ids: &[i32], labels: &[i32], lr: f64) -> Result<StepReport> {
        self.steps += 1;
        let correction = |beta: f64| (1.0 - beta.powf(self.steps as f64)) as f32;
        let state = StepState {
            step: self.steps as u32,
            lr: lr as f32,
            bias1: correction(self.optimizer.beta1),
            bias2: correction(self.optimizer.beta2),
            ..StepState::with_seed(self.seed)
        };
        device.write(&self.state, bytemuck::bytes_of(&state))?;
        let loss = self.record(device, ids, labels, Mode::Train { accumulate: false })?;
        self.train_cost = self.tape.cost();
        device.replay(self.update)?;
        let report = StepReport {
            loss: device::read_scalar(device, &self.tape.value(loss)?)?,
            grad_norm: device::read_scalar(device, &self.norm)?,
        };
        if !report.loss.is_finite() || !report.grad_norm.is_finite() {
            bail!(
                "training diverged: loss {} and gradient norm {} at step {}; lower the learning rate or lengthen the warm-up",
                report.loss,
                report.grad_norm,
                self.steps
            );
        }
        Ok(report)
    }

    /// The mean loss of a batch, without dropout and without learning from it.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn evaluate(&mut self, device: &mut dyn Device, ids: &[i32], labels: &[i32]) -> Result<f64> {
        let loss = self.record(device, ids, labels, Mode::Evaluate)?;
        device::read_scalar(device, &self.tape.value(loss)?)
    }

    fn record(&mut self, device: &mut dyn Device, ids: &[i32], labels: &[i32], mode: Mode) -> Result<Var> {
        device.write(&self.ids, bytemuck::cast_slice(ids))?;
        device.write(&self.labels, bytemuck::cast_slice(labels))?;
        let tape = &mut self.tape;
        tape.begin(mode);
        let (ids, labels) = (tape.input(self.ids), tape.input(self.labels));
        match mode {
            Mode::Evaluate => self.params.declare_frozen(tape, &mut self.vars),
            Mode::Train { .. } => self.params.declare(tape, &self.grads, &mut self.vars),
        }
        let loss = self.model.loss(tape, &self.vars, ids, labels, LossOptions::default(), self.recompute);
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
        let update = if self.steps == 0 { 0 } else { self.update_flops };
        StepFlops { model: model_flops + update, hardware: hardware_flops + update }
    }

    /// Ends training: gives back all memory but the parameters.
    pub fn finish(mut self, device: &mut dyn Device) -> (Box<dyn Model>, Store) {
        self.tape.forget(device);
        device.release(self.update);
        for store in [self.grads, self.m, self.v] {
            store.free(device);
        }
        for t in [self.decay_mask, self.norm, self.partials, self.state, self.ids, self.labels] {
            if let Place::Arena(arena) = t.place {
                device.free(arena);
            }
        }
        (self.model, self.params)
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
