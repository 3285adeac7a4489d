use super::{Access, Operation, Visit, expect_any_floats, expect_rows};
use crate::error::Result;
use crate::tensor::Tensor;

/// `out (+)= x`: a second gradient for the same tensor, a copy of one that two tensors share, or numbers in another type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accumulate {
    /// `[N, C]`.
    pub x: Tensor,
    /// `[N, C]`; both hold floats of any type.
    pub out: Tensor,
    /// Adds to what `out` holds.
    pub add: bool,
}

impl Operation for Accumulate {
    const NAME: &'static str = "accumulate";

    fn named_operands(&mut self, visit: Visit) {
        visit("x", &mut self.x, Access::Read);
        visit("out", &mut self.out, if self.add { Access::Update } else { Access::Write });
    }

    fn check(&self) -> Result<()> {
        let width = self.out.shape().last();
        let rows = self.out.numel() / width.max(1);
        expect_rows("out", &self.out, rows, width)?;
        expect_rows("x", &self.x, rows, width)?;
        expect_any_floats(&[("x", &self.x), ("out", &self.out)])
    }

    fn flops(&self) -> u64 {
        if self.add { self.x.numel() as u64 } else { 0 }
    }
}
