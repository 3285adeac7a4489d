//! Lion (Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv 2302.06675, Program 1): the sign of an
//! interpolation of momentum and gradient. One state tensor, half of AdamW's.
//!
//! Its learning rate should be 3 to 10 times smaller than AdamW's, and its weight decay as many times larger (section 5 of
//! the paper).

use super::program::{Program, decays, grad, learning_rate, param, state};
use super::{Keys, Optimizer, StateTensor};
use crate::error::Result;
use crate::multilevel::Quantity;

/// Lion's hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Weight of the momentum in the update.
    pub beta1: f64,
    /// Decay rate of the momentum.
    pub beta2: f64,
    /// Decoupled weight decay, per unit of the learning rate.
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Lion { beta1: 0.9, beta2: 0.99, weight_decay: 0.1 }
    }
}

pub(super) fn build(keys: &mut Keys) -> Result<Box<dyn Optimizer>> {
    let usual = Lion::default();
    Ok(Box::new(Lion {
        beta1: keys.rate("beta1", usual.beta1)?,
        beta2: keys.rate("beta2", usual.beta2)?,
        weight_decay: keys.not_negative("weight_decay", usual.weight_decay)?,
    }))
}

impl Optimizer for Lion {
    fn name(&self) -> &'static str {
        "lion"
    }

    fn hyperparameters(&self) -> Vec<(&'static str, f64)> {
        vec![("beta1", self.beta1), ("beta2", self.beta2), ("weight_decay", self.weight_decay)]
    }

    fn states(&self) -> &'static [StateTensor] {
        &[StateTensor { name: "m", quantity: Quantity::Gradients }]
    }

    /// `c = sign(beta1 m + (1 - beta1) g)`; `p = p - lr (c + weight_decay p)`; `m = beta2 m + (1 - beta2) g`.
    fn program(&self) -> Result<Option<Program>> {
        let direction = (state(0) * self.beta1 + grad() * (1.0 - self.beta1)).sign();
        let step = direction + param() * decays() * self.weight_decay;
        let momentum = state(0) * self.beta2 + grad() * (1.0 - self.beta2);
        Program::new(param() - learning_rate() * step, &[momentum]).map(Some)
    }

    fn boxed(&self) -> Box<dyn Optimizer> {
        Box::new(*self)
    }
}
