use super::{Access, Operation, Visit, expect_floats, expect_rows};
use crate::error::Result;
use crate::tensor::Tensor;

/// Pointwise functions.
///
/// `GeluTanh`: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as in GPT-2. `GeluErf`: x/2 (1 + erf(x / sqrt 2)), as in BERT
/// and ViT (Hendrycks and Gimpel, arXiv 1606.08415). `Tanh`: as in BERT's pooler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    GeluTanh,
    GeluErf,
    Tanh,
}

/// `dx = dout * f'(pre)`, where no matrix product follows that could do it in its epilogue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActivationBackward {
    pub kind: Activation,
    /// `[N, C]`.
    pub dout: Tensor,
    /// `[N, C]`, the input of the activation.
    pub pre: Tensor,
    /// `[N, C]`; may be `dout` itself.
    pub dx: Tensor,
}

impl Operation for ActivationBackward {
    const NAME: &'static str = "activation";

    fn named_operands(&mut self, visit: Visit) {
        visit("dout", &mut self.dout, Access::Read);
        visit("pre", &mut self.pre, Access::Read);
        visit("dx", &mut self.dx, Access::Write);
    }

    fn check(&self) -> Result<()> {
        let width = self.dx.shape().last();
        let rows = self.dx.numel() / width.max(1);
        expect_rows("dx", &self.dx, rows, width)?;
        expect_rows("dout", &self.dout, rows, width)?;
        expect_rows("pre", &self.pre, rows, width)?;
        expect_floats(&[("dx", &self.dx), ("dout", &self.dout), ("pre", &self.pre)])
    }

    fn flops(&self) -> u64 {
        // The function with what is around it, counted as about ten.
        10 * self.dx.numel() as u64
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        Some((self.dout, self.dx))
    }
}
