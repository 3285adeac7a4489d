use super::{Access, Operation, Visit, expect_floats, expect_rows};
use crate::error::Result;
use crate::tensor::Tensor;

/// Activation functions, applied elementwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`, the tanh approximation of GELU, used by GPT-2.
    GeluTanh,
    /// `x/2 (1 + erf(x / sqrt(2)))`, the exact GELU, used by BERT and ViT (Hendrycks and Gimpel, arXiv 1606.08415).
    GeluErf,
    /// `tanh(x)`, used by BERT's pooler.
    Tanh,
}

/// Backward pass of an activation, `dx = dout * f'(pre)`, for places where it cannot be fused into the epilogue of a
/// matrix product ([`Epilogue::ActivateGrad`](super::Epilogue::ActivateGrad)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActivationBackward {
    /// The activation function `f`.
    pub kind: Activation,
    /// Gradient of the activation's output, `[N, C]`.
    pub dout: Tensor,
    /// Input of the activation in the forward pass, `[N, C]`.
    pub pre: Tensor,
    /// Output: gradient of the activation's input, `[N, C]`. May be the same view as `dout`.
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
        // The derivative and the multiplication, counted as about ten FLOPs.
        10 * self.dx.numel() as u64
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        Some((self.dout, self.dx))
    }
}
