//! A model in training on a device: parameters, gradients, AdamW moments, and the steps that the tape records.

use crate::bail;
use crate::data::loader::batch::Field;
use crate::device;
use crate::device::ops::{ALIGN, Accumulate, AdamW, GlobalNorm, Op, StepState};
use crate::device::{Device, Ticket};
use crate::error::{At, Result};
use crate::eval::held_out::{Means, read_losses, read_scores};
use crate::model::feed::Inputs;
use crate::model::params::ParamTable;
use crate::model::store::Store;
use crate::model::{BatchShape, EachLoss, Losses, Model, Scores};
use crate::tape::{LossOptions, Mode, StepCost, Tape, Var};
use crate::tensor::{DType, Place, Tensor};
use serde::{Deserialize, Serialize};

/// Hyperparameters of AdamW and of gradient clipping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// Decay rate of the first moments.
    pub beta1: f64,
    /// Decay rate of the second moments.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; parameters with `decay = false` are not decayed.
    pub weight_decay: f64,
    /// Gradients with a larger global norm are scaled down to this norm. Infinity disables clipping.
    pub clip: f64,
}

/// The data type that a step computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Everything in the device's own float type: f32, or f64 on the reference device.
    #[default]
    F32,
    /// Activations and their gradients in bf16; everything else in f32, including accumulators, losses and parameters.
    Bf16,
}

/// Options of training steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// Seed of dropout and stochastic depth.
    pub seed: u64,
    /// Activation recomputation: save only the inputs of blocks, and recompute the blocks in the backward pass.
    pub recompute: bool,
    pub precision: Precision,
    /// Label smoothing in training, in `[0, 1)`.
    pub smoothing: f64,
}

/// The results of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss over the batch, before the update.
    pub loss: f64,
    /// Global norm of the gradients, before clipping.
    pub grad_norm: f64,
}

/// A step that was launched and whose results have not been read yet.
#[derive(Clone, Copy, Debug)]
pub struct PendingStep {
    ticket: Ticket,
    /// Number of losses to read: one or two per micro-batch.
    losses: usize,
    /// Number of the update, for error messages.
    update: u64,
}

/// The optimizer state of AdamW: running averages of the gradients and of their squares.
#[derive(Clone, Debug)]
pub struct Moments {
    /// First moments, in the layout of the parameters.
    pub m: Store,
    /// Second moments, in the layout of the parameters.
    pub v: Store,
    /// Number of updates so far, for the bias corrections.
    pub updates: u64,
}

impl Moments {
    /// Allocates zeroed moments.
    ///
    /// # Errors
    /// Out of device memory.
    pub fn new(table: &ParamTable, device: &mut dyn Device) -> Result<Self> {
        let m = Store::new(table.clone(), device).at("first moments")?;
        let v = Store::new(table.clone(), device).at("second moments")?;
        Ok(Moments { m, v, updates: 0 })
    }

    /// Frees the device memory of both moments.
    pub fn free(self, device: &mut dyn Device) {
        self.m.free(device);
        self.v.free(device);
    }
}

/// FLOPs of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepFlops {
    /// FLOPs of the model, counting recomputed segments once.
    pub model: u64,
    /// FLOPs that the device computes, counting recomputed segments twice.
    pub hardware: u64,
}

/// A model with everything on the device that training it needs: parameters, gradients, optimizer state and inputs.
pub struct TrainState {
    pub model: Box<dyn Model>,
    /// Parameters, in the device's own float type: f32, or f64 on the reference device.
    pub params: Store,
    pub moments: Moments,
    grads: Store,
    /// A copy of the parameters in the type that steps compute in, if that is not the type of the parameters.
    compute: Option<Store>,
    /// `compute` is out of date: the parameters were written from outside.
    stale: bool,
    decay_mask: Tensor,
    /// The global gradient norm, followed by the losses of the step's micro-batches.
    metrics: Tensor,
    /// `[2]`: number of items that each loss scores in the whole batch of the step.
    scored: Tensor,
    /// Host buffer for reading `metrics`.
    measured: Vec<u8>,
    partials: Tensor,
    state: Tensor,
    inputs: Inputs,
    tape: Tape,
    vars: Vec<Var>,
    /// Score tensors of the last evaluation, for models of labelled examples.
    scores: Scores,
    update: [Op; 2],
    train_cost: StepCost,
    evaluation_flops: u64,
    optimizer: OptimizerConfig,
    options: Options,
    /// Number of micro-batches so far: each gets its own dropout masks.
    passes: u32,
}

