use super::{Access, Operation, StepState, Visit, expect_dtype, expect_floats, expect_rows, expect_shape};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Defines which elements are dropped, as a pure function of the seed and step in `state`, the site, and the index of
/// the element ([`philox`](super::philox)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// Probability of dropping an element, from 0 to below 1.
    pub p: f32,
    /// Number of the dropout within the model. Distinct sites have independent masks.
    pub site: u32,
    /// A [`StepState`], `[8]`, U32, of which `seed` and `step` are read.
    pub state: Tensor,
}

impl Mask {
    pub(super) fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.p) {
            bail!("the dropout probability is {} but must be at least 0 and below 1", self.p);
        }
        expect_dtype("state", &self.state, DType::U32)?;
        expect_shape("state", &self.state, &[StepState::WORDS])
    }
}

/// Dropout with a residual, `out = residual + keep(x) / (1 - p)`, where `keep` sets dropped elements to zero.
///
/// The backward pass is the same operation without a residual: `dx = keep(dout) / (1 - p)`, with the same mask.
///
/// Groups of `unit` consecutive elements are kept or dropped together. With `unit` = 1 this is ordinary dropout; with
/// all elements of a sample it is stochastic depth (Huang et al., arXiv 1603.09382).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Input, `[N, C]`. The index of element `(n, c)` in the mask is `(n C + c) / unit`, rounded down.
    pub x: Tensor,
    /// Added to the result, `[N, C]`.
    pub residual: Option<Tensor>,
    /// Output, `[N, C]`. May be the same view as `x`.
    pub out: Tensor,
    /// Which elements are dropped.
    pub mask: Mask,
    /// Number of consecutive elements that are kept or dropped together, not counting row padding. At least 1.
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
            bail!("unit is 0, which drops groups of no elements; set it to 1 to drop single elements");
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
