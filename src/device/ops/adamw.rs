use super::{
    ALIGN, Access, Operation, StepState, Visit, expect_any_floats, expect_contiguous, expect_dtype, expect_floats,
    expect_shape,
};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// AdamW over a whole arena in one pass (Loshchilov and Hutter, arXiv 1711.05101, as PyTorch computes it), with clipping.
///
/// g = grad x min(1, max_norm / (norm + 1e-6)); p *= 1 - lr decay; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
/// p -= lr (m / bias1) / (sqrt(v / bias2) + eps).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// `[n]`, contiguous, as are the next three.
    pub params: Tensor,
    pub grads: Tensor,
    pub m: Tensor,
    pub v: Tensor,
    /// `[n]`, contiguous, of any float type: the new parameters, rounded to it.
    pub copy: Option<Tensor>,
    /// `[n / 64]`: 1 where weight decay applies to these 64 elements.
    pub decay_mask: Tensor,
    /// `[1]`: the norm of all gradients.
    pub norm: Tensor,
    /// A [`StepState`]: learning rate and bias corrections.
    pub state: Tensor,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Infinity: no clipping.
    pub max_norm: f64,
}

impl Operation for AdamW {
    const NAME: &'static str = "adamw";

    fn named_operands(&mut self, visit: Visit) {
        visit("grads", &mut self.grads, Access::Read);
        visit("decay_mask", &mut self.decay_mask, Access::Read);
        visit("norm", &mut self.norm, Access::Read);
        visit("state", &mut self.state, Access::Read);
        visit("params", &mut self.params, Access::Update);
        visit("m", &mut self.m, Access::Update);
        visit("v", &mut self.v, Access::Update);
        if let Some(t) = &mut self.copy {
            visit("copy", t, Access::Write);
        }
    }

    fn check(&self) -> Result<()> {
        let n = self.params.numel();
        for (what, t) in [("params", &self.params), ("grads", &self.grads), ("m", &self.m), ("v", &self.v)] {
            expect_shape(what, t, &[n])?;
            expect_contiguous(what, t)?;
            expect_floats(&[("params", &self.params), (what, t)])?;
        }
        if let Some(t) = &self.copy {
            expect_shape("copy", t, &[n])?;
            expect_contiguous("copy", t)?;
            expect_any_floats(&[("copy", t)])?;
        }
        if !n.is_multiple_of(ALIGN) {
            bail!("{n} parameters are no multiple of {ALIGN}");
        }
        expect_shape("decay_mask", &self.decay_mask, &[n / ALIGN])?;
        expect_dtype("decay_mask", &self.decay_mask, DType::U8)?;
        expect_shape("norm", &self.norm, &[1])?;
        expect_floats(&[("params", &self.params), ("norm", &self.norm)])?;
        expect_dtype("state", &self.state, DType::U32)?;
        expect_shape("state", &self.state, &[StepState::WORDS])
    }

    fn flops(&self) -> u64 {
        14 * self.params.numel() as u64
    }
}
