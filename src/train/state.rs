//! A model in training on a device: parameters, gradients, optimizer state, and the steps that train it.

use super::updater::{self, Updater};
use crate::bail;
use crate::config::Precision;
use crate::data::loader::batch::Field;
use crate::device;
use crate::device::ops::{Accumulate, StepState};
use crate::device::{Device, PendingRead};
use crate::error::{At, Result};
use crate::eval::held_out::Means;
use crate::model::pass::{Pass, Weights};
use crate::model::store::Store;
use crate::model::{BatchShape, EachLoss, Model};
use crate::optim;
use crate::tape::{LossOptions, StepCost};
use crate::tensor::{DType, Place, Tensor};

/// Options of training steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// Seed of dropout and stochastic depth.
    pub seed: u64,
    /// Activation recomputation: save only the inputs of blocks, and recompute the blocks in the backward pass.
    pub recompute: bool,
    /// The data type that passes compute in.
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
    ticket: PendingRead,
    /// Number of losses to read: one or two per micro-batch.
    losses: usize,
    /// Number of the update, for error messages.
    update: u64,
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
    /// The model: its parameter table and its forward pass.
    pub model: Box<dyn Model>,
    /// Parameters, in the device's own float type: f32, or f64 on the reference device.
    pub params: Store,
    grads: Store,
    compute: Compute,
    pass: Pass,
    updater: Updater,
    results: StepResults,
    /// The [`StepState`] that kernels read.
    state: Tensor,
    /// Cost of the last training step.
    cost: StepCost,
    /// FLOPs of the last evaluation batch.
    evaluation_flops: u64,
    options: Options,
    /// Number of micro-batches so far: each gets its own dropout masks.
    passes: u32,
}

/// The parameters in the type that passes compute in.
struct Compute {
    /// `None`: passes compute in the type of the parameters.
    copy: Option<Store>,
    /// The copy is out of date: the parameters were written from outside.
    stale: bool,
}

impl Compute {
    /// Returns the weights that passes compute with, brought up to date.
    fn weights<'a>(&'a mut self, device: &mut dyn Device, params: &'a Store) -> Result<&'a Store> {
        if let (Some(copy), true) = (&self.copy, self.stale) {
            device.run(&Accumulate { x: params.flat(), out: copy.flat(), add: false }.into())?;
        }
        self.stale = false;
        Ok(self.copy.as_ref().unwrap_or(params))
    }
}

/// What a step measures, in device memory and on its way to the host.
struct StepResults {
    /// The global gradient norm, followed by the losses of the step's micro-batches.
    values: Tensor,
    /// `[2]`: number of items that each loss scores in the whole batch of the step.
    scored: Tensor,
    /// Host buffer for reading `values`.
    buffer: Vec<u8>,
}

impl StepResults {
    fn new(device: &mut dyn Device) -> Result<Self> {
        let float = device.float();
        let values = device::alloc_tensor(device, float, &[3])?;
        let scored = device::alloc_tensor(device, float, &[2])?;
        Ok(StepResults { values, scored, buffer: Vec::new() })
    }

    /// Grows the memory to hold this number of losses.
    fn reserve(&mut self, device: &mut dyn Device, losses: usize) -> Result<()> {
        if self.values.numel() <= losses {
            let larger = device::alloc_tensor(device, self.values.dtype(), &[1 + losses])?;
            free(device, std::mem::replace(&mut self.values, larger));
        }
        Ok(())
    }

    /// Writes the divisors of the mean losses to the device: how many items each loss scores in the step.
    fn write_scored(&self, device: &mut dyn Device, scored: [usize; 2]) -> Result<()> {
        let scored = scored.map(|count| count as f64);
        match self.scored.dtype() {
            DType::F64 => device.write(&self.scored, bytemuck::cast_slice(&scored)),
            // Exact up to 2^24 items; above, the relative error is at most 2^-24.
            _ => device.write(&self.scored, bytemuck::cast_slice(&scored.map(|count| count as f32))),
        }
    }

