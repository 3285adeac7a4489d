//! Optimizers: one file each.
//!
//! An optimizer names its hyperparameters and its state tensors and gives the update. The trainer allocates the state,
//! clips gradients, applies the learning rate, saves the state in checkpoints (`levelN.NAME`) and carries it from one
//! level to another. To add one, write a file like `lion.rs` and add a line to [`OPTIMIZERS`]:
//! `optimizer.name = "..."` then selects it.

mod adamw;
mod keys;
mod lion;
pub mod program;
mod state;

pub use adamw::AdamW;
pub use keys::{Keys, Table};
pub use lion::Lion;
pub use state::State;

use crate::device::ops::{Op, Update};
use crate::error::Result;
use crate::multilevel::Quantity;
use crate::tensor::Tensor;
use program::Program;
use std::fmt::Debug;

/// Builds an optimizer from the keys of `[optimizer]`, with its own defaults for those that are left out.
pub type Build = fn(&mut Keys) -> Result<Box<dyn Optimizer>>;

/// All optimizers, by the name that `optimizer.name` selects them with. The first is the default.
pub const OPTIMIZERS: &[(&str, Build)] = &[("adamw", adamw::build), ("lion", lion::build)];

/// A state tensor: as large as the parameters, zero before the first update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateTensor {
    /// Its name in checkpoints: `m` is saved as `level1.m`.
    pub name: &'static str,
    /// How the multi-level operators carry it to another level. A tensor of [`Quantity::Squares`] is never negative.
    pub quantity: Quantity,
}

/// An optimizer.
pub trait Optimizer: Debug + Send + Sync {
    /// Returns its name in [`OPTIMIZERS`].
    fn name(&self) -> &'static str;

    /// Returns keys and values of its hyperparameters, in the order in which `config.toml` lists them.
    fn hyperparameters(&self) -> Vec<(&'static str, f64)>;

    /// Returns its state tensors.
    fn states(&self) -> &'static [StateTensor];

    /// Returns two numbers that depend on the count of updates, the present one included, for the update to use.
    fn bias_corrections(&self, updates: u64) -> [f32; 2] {
        let _ = updates;
        [1.0; 2]
    }

    /// Returns the update as a program. `None` for an optimizer with its own [`Optimizer::operation`].
    ///
    /// # Errors
    /// A program that does not fit: see [`Program::new`].
    fn program(&self) -> Result<Option<Program>> {
        Ok(None)
    }

    /// Returns the operation that performs the update: by default the program of [`Optimizer::program`].
    fn operation(&self, arena: &Arena) -> Op {
        let Arena { params, grads, states: [state0, state1], copy, decay_mask, norm, state, program, max_norm } =
            *arena;
        Update { params, grads, state0, state1, copy, decay_mask, norm, state, program, max_norm }.into()
    }

    /// Returns a copy.
    fn boxed(&self) -> Box<dyn Optimizer>;
}

/// The tensors of an update.
#[derive(Clone, Copy, Debug)]
pub struct Arena {
    /// `[n]`: the parameters.
    pub params: Tensor,
    /// `[n]`: their gradients.
    pub grads: Tensor,
    /// `[n]` each: the state tensors, in the order of [`Optimizer::states`].
    pub states: [Option<Tensor>; 2],
    /// `[n]`: the parameters in the type that the next step computes with, if that is another one.
    pub copy: Option<Tensor>,
    /// `[n / 64]`, U8: where weight decay applies.
    pub decay_mask: Tensor,
    /// `[1]`: the global norm of the gradients.
    pub norm: Tensor,
    /// The step's [`StepState`](crate::device::ops::StepState).
    pub state: Tensor,
    /// `[instructions, 2]`, U32: the table of [`Optimizer::program`]; of no rows without one.
    pub program: Tensor,
    /// Largest norm of the gradients. Infinity: no clipping.
    pub max_norm: f64,
}

/// An optimizer with gradient clipping: what `[optimizer]` configures.
#[derive(Debug)]
pub struct Config {
    /// The update rule with its hyperparameters.
    pub optimizer: Box<dyn Optimizer>,
    /// Largest global norm of the gradients. Infinity: no clipping.
    pub clip: f64,
}

impl Clone for Config {
    fn clone(&self) -> Self {
        Config { optimizer: self.optimizer.boxed(), clip: self.clip }
    }
}

impl Default for Config {
    /// AdamW with its defaults, and gradients clipped to a norm of 1.
    fn default() -> Self {
        Config { optimizer: Box::new(AdamW::default()), clip: 1.0 }
    }
}
