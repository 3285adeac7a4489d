//! Device memory for the inputs of a model, and copying batches there.

use super::{BatchShape, Content, Model};
use crate::bail;
use crate::data::loader::batch::Field;
use crate::device;
use crate::device::Device;
use crate::error::{At, Result};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};

/// The device memory of one input.
#[derive(Debug)]
struct Slot {
    name: &'static str,
    memory: Tensor,
    /// Whether the input is the same for every step.
    fixed: bool,
    /// The losses, by number, for which this input holds the labels.
    scores: &'static [usize],
}

/// Device memory for the inputs of one micro-batch, in the order of [`Model::inputs`].
#[derive(Debug)]
pub struct Inputs {
    slots: Vec<Slot>,
    /// The inputs on the tape.
    vars: Vec<Var>,
}

impl Inputs {
    /// Allocates the inputs for steps of this shape that compute in `float`, and writes the fixed ones.
    ///
    /// # Errors
    /// Out of device memory.
    pub fn new(device: &mut dyn Device, model: &dyn Model, shape: BatchShape, float: DType) -> Result<Self> {
        let mut slots = Vec::new();
        for input in model.inputs(shape) {
            let memory = device::alloc_tensor(device, input.dtype(float), &input.dims).at(input.name)?;
            let fixed = matches!(input.content, Content::Fixed(_));
            if let Content::Fixed(values) = &input.content {
                device.write(&memory, bytemuck::cast_slice(values))?;
            }
            slots.push(Slot { name: input.name, memory, fixed, scores: input.scores });
        }
        Ok(Inputs { vars: Vec::with_capacity(slots.len()), slots })
    }

    /// Returns the inputs that change from step to step.
    fn changing(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| !slot.fixed)
    }

    /// Returns the number of micro-batches in `fields`, which are the changing inputs.
    ///
    /// # Errors
    /// The number of fields is wrong, or they do not hold the same whole number of micro-batches.
    pub fn micro_batches(&self, fields: &[Field]) -> Result<usize> {
        let count = self.changing().count();
        if fields.len() != count {
            bail!("got {} fields, but the model takes {count}", fields.len());
        }
        let mut micro = None;
        for (slot, values) in self.changing().zip(fields) {
            let size = slot.memory.numel();
            let here = values.len() / size.max(1);
            if values.is_empty() || !values.len().is_multiple_of(size) || micro.is_some_and(|n| n != here) {
                bail!("{} values of {} are not a whole number of batches of {size}", values.len(), slot.name);
            }
            micro = Some(here);
        }
        Ok(micro.unwrap_or(0))
    }

    /// Returns the number of items that each loss scores in `fields`. The mean loss is over these, however the batch is
    /// divided into micro-batches.
    pub fn scored(&self, fields: &[Field]) -> [usize; 2] {
        let mut scored = [0; 2];
        for (slot, values) in self.changing().zip(fields) {
            slot.scores.iter().for_each(|&loss| scored[loss] += values.scored());
        }
        scored
    }

    /// Copies micro-batch `number` of `fields` to the device.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn write(&self, device: &mut dyn Device, fields: &[Field], number: usize) -> Result<()> {
        for (slot, values) in self.changing().zip(fields) {
            let size = slot.memory.numel();
            let part = number * size..(number + 1) * size;
            match values {
                Field::Ints(values) => device.write(&slot.memory, bytemuck::cast_slice(&values[part]))?,
                Field::Floats(values) => device::write_f32(device, &slot.memory, &values[part])?,
            }
        }
        Ok(())
    }

    /// Declares the inputs on a tape.
    pub fn declare(&mut self, tape: &mut Tape) -> &[Var] {
        self.vars.clear();
        self.vars.extend(self.slots.iter().map(|slot| tape.input(slot.memory)));
        &self.vars
    }

    /// Returns the tensors of the inputs. Each has its own arena.
    pub fn memory(&self) -> impl Iterator<Item = Tensor> {
        self.slots.iter().map(|slot| slot.memory)
    }
}
