//! The state tensors of an optimizer, on a device.

use super::{Optimizer, StateTensor};
use crate::device::Device;
use crate::error::{At, Result};
use crate::model::params::ParamTable;
use crate::model::store::Store;
use crate::tensor::Tensor;

/// The state of an optimizer for one model: zero before the first update.
#[derive(Clone, Debug)]
pub struct State {
    tensors: Vec<(StateTensor, Store)>,
    /// Number of updates so far, for the bias corrections.
    pub updates: u64,
}

impl State {
    /// Allocates the state tensors of an optimizer, in the layout of the parameters.
    ///
    /// # Errors
    /// Out of device memory.
    pub fn new(optimizer: &dyn Optimizer, table: &ParamTable, device: &mut dyn Device) -> Result<Self> {
        let mut tensors = Vec::new();
        for tensor in optimizer.states() {
            let store = Store::new(table.clone(), device).at(format_args!("optimizer state {}", tensor.name))?;
            tensors.push((*tensor, store));
        }
        Ok(State { tensors, updates: 0 })
    }

    /// Returns the state tensors, in the order of [`Optimizer::states`].
    pub fn tensors(&self) -> impl Iterator<Item = (StateTensor, &Store)> {
        self.tensors.iter().map(|(tensor, store)| (*tensor, store))
    }

    /// Returns the state tensors as [`super::Arena::states`] has them: `[n]` each.
    pub fn flat(&self) -> [Option<Tensor>; 2] {
        let mut flat = [None; 2];
        flat.iter_mut().zip(&self.tensors).for_each(|(flat, (_, store))| *flat = Some(store.flat()));
        flat
    }

    /// Copies the state of another model of the same sizes, with its number of updates.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn copy_from(&mut self, device: &mut dyn Device, other: &State) -> Result<()> {
        for ((_, to), (_, from)) in self.tensors.iter().zip(&other.tensors) {
            device.copy(&from.flat(), &to.flat())?;
        }
        self.updates = other.updates;
        Ok(())
    }

    /// Frees the device memory.
    pub fn free(self, device: &mut dyn Device) {
        self.tensors.into_iter().for_each(|(_, store)| store.free(device));
    }
}
