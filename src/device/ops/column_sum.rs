use super::{Access, Operation, Visit, expect_accumulator, expect_floats, expect_rows, expect_shape};
use crate::error::Result;
use crate::tensor::Tensor;

/// Sum over rows, `out[c] (+)= sum over n of x[n, c]`: the gradient of a bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ColumnSum {
    /// Input, `[N, C]`.
    pub x: Tensor,
    /// Output, `[C]`, accumulator type.
    pub out: Tensor,
    /// Adds to the contents of `out` instead of overwriting them.
    pub accumulate: bool,
}

impl Operation for ColumnSum {
    const NAME: &'static str = "column_sum";

    fn named_operands(&mut self, visit: Visit) {
        visit("x", &mut self.x, Access::Read);
        visit("out", &mut self.out, if self.accumulate { Access::Update } else { Access::Write });
    }

    fn check(&self) -> Result<()> {
        let width = self.x.shape().last();
        expect_rows("x", &self.x, self.x.numel() / width.max(1), width)?;
        expect_shape("out", &self.out, &[width])?;
        expect_floats(&[("x", &self.x)])?;
        expect_accumulator(&self.x, &[("out", &self.out)])
    }

    fn flops(&self) -> u64 {
        self.x.numel() as u64
    }
}
