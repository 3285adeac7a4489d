use super::{Access, Operation, StepState, Visit, expect_dtype, expect_floats, expect_rows, expect_shape};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Which elements are dropped: a pure function of the seed and step in `state`, the site and the element's index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// Probability of dropping, in `0..1`.
    pub p: f32,
    /// Number of the dropout within the model.
    pub site: u32,
    /// A [`StepState`].
    pub state: Tensor,
}

impl Mask {
    pub(super) fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.p) {
            bail!("a dropout probability of {} is outside 0..1", self.p);
        }
        expect_dtype("state", &self.state, DType::U32)?;
        expect_shape("state", &self.state, &[StepState::WORDS])
    }
}

/// `out = residual + keep(x) / (1 - p)`. Its own backward: `dx = keep(dout) / (1 - p)` with the same mask.
///
/// Elements are kept or dropped one by one, or `unit` neighbours together: with all elements of a sample it is stochastic
/// depth (Huang et al., arXiv 1603.09382).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// `[N, C]`; the index of an element in the mask is `(n C + c) / unit`.
    pub x: Tensor,
    /// `[N, C]`.
    pub residual: Option<Tensor>,
    /// `[N, C]`; may be `x` itself.
    pub out: Tensor,
    pub mask: Mask,
    /// Elements that are kept or dropped together, in rows without their padding; at least 1.
    pub unit: usize,
}

impl Operation for Dropout {
    const NAME: &'static str = "dropout";

    fn named_operands(&mut self, visit: Visit) {
        visit("x", &mut self.x, Access::Read);
        if let Some(t) = &mut self.residual {
            visit("residual", t, Access::Read);
        }
        visit("state", &mut self.mask.state, Access::Read);
        visit("out", &mut self.out, Access::Write);
    }

    fn check(&self) -> Result<()> {
        self.mask.check()?;
        if self.unit == 0 {
            bail!("units of no elements; 1 drops each by itself");
        }
        let (rows, width) = (self.x.rows(), self.x.width());
        expect_rows("out", &self.out, rows, width)?;
        expect_floats(&[("x", &self.x), ("out", &self.out)])?;
        if let Some(residual) = &self.residual {
            expect_rows("residual", residual, rows, width)?;
            expect_floats(&[("x", &self.x), ("residual", residual)])?;
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        (1 + u64::from(self.residual.is_some())) * self.x.numel() as u64
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        Some((self.x, self.out))
    }
}
