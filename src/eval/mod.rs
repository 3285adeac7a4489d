//! Evaluates models: held-out loss, perplexity, last-word prediction (LAMBADA), metrics on labelled examples, and text
//! generation.

pub mod generate;
pub mod held_out;
pub mod lambada;
pub mod metrics;
pub mod perplexity;

use crate::device::ops::StepState;
use crate::device::{self, Device};
use crate::error::Result;
use crate::model::gpt::Gpt;
use crate::model::store::Store;
use crate::model::{EachLoss, Model};
use crate::tape::{Mode, Tape, Var};
use crate::tensor::{DType, Place, Tensor};

/// A GPT on a device, for forward passes without gradients.
pub struct Forward<'a> {
    /// The model.
    pub gpt: &'a Gpt,
    store: &'a Store,
    tape: Tape,
    vars: Vec<Var>,
    state: Tensor,
    ids: Tensor,
    labels: Tensor,
}

impl<'a> Forward<'a> {
    /// Allocates memory for up to `batch` sequences of up to `time` tokens.
    ///
    /// # Errors
    /// Out of device memory.
    pub fn new(device: &mut dyn Device, gpt: &'a Gpt, store: &'a Store, (batch, time): (usize, usize)) -> Result<Self> {
        let state = StepState::tensor(device.alloc(size_of::<StepState>())?);
        let ids = device::alloc_tensor(device, DType::I32, &[batch, time])?;
        let labels = device::alloc_tensor(device, DType::I32, &[batch, time])?;
        Ok(Forward { gpt, store, tape: Tape::new(device.float(), state), vars: Vec::new(), state, ids, labels })
    }

    /// Begins a recording and declares the parameters and the ids, of shape `dims`.
    fn inputs(&mut self, device: &mut dyn Device, ids: &[i32], dims: [usize; 2]) -> Result<Var> {
        let view = Tensor::new(self.ids.place(), DType::I32, 0, &dims);
        device.write(&view, bytemuck::cast_slice(ids))?;
        self.tape.begin(Mode::Evaluate);
        self.store.declare_frozen(&mut self.tape, &mut self.vars);
        Ok(self.tape.input(view))
    }

    /// Returns the mean loss of a batch; `dims` is `[B, T]`.
    ///
    /// # Errors
    /// Ids outside the vocabulary; errors of the device.
    pub fn loss(&mut self, device: &mut dyn Device, ids: &[i32], labels: &[i32], dims: [usize; 2]) -> Result<f64> {
        let input = self.inputs(device, ids, dims)?;
        let view = Tensor::new(self.labels.place(), DType::I32, 0, &dims);
        device.write(&view, bytemuck::cast_slice(labels))?;
        let labels = self.tape.input(view);
        let inputs = [input, labels];
        let (loss, _) = self.gpt.loss(&mut self.tape, &self.vars, &inputs, EachLoss::default(), false);
        self.tape.keep(loss);
        self.tape.run(device)?;
        device::read_scalar(device, &self.tape.value(loss)?)
    }

    /// Returns the logits of a batch, `[B * T, V]` in row-major order; `dims` is `[B, T]`.
    ///
    /// # Errors
    /// Those of [`Forward::loss`].
    pub fn logits(&mut self, device: &mut dyn Device, ids: &[i32], dims: [usize; 2]) -> Result<Vec<f32>> {
        let input = self.inputs(device, ids, dims)?;
        let hidden = self.gpt.hidden(&mut self.tape, &self.vars, input, false, |_, _| {});
        let logits = self.gpt.logits(&mut self.tape, &self.vars, hidden);
        self.tape.keep(logits);
        self.tape.run(device)?;
        device::read_f32(device, &self.tape.value(logits)?)
    }

    /// Returns the logits `[V]` for the token after position `last` of one sequence. The tokens behind `last` are
    /// padding, which a causal model does not see.
    ///
    /// # Errors
    /// Those of [`Forward::loss`].
    pub fn next(&mut self, device: &mut dyn Device, ids: &[i32], last: usize) -> Result<Vec<f32>> {
        let input = self.inputs(device, ids, [1, ids.len()])?;
        let hidden = self.gpt.hidden(&mut self.tape, &self.vars, input, false, |_, _| {});
        // Apply the head to one row only: on the whole padded sequence it would cost T times as much.
        let last = self.tape.row(hidden, last);
        let logits = self.gpt.logits(&mut self.tape, &self.vars, last);
        self.tape.keep(logits);
        self.tape.run(device)?;
        device::read_f32(device, &self.tape.value(logits)?)
    }

    /// Frees all device memory except the parameters.
    pub fn free(mut self, device: &mut dyn Device) {
        self.tape.forget(device);
        for t in [self.state, self.ids, self.labels] {
            if let Place::Arena(arena) = t.place() {
                device.free(arena);
            }
        }
    }
}
