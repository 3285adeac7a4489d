use super::{Access, Operation, Visit, expect_contiguous, expect_floats, expect_shape};
use crate::error::Result;
use crate::tensor::Tensor;

/// Euclidean norm, `norm = sqrt(sum of x^2)`, computed from partial sums over blocks of fixed size so that it is
/// deterministic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GlobalNorm {
    /// Input, contiguous: the gradient arena, `[n]`.
    pub x: Tensor,
    /// Workspace for the partial sums, `[P]` with `P` from [`GlobalNorm::partials`].
    pub partials: Tensor,
    /// Output, `[1]`.
    pub norm: Tensor,
}

impl GlobalNorm {
    /// Number of elements in a partial sum.
    pub const BLOCK: usize = 16_384;

    /// Returns the number of partial sums for an input of this many elements.
    pub const fn partials(elements: usize) -> usize {
        elements.div_ceil(Self::BLOCK)
    }
}

impl Operation for GlobalNorm {
    const NAME: &'static str = "global_norm";

    fn named_operands(&mut self, visit: Visit) {
        visit("x", &mut self.x, Access::Read);
        visit("partials", &mut self.partials, Access::Write);
        visit("norm", &mut self.norm, Access::Write);
    }

    fn check(&self) -> Result<()> {
        expect_contiguous("x", &self.x)?;
        expect_shape("partials", &self.partials, &[Self::partials(self.x.numel())])?;
        expect_shape("norm", &self.norm, &[1])?;
        expect_floats(&[("x", &self.x), ("partials", &self.partials), ("norm", &self.norm)])
    }

    fn flops(&self) -> u64 {
        2 * self.x.numel() as u64
    }
}
