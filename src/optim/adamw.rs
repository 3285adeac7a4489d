//! AdamW (Loshchilov and Hutter, arXiv 1711.05101), as PyTorch computes it.

use super::{Arena, Config, Keys, Optimizer, StateTensor};
use crate::device::ops::{self, Op};
use crate::error::Result;
use crate::multilevel::Quantity;

/// AdamW's hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, per unit of the learning rate.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }
    }
}

impl AdamW {
    /// Returns the optimizer with gradients clipped to this norm; infinity disables clipping.
    pub fn clipped(self, clip: f64) -> Config {
        Config { optimizer: Box::new(self), clip }
    }
}

pub(super) fn build(keys: &mut Keys) -> Result<Box<dyn Optimizer>> {
    let usual = AdamW::default();
    Ok(Box::new(AdamW {
        beta1: keys.rate("beta1", usual.beta1)?,
        beta2: keys.rate("beta2", usual.beta2)?,
        eps: keys.positive("eps", usual.eps)?,
        weight_decay: keys.not_negative("weight_decay", usual.weight_decay)?,
    }))
}

impl Optimizer for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn hyperparameters(&self) -> Vec<(&'static str, f64)> {
        let AdamW { beta1, beta2, eps, weight_decay } = *self;
        vec![("beta1", beta1), ("beta2", beta2), ("eps", eps), ("weight_decay", weight_decay)]
    }

    fn states(&self) -> &'static [StateTensor] {
        &[
            StateTensor { name: "m", quantity: Quantity::Gradients },
            StateTensor { name: "v", quantity: Quantity::Squares },
        ]
    }

    /// `1 - beta^t` of both moments.
    fn bias_corrections(&self, updates: u64) -> [f32; 2] {
        [self.beta1, self.beta2].map(|beta| (1.0 - beta.powf(updates as f64)) as f32)
    }

    /// A fused operation: one pass over the arena that is bound by memory.
    fn operation(&self, arena: &Arena) -> Op {
        let Arena { params, grads, states, copy, decay_mask, norm, state, max_norm, .. } = *arena;
        let [Some(m), Some(v)] = states else { unreachable!("two state tensors are named above") };
        let AdamW { beta1, beta2, eps, weight_decay } = *self;
        ops::AdamW { params, grads, m, v, copy, decay_mask, norm, state, beta1, beta2, eps, weight_decay, max_norm }
            .into()
    }

    fn boxed(&self) -> Box<dyn Optimizer> {
        Box::new(*self)
    }
}
