use super::{
    Access, Operation, Visit, expect_accumulator, expect_contiguous, expect_floats, expect_rows, expect_shape,
};
use crate::error::Result;
use crate::tensor::Tensor;

/// LayerNorm over the last dimension with a fused residual addition (Ba et al., arXiv 1607.06450):
/// `sum = x + residual`, `out = (sum - mean) rstd weight + bias`.
///
/// `rstd = 1 / sqrt(variance + eps)` with the biased variance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// Input, `[N, C]`.
    pub x: Tensor,
    /// Added to `x` before the normalization, `[N, C]`. Requires `sum`.
    pub residual: Option<Tensor>,
    /// Output: `x + residual`, `[N, C]`. May be the same view as `residual`. Present if and only if `residual` is.
    pub sum: Option<Tensor>,
    /// Scale, `[C]`.
    pub weight: Tensor,
    /// Shift, `[C]`.
    pub bias: Tensor,
    /// Output: the normalized rows, `[N, C]`.
    pub out: Tensor,
    /// Output: mean of each row, `[N]`, accumulator type. Read by the backward pass.
    pub mean: Tensor,
    /// Output: reciprocal standard deviation of each row, `[N]`, accumulator type. Read by the backward pass.
    pub rstd: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

impl Operation for LayerNorm {
    const NAME: &'static str = "layernorm";

    fn named_operands(&mut self, visit: Visit) {
        visit("x", &mut self.x, Access::Read);
        if let (Some(residual), Some(sum)) = (&mut self.residual, &mut self.sum) {
            visit("residual", residual, Access::Read);
            visit("sum", sum, Access::Write);
        }
        visit("weight", &mut self.weight, Access::Read);
        visit("bias", &mut self.bias, Access::Read);
        visit("out", &mut self.out, Access::Write);
        visit("mean", &mut self.mean, Access::Write);
        visit("rstd", &mut self.rstd, Access::Write);
    }

    fn check(&self) -> Result<()> {
        let (rows, width) = (self.x.rows(), self.x.shape().last());
        // Each row in memory must be one row of the last dimension.
        expect_rows("x", &self.x, rows, width)?;
        expect_rows("out", &self.out, rows, width)?;
        if self.residual.is_some() != self.sum.is_some() {
            crate::bail!("residual and sum go together: set both or neither");
        }
        for t in [&self.residual, &self.sum].into_iter().flatten() {
            expect_rows("residual and sum", t, rows, width)?;
            expect_floats(&[("x", &self.x), ("residual and sum", t)])?;
        }
        expect_shape("weight", &self.weight, &[width])?;
        expect_shape("bias", &self.bias, &[width])?;
        expect_shape("mean", &self.mean, &[rows])?;
        expect_shape("rstd", &self.rstd, &[rows])?;
        expect_floats(&[("x", &self.x), ("weight", &self.weight), ("bias", &self.bias), ("out", &self.out)])?;
        expect_accumulator(&self.x, &[("mean", &self.mean), ("rstd", &self.rstd)])
    }

    fn flops(&self) -> u64 {
        (7 + u64::from(self.residual.is_some())) * self.x.numel() as u64
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        self.residual.zip(self.sum)
    }
}

/// Backward pass of [`LayerNorm`].
///
/// With `h = (x - mean) rstd` and `g = dout weight`: `dx (+)= rstd (g - mean(g) - h mean(g h))`,
/// `dweight (+)= sum over rows of dout h`, `dbias (+)= sum over rows of dout`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNormBackward {
    /// Gradient of the forward output, `[N, C]`.
    pub dout: Tensor,
    /// The rows that were normalized, `[N, C]`: `sum` of the forward pass if a residual was added, else `x`.
    pub x: Tensor,
    /// Scale, `[C]`.
    pub weight: Tensor,
    /// Mean of each row from the forward pass, `[N]`, accumulator type.
    pub mean: Tensor,
    /// Reciprocal standard deviation of each row from the forward pass, `[N]`, accumulator type.
    pub rstd: Tensor,
    /// Output: gradient of the normalized rows, `[N, C]`.
    pub dx: Tensor,
    /// Adds to the contents of `dx`, such as the gradient that arrived through the residual stream, instead of
    /// overwriting them.
    pub accumulate_dx: bool,
    /// Output: gradient of `weight`, `[C]`, accumulator type.
    pub dweight: Tensor,
    /// Output: gradient of `bias`, `[C]`, accumulator type.
    pub dbias: Tensor,
    /// Adds to the contents of `dweight` and `dbias` instead of overwriting them.
    pub accumulate: bool,
    /// Workspace for partial sums of `dweight` and `dbias`, `[P, 2 C]`, contiguous, accumulator type, with `P` from
    /// [`LayerNormBackward::partials`].
    pub partials: Tensor,
}

impl LayerNormBackward {
    /// Returns the number of rows of the workspace. Each holds the partial sums of a fixed block of rows, so that the
    /// result does not depend on scheduling.
    pub const fn partials(rows: usize) -> usize {
        let blocks = rows.div_ceil(32);
        if blocks < 64 { blocks } else { 64 }
    }
}

impl Operation for LayerNormBackward {
    const NAME: &'static str = "layernorm_backward";

    fn named_operands(&mut self, visit: Visit) {
        let out = if self.accumulate { Access::Update } else { Access::Write };
        visit("dout", &mut self.dout, Access::Read);
        visit("x", &mut self.x, Access::Read);
        visit("weight", &mut self.weight, Access::Read);
        visit("mean", &mut self.mean, Access::Read);
        visit("rstd", &mut self.rstd, Access::Read);
        visit("dx", &mut self.dx, if self.accumulate_dx { Access::Update } else { Access::Write });
        visit("dweight", &mut self.dweight, out);
        visit("dbias", &mut self.dbias, out);
        visit("partials", &mut self.partials, Access::Write);
    }

    fn check(&self) -> Result<()> {
        let (rows, width) = (self.x.rows(), self.x.shape().last());
        expect_rows("x", &self.x, rows, width)?;
        expect_rows("dout", &self.dout, rows, width)?;
        expect_rows("dx", &self.dx, rows, width)?;
        for (what, t) in [("weight", &self.weight), ("dweight", &self.dweight), ("dbias", &self.dbias)] {
            expect_shape(what, t, &[width])?;
        }
        expect_shape("mean", &self.mean, &[rows])?;
        expect_shape("rstd", &self.rstd, &[rows])?;
        expect_shape("partials", &self.partials, &[Self::partials(rows), 2 * width])?;
        expect_contiguous("partials", &self.partials)?;
        expect_floats(&[("x", &self.x), ("dout", &self.dout), ("dx", &self.dx), ("weight", &self.weight)])?;
        expect_accumulator(&self.x, &[("mean", &self.mean), ("rstd", &self.rstd), ("partials", &self.partials)])?;
        expect_accumulator(&self.x, &[("dweight", &self.dweight), ("dbias", &self.dbias)])
    }

    fn flops(&self) -> u64 {
        14 * self.x.numel() as u64
    }
}
