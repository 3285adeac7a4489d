use super::{Access, Operation, Visit, expect_floats, expect_rows, expect_shape, expect_wide};
use crate::bail;
use crate::error::Result;
use crate::tensor::Tensor;

/// Mean squared error and its gradient in one pass.
///
/// `loss = weight x sum of (x - targets)^2 / scored` over the elements whose target is a number; `dx = 2 weight (x - targets) /
/// scored`. An element whose target is NaN is not scored: it has no part in the sum, and gradient zero. `scored` is the number
/// of the others, at least 1, or what the operand of that name says. Without any scored element the loss is zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SquaredError {
    /// `[N, C]`.
    pub x: Tensor,
    /// `[N, C]`, wide; NaN: not scored.
    pub targets: Tensor,
    /// `[1]`, wide: the elements scored in the whole batch, of which these are a micro-batch; without it, those scored here.
    pub scored: Option<Tensor>,
    /// `[1]`, wide.
    pub loss: Tensor,
    /// `[N, C]`; may be `x` itself.
    pub dx: Option<Tensor>,
    /// Weight of this loss in the total.
    pub weight: f64,
}

impl Operation for SquaredError {
    const NAME: &'static str = "squared_error";

    fn named_operands(&mut self, visit: Visit) {
        visit("x", &mut self.x, Access::Read);
        visit("targets", &mut self.targets, Access::Read);
        if let Some(t) = &mut self.scored {
            visit("scored", t, Access::Read);
        }
        visit("loss", &mut self.loss, Access::Write);
        if let Some(t) = &mut self.dx {
            visit("dx", t, Access::Write);
        }
    }

    fn check(&self) -> Result<()> {
        let (rows, width) = (self.x.rows(), self.x.width());
        expect_rows("x", &self.x, rows, width)?;
        expect_rows("targets", &self.targets, rows, width)?;
        expect_shape("loss", &self.loss, &[1])?;
        expect_floats(&[("x", &self.x)])?;
        expect_wide(&self.x, &[("targets", &self.targets), ("loss", &self.loss)])?;
        if let Some(t) = &self.scored {
            expect_shape("scored", t, &[1])?;
            expect_wide(&self.x, &[("scored", t)])?;
        }
        if let Some(t) = &self.dx {
            expect_rows("dx", t, rows, width)?;
            expect_floats(&[("x", &self.x), ("dx", t)])?;
        }
        if !self.weight.is_finite() {
            bail!("a weight of {} is no number", self.weight);
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        // Difference, square, sum; the gradient scales the difference.
        let each = if self.dx.is_some() { 4 } else { 3 };
        each * self.x.numel() as u64
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        self.dx.map(|d| (self.x, d))
    }
}
