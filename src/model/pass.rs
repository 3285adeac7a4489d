//! Records passes of a model and runs them: what training and evaluation have in common.

use super::feed::Inputs;
use super::store::Store;
use super::{BatchShape, EachLoss, Losses, Model, Scores};
use crate::bail;
use crate::data::loader::batch::Field;
use crate::device::{self, Device};
use crate::error::Result;
use crate::tape::{Mode, StepCost, Tape, Var};
use crate::tensor::{DType, Place, Tensor};

/// The tape and the inputs of one model.
pub struct Pass {
    inputs: Inputs,
    tape: Tape,
    vars: Vec<Var>,
    /// Score tensors of the last evaluation, for models of labelled examples.
    scores: Scores,
}

/// The weights of a training pass, and where their gradients go.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// The parameters, in the type that the pass computes in.
    pub params: &'a Store,
    /// The gradients, in the layout of `params`.
    pub grads: &'a Store,
    /// Add to the gradients instead of overwriting them.
    pub accumulate: bool,
}

impl Pass {
    /// Allocates the inputs of a micro-batch of this shape, for passes that compute in `float`. `state` is the
    /// [`StepState`](crate::device::ops::StepState) that dropout reads.
    ///
    /// # Errors
    /// Out of device memory.
    pub fn new(
        device: &mut dyn Device,
        model: &dyn Model,
        shape: BatchShape,
        float: DType,
        state: Tensor,
    ) -> Result<Self> {
        let inputs = Inputs::new(device, model, shape, float)?;
        let vars = Vec::with_capacity(model.table().params.len());
        Ok(Pass { inputs, tape: Tape::new(float, state), vars, scores: [None; 2] })
    }

    /// Returns the number of micro-batches in `fields`, which are the inputs that change from step to step.
    ///
    /// # Errors
    /// See [`Inputs::micro_batches`].
    pub fn micro_batches(&self, fields: &[Field]) -> Result<usize> {
        self.inputs.micro_batches(fields)
    }

    /// Returns the number of items that each loss scores in `fields`.
    pub fn scored(&self, fields: &[Field]) -> [usize; 2] {
        self.inputs.scored(fields)
    }

    /// Runs forward and backward pass of micro-batch `number` of `fields`. The losses stay on the tape until the next
    /// pass: see [`Pass::value`].
    ///
    /// # Errors
    /// Errors of the device.
    pub fn train(
        &mut self,
        device: &mut dyn Device,
        model: &dyn Model,
        weights: Weights<'_>,
        (fields, number): (&[Field], usize),
        (options, recompute): (EachLoss, bool),
    ) -> Result<Losses> {
        self.inputs.write(device, fields, number)?;
        let tape = &mut self.tape;
        tape.begin(Mode::Train { accumulate: weights.accumulate });
        let inputs = self.inputs.declare(tape);
        weights.params.declare(tape, weights.grads, &mut self.vars);
        let losses = model.loss(tape, &self.vars, inputs, options, recompute);
        let pair = [losses.0, losses.1.unwrap_or(losses.0)];
        tape.backward(&pair[..1 + usize::from(losses.1.is_some())]);
        tape.run(device)?;
        Ok(losses)
    }

    /// Runs the forward pass of one micro-batch, without dropout, and returns its losses.
    ///
    /// # Errors
    /// `fields` does not hold exactly one micro-batch; errors of the device.
    pub fn evaluate(
        &mut self,
        device: &mut dyn Device,
        model: &dyn Model,
        params: &Store,
        fields: &[Field],
    ) -> Result<[Option<f64>; 2]> {
        let micro = self.inputs.micro_batches(fields)?;
        if micro != 1 {
            bail!("evaluation takes one micro-batch, but the fields hold {micro}");
        }
        self.inputs.write(device, fields, 0)?;
        let tape = &mut self.tape;
        tape.begin(Mode::Evaluate);
        let inputs = self.inputs.declare(tape);
        params.declare_frozen(tape, &mut self.vars);
        let ((first, second), scores) = model.evaluation(tape, &self.vars, inputs);
        self.scores = scores;
        let losses = [Some(first), second];
        losses.iter().chain(&scores).flatten().for_each(|value| tape.keep(*value));
        tape.run(device)?;
        let mut values = [None; 2];
        for (value, loss) in values.iter_mut().zip(losses) {
            *value = loss.map(|loss| device::read_scalar(device, &self.tape.value(loss)?)).transpose()?;
        }
        Ok(values)
    }

    /// Reads the scores of the last evaluation's examples in row-major order, summed over the heads. Returns an empty
    /// vector for models without scores.
    ///
    /// # Errors
    /// Errors of the device; another pass has run since that evaluation.
    pub fn scores(&self, device: &mut dyn Device) -> Result<Vec<f32>> {
        let mut sums = Vec::new();
        for head in self.scores.into_iter().flatten() {
            let scores = device::read_f32(device, &self.tape.value(head)?)?;
            match sums.is_empty() {
                true => sums = scores,
                false => sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score),
            }
        }
        Ok(sums)
    }

    /// Returns where a value of the last pass is in device memory.
    ///
    /// # Errors
    /// Another pass has run since, or the value was not kept.
    pub fn value(&self, var: Var) -> Result<Tensor> {
        self.tape.value(var)
    }

    /// Returns the cost of the last pass.
    pub fn cost(&self) -> StepCost {
        self.tape.cost()
    }

    /// Frees the tape's and the inputs' device memory.
    pub fn free(mut self, device: &mut dyn Device) {
        self.tape.forget(device);
        for tensor in self.inputs.memory() {
            if let Place::Arena(arena) = tensor.place() {
                device.free(arena);
            }
        }
    }
}