impl TrainState {
    /// Takes over `params` and allocates everything else. Moments start at zero. `shape` is the shape of a micro-batch.
    ///
    /// # Errors
    /// Out of device memory; a precision that the device does not support.
    pub fn new(
        device: &mut dyn Device,
        model: Box<dyn Model>,
        params: Store,
        shape: impl Into<BatchShape>,
        optimizer: OptimizerConfig,
        options: Options,
    ) -> Result<Self> {
        let table = model.table().clone();
        let (n, float) = (table.elements(), options.precision.of(device)?);
        let compute = match float == device.float() {
            true => None,
            false => Some(Store::of(float, table.clone(), device).at("parameters in the compute type")?),
        };
        let grads = Store::new(table.clone(), device).at("gradients")?;
        let moments = Moments::new(&table, device)?;
        let decay_mask = device::alloc_tensor(device, DType::U8, &[n / ALIGN])?;
        device.write(&decay_mask, &mask(&table))?;
        let wide = device.float();
        let metrics = device::alloc_tensor(device, wide, &[3])?;
        let scored = device::alloc_tensor(device, wide, &[2])?;
        let partials = device::alloc_tensor(device, wide, &[GlobalNorm::partials(n)])?;
        let state = StepState::tensor(device.alloc(size_of::<StepState>())?);
        let inputs = Inputs::new(device, &*model, shape.into(), float)?;
        let OptimizerConfig { beta1, beta2, eps, weight_decay, clip } = optimizer;
        let (p, g) = (params.flat(), grads.flat());
        let norm = element(metrics, 0);
        let update = [
            Op::from(GlobalNorm { x: g, partials, norm }),
            Op::from(AdamW {
                params: p,
                grads: g,
                m: moments.m.flat(),
                v: moments.v.flat(),
                copy: compute.as_ref().map(Store::flat),
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
        Ok(TrainState {
            params,
            moments,
            grads,
            compute,
            stale: true,
            decay_mask,
            metrics,
            scored,
            measured: Vec::new(),
            partials,
            state,
            inputs,
            tape: Tape::new(float, state),
            vars: Vec::with_capacity(table.params.len()),
            scores: [None; 2],
            update,
            train_cost: StepCost::default(),
            evaluation_flops: 0,
            optimizer,
            options,
            passes: 0,
            model,
        })
    }

    /// Runs one training step and waits for it: forward and backward of all micro-batches, then one update.
    ///
    /// `fields` holds the inputs that change from step to step, for a whole number of micro-batches of the shape given
    /// to [`TrainState::new`]. The loss and the gradients are those of the mean over all scored items in `fields`, no
    /// matter how the items are distributed over micro-batches.
    ///
    /// # Errors
    /// Those of [`TrainState::launch_step`] and [`TrainState::report`].
    pub fn step(&mut self, device: &mut dyn Device, fields: &[Field], lr: f64) -> Result<StepReport> {
        let pending = self.launch_step(device, fields, lr)?;
        self.report(device, pending)
    }

    /// Runs [`TrainState::step`] for a model that predicts the next token. `ids` and `labels` are `[n * batch, time]`
    /// for n micro-batches.
    ///
    /// # Errors
    /// Those of [`TrainState::step`].
    pub fn step_tokens(&mut self, device: &mut dyn Device, ids: &[i32], labels: &[i32], lr: f64) -> Result<StepReport> {
        self.step(device, &[Field::Ints(ids.to_vec()), Field::Ints(labels.to_vec())], lr)
    }

    /// Launches a step without waiting for it. An asynchronous device can have several steps in flight.
    ///
    /// # Errors
    /// `fields` does not hold a whole number of micro-batches; errors of the device.
    pub fn launch_step(&mut self, device: &mut dyn Device, fields: &[Field], lr: f64) -> Result<PendingStep> {
        let micro = self.inputs.micro_batches(fields)?;
        self.moments.updates += 1;
        let correction = |beta: f64| (1.0 - beta.powf(self.moments.updates as f64)) as f32;
        let (bias1, bias2) = (correction(self.optimizer.beta1), correction(self.optimizer.beta2));
        // A step has at most two losses for each micro-batch.
        self.reserve_losses(device, 2 * micro)?;
        self.refresh(device)?;
        let (mut cost, mut losses) = (StepCost::default(), 0);
        self.write_scored(device, fields)?;
        let smoothing = self.options.smoothing;
        let options = [0, 1].map(|loss| {
            let scored = Some(element(self.scored, loss));
            LossOptions { scored, smoothing, ..LossOptions::default() }
        });
        for i in 0..micro {
            self.passes = self.passes.wrapping_add(1);
            let lr = lr as f32;
            let state = StepState { step: self.passes, lr, bias1, bias2, ..StepState::with_seed(self.options.seed) };
            device.write(&self.state, bytemuck::bytes_of(&state))?;
            let recorded = Recorded { mode: Mode::Train { accumulate: i > 0 }, update: i + 1 == micro };
            let (first, second) = self.record(device, (fields, i), recorded, options)?;
            let StepCost { model_flops, hardware_flops, activation_bytes } = self.tape.cost();
            cost.model_flops += model_flops;
            cost.hardware_flops += hardware_flops;
            cost.activation_bytes = cost.activation_bytes.max(activation_bytes);
            for loss in [Some(first), second].into_iter().flatten() {
                losses += 1;
                device.copy(&self.tape.value(loss)?, &element(self.metrics, losses))?;
            }
        }
        self.train_cost = cost;
        let measured = self.metrics.row_block(0, 1).columns(0, 1 + losses);
        Ok(PendingStep { ticket: device.read_async(&measured)?, losses, update: self.moments.updates })
    }

    /// Writes the divisors of the mean losses to the device: how many items each loss scores in `fields`.
    fn write_scored(&mut self, device: &mut dyn Device, fields: &[Field]) -> Result<()> {
        let scored = self.inputs.scored(fields).map(|count| count as f64);
        match self.scored.dtype() {
            DType::F64 => device.write(&self.scored, bytemuck::cast_slice(&scored)),
            // Exact up to 2^24 items; above, the relative error is at most 2^-24.
            _ => device.write(&self.scored, bytemuck::cast_slice(&scored.map(|count| count as f32))),
        }
    }

    /// Waits for a launched step and returns its loss and gradient norm.
    ///
    /// # Errors
    /// A loss or gradient norm that is not finite: training has diverged. Errors of the device.
    pub fn report(&mut self, device: &mut dyn Device, pending: PendingStep) -> Result<StepReport> {
        let PendingStep { ticket, losses, update } = pending;
        let size = self.metrics.dtype().bytes();
        self.measured.resize((1 + losses) * size, 0);
        device.wait_read(ticket, &mut self.measured)?;
        let number = |bytes: &[u8]| match bytes.try_into() {
            Ok(double) => f64::from_le_bytes(double),
            Err(_) => f64::from(bytes.try_into().map_or(f32::NAN, f32::from_le_bytes)),
        };
        let mut numbers = self.measured.chunks_exact(size).map(number);
        let grad_norm = numbers.next().unwrap_or(f64::NAN);
        let report = StepReport { loss: numbers.sum(), grad_norm };
        if !report.loss.is_finite() || !report.grad_norm.is_finite() {
            bail!(
                "training diverged: loss {} and gradient norm {} at update {update}; lower the learning rate or \
                 lengthen the warm-up",
                report.loss,
                report.grad_norm
            );
        }
        Ok(report)
    }

    /// Returns the gradients of the last step, before clipping.
    pub fn grads(&self) -> &Store {
        &self.grads
    }

    /// Marks the compute copy of the parameters as out of date. Call it after writing to `params`.
    pub fn params_changed(&mut self) {
        self.stale = true;
    }

    /// Updates the compute copy of the parameters if it is out of date.
    fn refresh(&mut self, device: &mut dyn Device) -> Result<()> {
        if let (Some(compute), true) = (&self.compute, self.stale) {
            device.run(&Accumulate { x: self.params.flat(), out: compute.flat(), add: false }.into())?;
        }
        self.stale = false;
        Ok(())
    }

    /// Grows `metrics` to hold this number of losses.
    fn reserve_losses(&mut self, device: &mut dyn Device, losses: usize) -> Result<()> {
        if self.metrics.numel() <= losses {
            let wide = self.metrics.dtype();
            let larger = device::alloc_tensor(device, wide, &[1 + losses])?;
            free(device, std::mem::replace(&mut self.metrics, larger));
            if let Op::GlobalNorm(op) = &mut self.update[0] {
                op.norm = element(larger, 0);
            }
            if let Op::AdamW(op) = &mut self.update[1] {
                op.norm = element(larger, 0);
            }
        }
        Ok(())
    }

    /// Copies `moments`, with their number of updates, into this state's own.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn adopt(&mut self, device: &mut dyn Device, moments: &Moments) -> Result<()> {
        device.copy(&moments.m.flat(), &self.moments.m.flat())?;
        device.copy(&moments.v.flat(), &self.moments.v.flat())?;
        self.moments.updates = moments.updates;
        Ok(())
    }

    /// Sets the number of micro-batches trained on so far, when training resumes.
    pub fn count_from(&mut self, passes: u32) {
        self.passes = passes;
    }

    /// Returns the number of micro-batches trained on so far.
    pub fn passes(&self) -> u32 {
        self.passes
    }

    /// Runs the forward pass of one micro-batch, without dropout, and adds its losses to `means`.
    ///
    /// # Errors
    /// `fields` does not hold exactly one micro-batch; errors of the device.
    pub fn evaluate(&mut self, device: &mut dyn Device, fields: &[Field], means: &mut Means) -> Result<()> {
        let micro = self.inputs.micro_batches(fields)?;
        if micro != 1 {
            bail!("evaluation takes one micro-batch, but the fields hold {micro}");
        }
        self.refresh(device)?;
        let recorded = Recorded { mode: Mode::Evaluate, update: false };
        let (first, second) = self.record(device, (fields, 0), recorded, EachLoss::default())?;
        self.evaluation_flops = self.tape.cost().model_flops;
        means.add(read_losses(device, &self.tape, [Some(first), second])?, self.inputs.scored(fields));
        Ok(())
    }

    /// Returns the scores of the last evaluation's examples, as [`read_scores`] does.
    ///
    /// # Errors
    /// Errors of the device; the device or the tape has been used since that evaluation.
    pub fn scores(&self, device: &mut dyn Device) -> Result<Vec<f32>> {
        read_scores(device, &self.tape, self.scores)
    }

    /// Writes micro-batch `number` of `fields` to the device, records its passes and runs them.
    fn record(
        &mut self,
        device: &mut dyn Device,
        (fields, number): (&[Field], usize),
        Recorded { mode, update }: Recorded,
        options: EachLoss,
    ) -> Result<Losses> {
        self.inputs.write(device, fields, number)?;
        let tape = &mut self.tape;
        tape.begin(mode);
        let inputs = self.inputs.declare(tape);
        let weights = self.compute.as_ref().unwrap_or(&self.params);
        match mode {
            Mode::Evaluate => weights.declare_frozen(tape, &mut self.vars),
            Mode::Train { .. } => weights.declare(tape, &self.grads, &mut self.vars),
        }
        let (losses, scores) = match mode {
            Mode::Evaluate => self.model.evaluation(tape, &self.vars, inputs),
            Mode::Train { .. } => {
                (self.model.loss(tape, &self.vars, inputs, options, self.options.recompute), [None; 2])
            }
        };
        self.scores = scores;
        let pair = [losses.0, losses.1.unwrap_or(losses.0)];
        let all = &pair[..1 + usize::from(losses.1.is_some())];
        match mode {
            Mode::Evaluate => all.iter().chain(scores.iter().flatten()).for_each(|value| tape.keep(*value)),
            Mode::Train { .. } => tape.backward(all),
        }
        if update {
            self.update.iter().for_each(|op| tape.append(*op));
        }
        tape.run(device)?;
        Ok(losses)
    }

    /// Returns the FLOPs of the last training step, including the update. Zero before the first step.
    pub fn step_flops(&self) -> StepFlops {
        StepFlops { model: self.train_cost.model_flops, hardware: self.train_cost.hardware_flops }
    }

    /// Returns the bytes of activations in the last training step. Zero before the first one.
    pub fn activation_bytes(&self) -> usize {
        self.train_cost.activation_bytes
    }

    /// Returns the FLOPs of the last evaluation batch. Zero before the first one.
    pub fn evaluation_flops(&self) -> u64 {
        self.evaluation_flops
    }

    /// Ends training: frees all device memory except the parameters and returns these with their model.
    pub fn finish(self, device: &mut dyn Device) -> (Box<dyn Model>, Store) {
        let (model, params, moments) = self.finish_keeping_moments(device);
        moments.free(device);
        (model, params)
    }

    /// Like [`TrainState::finish`], but keeps the moments as well.
    pub fn finish_keeping_moments(mut self, device: &mut dyn Device) -> (Box<dyn Model>, Store, Moments) {
        self.tape.forget(device);
        self.grads.free(device);
        self.compute.into_iter().for_each(|store| store.free(device));
        let own = [self.decay_mask, self.metrics, self.scored, self.partials, self.state];
        for t in own.into_iter().chain(self.inputs.memory()) {
            free(device, t);
        }
        (self.model, self.params, self.moments)
    }
}

/// The mode of a recorded pass, and whether the optimizer update is appended to it.
#[derive(Clone, Copy)]
struct Recorded {
    mode: Mode,
    update: bool,
}

impl Precision {
    /// Returns the data type that a device computes in at this precision.
    ///
    /// # Errors
    /// The device does not support it. The message names the devices that do.
    pub fn of(self, device: &dyn Device) -> Result<DType> {
        match self {
            Precision::F32 => Ok(device.float()),
            Precision::Bf16 if device.computes_in(DType::BF16) => Ok(DType::BF16),
            Precision::Bf16 => bail!(
                "train.precision: the device {} does not compute in bf16; use \"f32\", or --device cuda or emulator",
                device.name()
            ),
        }
    }
}

fn element(t: Tensor, i: usize) -> Tensor {
    Tensor::new(t.place(), t.dtype(), i, &[1])
}

fn free(device: &mut dyn Device, t: Tensor) {
    if let Place::Arena(arena) = t.place() {
        device.free(arena);
    }
}

/// Returns one byte per [`ALIGN`] elements of the arena: 1 if weight decay applies to them, else 0.
fn mask(table: &ParamTable) -> Vec<u8> {
    let mut mask = vec![0; table.elements() / ALIGN];
    for (i, param) in table.params.iter().enumerate() {
        let end = if i + 1 < table.params.len() { table.offset(i + 1) } else { table.elements() };
        mask[table.offset(i) / ALIGN..end / ALIGN].fill(u8::from(param.decay));
    }
    mask
}
