//! The inputs of a model in the memory of a device.

use super::{BatchShape, Content, Model};
use crate::bail;
use crate::data::loader::batch::Field;
use crate::device;
use crate::device::Device;
use crate::error::{At, Result};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};

/// Memory of one input.
#[derive(Debug)]
struct Slot {
    name: &'static str,
    memory: Tensor,
    /// It never changes.
    fixed: bool,
    /// The losses that are scored on it.
    scores: &'static [usize],
}

/// Memory for the inputs of one micro-batch, in the order in which the model takes them.
#[derive(Debug)]
pub struct Inputs {
    slots: Vec<Slot>,
    /// Them on the tape.
    vars: Vec<Var>,
}

impl Inputs {
    /// For steps of this shape that compute in `float`. What never changes is written.
    ///
    /// # Errors
    /// Out of memory.
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

    /// The inputs that change.
    fn changing(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| !slot.fixed)
    }

    /// How many micro-batches the fields hold.
    ///
    /// # Errors
    /// Fields that are not the model's, or no whole number of batches.
    pub fn micro_batches(&self, fields: &[Field]) -> Result<usize> {
        let count = self.changing().count();
        if fields.len() != count {
            bail!("{} fields are given but the model takes {count}", fields.len());
        }
        let mut micro = None;
        for (slot, values) in self.changing().zip(fields) {
            let size = slot.memory.numel();
            let here = values.len() / size.max(1);
            if values.is_empty() || !values.len().is_multiple_of(size) || micro.is_some_and(|n| n != here) {
                bail!("{} values of {} are no whole number of batches of {size}", values.len(), slot.name);
            }
            micro = Some(here);
        }
        Ok(micro.unwrap_or(0))
    }

    /// How many items each loss scores in all of the fields: what its mean is over, however a batch is cut into micro-batches.
    pub fn scored(&self, fields: &[Field]) -> [usize; 2] {
        let mut scored = [0; 2];
        for (slot, values) in self.changing().zip(fields) {
            slot.scores.iter().for_each(|&loss| scored[loss] += values.scored());
        }
        scored
    }

    /// Writes micro-batch `number` of the fields.
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

    /// Declares them on a tape.
    pub fn declare(&mut self, tape: &mut Tape) -> &[Var] {
        self.vars.clear();
        self.vars.extend(self.slots.iter().map(|slot| tape.input(slot.memory)));
        &self.vars
    }

    /// Their memory, each in an arena of its own.
    pub fn memory(&self) -> impl Iterator<Item = Tensor> {
        self.slots.iter().map(|slot| slot.memory)
    }
}
