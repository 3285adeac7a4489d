use super::{Access, Operation, Visit};
use crate::bail;
use crate::error::Result;
use crate::tensor::Tensor;

/// `out = value`. Used to zero the gradient of a parameter that no loss depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fill {
    /// Output, of any shape and float type.
    pub out: Tensor,
    /// The value that every element gets, rounded to the type of `out`.
    pub value: f64,
}

impl Operation for Fill {
    const NAME: &'static str = "fill";

    fn named_operands(&mut self, visit: Visit) {
        visit("out", &mut self.out, Access::Write);
    }

    fn check(&self) -> Result<()> {
        if !self.out.dtype().is_float() {
            bail!("out has type {:?} but must hold floats", self.out.dtype());
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        0
    }
}
