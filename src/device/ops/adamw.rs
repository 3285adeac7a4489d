use super::{
    ALIGN, Access, Operation, StepState, Visit, expect_any_floats, expect_contiguous, expect_dtype, expect_floats,
    expect_shape,
};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// One AdamW step over a whole parameter arena, with gradient clipping (Loshchilov and Hutter, arXiv 1711.05101; the
/// same formulas as PyTorch).
///
/// ```text
/// g  = grads * min(1, max_norm / (norm + 1e-6))
/// p *= 1 - lr * weight_decay                    where decay_mask is set
/// m  = beta1 * m + (1 - beta1) * g
/// v  = beta2 * v + (1 - beta2) * g^2
/// p -= lr * (m / bias1) / (sqrt(v / bias2) + eps)
/// ```
///
/// `lr`, `bias1` and `bias2` come from `state`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// The parameters, `[n]`, contiguous, updated. `n` is a multiple of [`ALIGN`].
    pub params: Tensor,
    /// The gradients, `[n]`, contiguous, before clipping.
    pub grads: Tensor,
    /// The first moment, `[n]`, contiguous, updated.
    pub m: Tensor,
    /// The second moment, `[n]`, contiguous, updated.
    pub v: Tensor,
    /// Receives a copy of the new parameters, `[n]`, contiguous, rounded to its own float type (such as bf16).
    pub copy: Option<Tensor>,
    /// `[n / ALIGN]`, U8: nonzero where weight decay applies to the block of [`ALIGN`] elements.
    pub decay_mask: Tensor,
    /// `[1]`: the norm of all gradients, for clipping ([`GlobalNorm`](super::GlobalNorm)).
    pub norm: Tensor,
    /// A [`StepState`], `[8]`, U32, of which `lr`, `bias1` and `bias2` are read.
    pub state: Tensor,
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Weight decay factor, multiplied by the learning rate.
    pub weight_decay: f64,
    /// Largest gradient norm; larger gradients are scaled down to it. Infinity disables clipping.
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
            bail!("the number of parameters, {n}, must be a multiple of {ALIGN}");
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