    /// Waits for the results of a step: the gradient norm and the sum of the losses.
    fn wait(&mut self, device: &mut dyn Device, pending: PendingStep) -> Result<StepReport> {
        let size = self.values.dtype().bytes();
        self.buffer.resize((1 + pending.losses) * size, 0);
        device.wait_read(pending.ticket, &mut self.buffer)?;
        let number = |bytes: &[u8]| match bytes.try_into() {
            Ok(double) => f64::from_le_bytes(double),
            Err(_) => f64::from(bytes.try_into().map_or(f32::NAN, f32::from_le_bytes)),
        };
        let mut numbers = self.buffer.chunks_exact(size).map(number);
        let grad_norm = numbers.next().unwrap_or(f64::NAN);
        Ok(StepReport { loss: numbers.sum(), grad_norm })
    }
}

impl TrainState {
    /// Takes over `params` and allocates everything else. The optimizer state starts at zero. `shape` is the shape of a
    /// micro-batch.
    ///
    /// # Errors
    /// Out of device memory; a precision that the device does not support.
    pub fn new(
        device: &mut dyn Device,
        model: Box<dyn Model>,
        params: Store,
        shape: impl Into<BatchShape>,
        optimizer: optim::Config,
        options: Options,
    ) -> Result<Self> {
        let (table, float) = (model.table(), options.precision.of(device)?);
        let copy = match float == device.float() {
            true => None,
            false => Some(Store::of(float, table.clone(), device).at("parameters in the compute type")?),
        };
        let grads = Store::new(table.clone(), device).at("gradients")?;
        let updater = Updater::new(device, optimizer, table)?;
        let results = StepResults::new(device)?;
        let state = StepState::tensor(device.alloc(size_of::<StepState>())?);
        let pass = Pass::new(device, &*model, shape.into(), float, state)?;
        Ok(TrainState {
            params,
            grads,
            compute: Compute { copy, stale: true },
            pass,
            updater,
            results,
            state,
            cost: StepCost::default(),
            evaluation_flops: 0,
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
    /// Those of [`TrainState::launch_step`] and [`TrainState::wait_step`].
    pub fn step(&mut self, device: &mut dyn Device, fields: &[Field], lr: f64) -> Result<StepReport> {
        let pending = self.launch_step(device, fields, lr)?;
        self.wait_step(device, pending)
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
        let micro = self.pass.micro_batches(fields)?;
        let [bias1, bias2] = self.updater.next_update();
        // A step has at most two losses for each micro-batch.
        self.results.reserve(device, 2 * micro)?;
        let params = self.compute.weights(device, &self.params)?;
        self.results.write_scored(device, self.pass.scored(fields))?;
        let smoothing = self.options.smoothing;
        let options: EachLoss = [0, 1].map(|loss| {
            let scored = Some(element(self.results.scored, loss));
            LossOptions { scored, smoothing, ..LossOptions::default() }
        });
        let (mut cost, mut losses) = (StepCost::default(), 0);
        for i in 0..micro {
            self.passes = self.passes.wrapping_add(1);
            let lr = lr as f32;
            let state = StepState { step: self.passes, lr, bias1, bias2, ..StepState::with_seed(self.options.seed) };
            device.write(&self.state, bytemuck::bytes_of(&state))?;
            let weights = Weights { params, grads: &self.grads, accumulate: i > 0 };
            let options = (options, self.options.recompute);
            let (first, second) = self.pass.train(device, &*self.model, weights, (fields, i), options)?;
            let StepCost { model_flops, hardware_flops, activation_bytes } = self.pass.cost();
            cost.model_flops += model_flops;
            cost.hardware_flops += hardware_flops;
            cost.activation_bytes = cost.activation_bytes.max(activation_bytes);
            for loss in [Some(first), second].into_iter().flatten() {
                losses += 1;
                device.copy(&self.pass.value(loss)?, &element(self.results.values, losses))?;
            }
        }
        let step = updater::Step {
            params: &self.params,
            grads: &self.grads,
            compute: self.compute.copy.as_ref(),
            norm: element(self.results.values, 0),
            state: self.state,
        };
        let update_flops = self.updater.run(device, step)?;
        cost.model_flops += update_flops;
        cost.hardware_flops += update_flops;
        self.cost = cost;
        let measured = self.results.values.row_block(0, 1).columns(0, 1 + losses);
        Ok(PendingStep { ticket: device.read_async(&measured)?, losses, update: self.updater.state.updates })
    }

    /// Waits for a launched step and returns its loss and gradient norm.
    ///
    /// # Errors
    /// A loss or gradient norm that is not finite: training has diverged. Errors of the device.
    pub fn wait_step(&mut self, device: &mut dyn Device, pending: PendingStep) -> Result<StepReport> {
        let StepReport { loss, grad_norm } = self.results.wait(device, pending)?;
        if !loss.is_finite() || !grad_norm.is_finite() {
            bail!(
                "training diverged: loss {loss} and gradient norm {grad_norm} at update {}; lower the learning rate or \
                 lengthen the warm-up",
                pending.update
            );
        }
        Ok(StepReport { loss, grad_norm })
    }

    /// Returns the gradients of the last step, before clipping.
    pub fn grads(&self) -> &Store {
        &self.grads
    }

    /// Returns the optimizer state.
    pub fn optimizer_state(&self) -> &optim::State {
        &self.updater.state
    }

    /// Returns the optimizer state, to write it.
    pub fn optimizer_state_mut(&mut self) -> &mut optim::State {
        &mut self.updater.state
    }

    /// Marks the compute copy of the parameters as out of date. Call it after writing to `params`.
    pub fn params_changed(&mut self) {
        self.compute.stale = true;
    }

    /// Sets the number of micro-batches trained on so far, when training resumes.
    pub fn set_passes(&mut self, passes: u32) {
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
        let params = self.compute.weights(device, &self.params)?;
        let losses = self.pass.evaluate(device, &*self.model, params, fields)?;
        self.evaluation_flops = self.pass.cost().model_flops;
        means.add(losses, self.pass.scored(fields));
        Ok(())
    }

    /// Returns the scores of the last evaluation's examples: see [`Pass::scores`].
    ///
    /// # Errors
    /// Errors of the device; the device or the tape has been used since that evaluation.
    pub fn scores(&self, device: &mut dyn Device) -> Result<Vec<f32>> {
        self.pass.scores(device)
    }

    /// Returns the FLOPs of the last training step, including the update. Zero before the first step.
    pub fn step_flops(&self) -> StepFlops {
        StepFlops { model: self.cost.model_flops, hardware: self.cost.hardware_flops }
    }

    /// Returns the bytes of activations in the last training step. Zero before the first one.
    pub fn activation_bytes(&self) -> usize {
        self.cost.activation_bytes
    }

    /// Returns the FLOPs of the last evaluation batch. Zero before the first one.
    pub fn evaluation_flops(&self) -> u64 {
        self.evaluation_flops
    }

    /// Ends training: frees all device memory except the parameters and returns these with their model.
    pub fn finish(self, device: &mut dyn Device) -> (Box<dyn Model>, Store) {
        let (model, params, optimizer) = self.finish_keeping_optimizer(device);
        optimizer.free(device);
        (model, params)
    }

    /// Like [`TrainState::finish`], but keeps the optimizer state as well.
    pub fn finish_keeping_optimizer(self, device: &mut dyn Device) -> (Box<dyn Model>, Store, optim::State) {
        self.pass.free(device);
        let optimizer = self.updater.finish(device);
        self.grads.free(device);
        self.compute.copy.into_iter().for_each(|store| store.free(device));
        for t in [self.results.values, self.results.scored, self.state] {
            free(device, t);
        }
        (self.model, self.params, optimizer)
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
