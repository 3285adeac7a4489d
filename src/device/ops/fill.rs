use super::{Access, Operation, Visit};
use crate::bail;
use crate::error::Result;
use crate::tensor::Tensor;

/// `out = value`: the gradient of a parameter that no loss depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fill {
    /// Any shape.
    pub out: Tensor,
    pub value: f64,
}

impl Operation for Fill {
    const NAME: &'static str = "fill";

    fn named_operands(&mut self, visit: Visit) {
        visit("out", &mut self.out, Access::Write);
    }

    fn check(&self) -> Result<()> {
        if !self.out.dtype().is_float() {
            bail!("out holds {:?} but floats are needed", self.out.dtype());
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        0
    }
}
