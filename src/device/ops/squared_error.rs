use super::{Access, Operation, Visit, expect_accumulator, expect_floats, expect_rows, expect_shape};
use crate::bail;
use crate::error::Result;
use crate::tensor::Tensor;

/// Mean squared error, fused with its gradient: `loss = weight x sum((x - targets)^2) / scored`,
/// `dx = 2 weight (x - targets) / scored`.
///
/// Elements whose target is NaN are not scored: they do not contribute to the sum, and their gradient is zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SquaredError {
    /// Predictions, `[N, C]`.
    pub x: Tensor,
    /// Targets, `[N, C]`, accumulator type. NaN where an element is not scored.
    pub targets: Tensor,
    /// Divisor of the loss, `[1]`, accumulator type: the number of scored elements of the whole batch, when this is a
    /// micro-batch of it. Without it, the divisor is the number of scored elements here. Values below 1 count as 1, so
    /// that the loss is zero if no element is scored.
    pub scored: Option<Tensor>,
    /// Output: the loss, `[1]`, accumulator type.
    pub loss: Tensor,
    /// Output: gradient of `x`, `[N, C]`. May be the same view as `x`. `None` computes only the loss.
    pub dx: Option<Tensor>,
    /// Weight of this loss in the total loss.
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
        expect_accumulator(&self.x, &[("targets", &self.targets), ("loss", &self.loss)])?;
        if let Some(t) = &self.scored {
            expect_shape("scored", t, &[1])?;
            expect_accumulator(&self.x, &[("scored", t)])?;
        }
        if let Some(t) = &self.dx {
            expect_rows("dx", t, rows, width)?;
            expect_floats(&[("x", &self.x), ("dx", t)])?;
        }
        if !self.weight.is_finite() {
            bail!("the weight is {} but must be finite", self.weight);
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        // Difference, square and sum; the gradient scales the difference.
        let each = if self.dx.is_some() { 4 } else { 3 };
        each * self.x.numel() as u64
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        self.dx.map(|d| (self.x, d))
    }
}
