use super::{Access, Operation, Visit, expect_any_floats, expect_rows};
use crate::error::Result;
use crate::tensor::Tensor;

/// `out (+)= x`: adds a tensor to another or copies it, converting between float types if they differ.
///
/// Used to add a second gradient of the same tensor, to copy a gradient that two tensors share, and to change the type
/// of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accumulate {
    /// Input, `[N, C]`, of any float type.
    pub x: Tensor,
    /// Output, `[N, C]`, of any float type.
    pub out: Tensor,
    /// Adds to the contents of `out` instead of overwriting them.
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
