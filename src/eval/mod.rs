//! What a model is worth: perplexity on text, last words of passages, text of its own, agreement with labels.

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

/// A GPT on a device, for forward passes alone.
pub struct Forward<'a> {
    pub gpt: &'a Gpt,
    store: &'a Store,
    tape: Tape,
    vars: Vec<Var>,
    state: Tensor,
    ids: Tensor,
    labels: Tensor,
}

impl<'a> Forward<'a> {
    /// For up to `batch` sequences of up to `time` tokens.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(device: &mut dyn Device, gpt: &'a Gpt, store: &'a Store, (batch, time): (usize, usize)) -> Result<Self> {
        let state = StepState::tensor(device.alloc(size_of::<StepState>())?);
        let ids = device::alloc_tensor(device, DType::I32, &[batch, time])?;
        let labels = device::alloc_tensor(device, DType::I32, &[batch, time])?;
        Ok(Forward { gpt, store, tape: Tape::new(device.float(), state), vars: Vec::new(), state, ids, labels })
    }

    fn inputs(&mut self, device: &mut dyn Device, ids: &[i32], dims: [usize; 2]) -> Result<Var> {
        let view = Tensor::new(self.ids.place(), DType::I32, 0, &dims);
        device.write(&view, bytemuck::cast_slice(ids))?;
        self.tape.begin(Mode::Evaluate);
        self.store.declare_frozen(&mut self.tape, &mut self.vars);
        Ok(self.tape.input(view))
    }

    /// Mean loss of a batch `[B, T]`.
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

    /// Logits of a batch, `[B T, V]` row by row.
    ///
    /// # Errors
    /// As [`Forward::loss`].
    pub fn logits(&mut self, device: &mut dyn Device, ids: &[i32], dims: [usize; 2]) -> Result<Vec<f32>> {
        let input = self.inputs(device, ids, dims)?;
        let hidden = self.gpt.hidden(&mut self.tape, &self.vars, input, false, |_, _| {});
        let logits = self.gpt.logits(&mut self.tape, &self.vars, hidden);
        self.tape.keep(logits);
        self.tape.run(device)?;
        device::read_f32(device, &self.tape.value(logits)?)
    }

    /// Logits `[V]` after the last token of one sequence, which may be shorter than `dims` were: what follows is padding
    /// that a causal model does not see.
    ///
    /// # Errors
    /// As [`Forward::loss`].
    pub fn next(&mut self, device: &mut dyn Device, ids: &[i32], last: usize) -> Result<Vec<f32>> {
        let input = self.inputs(device, ids, [1, ids.len()])?;
        let hidden = self.gpt.hidden(&mut self.tape, &self.vars, input, false, |_, _| {});
        // The head sees one row: over the whole padded sequence it would cost T times as much.
        let last = self.tape.row(hidden, last);
        let logits = self.gpt.logits(&mut self.tape, &self.vars, last);
        self.tape.keep(logits);
        self.tape.run(device)?;
        device::read_f32(device, &self.tape.value(logits)?)
    }

    /// Gives back all memory.
    pub fn free(mut self, device: &mut dyn Device) {
        self.tape.forget(device);
        for t in [self.state, self.ids, self.labels] {
            if let Place::Arena(arena) = t.place() {
                device.free(arena);
            }
        }
    }
}
