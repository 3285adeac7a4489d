use super::{Access, Operation, expect_dtype, expect_floats, expect_rows, expect_shape, expect_wide};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};
use std::ops::Range;

/// Softmax, cross-entropy and the gradient of the logits in one pass.
///
/// With q = (1 - s) onehot(label) + s / V: `losses[n] = - sum over v of q[v] log softmax(logits[n])[v]`, `loss = weight x mean
/// over scored rows`, `dlogits = weight (softmax - q) / scored rows`. Rows whose label is `ignore` are not scored: loss
/// and gradient zero. Without any scored row the loss is zero.
///
/// The N logits may be a strip of M rows, `first` and those after it: scored rows are counted over all labels, `losses` is
/// written for the strip, and `loss` sums over the rows up to the strip's end, so that the last of several strips in order
/// leaves what one pass over all rows would.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// `[N, V]`.
    pub logits: Tensor,
    /// `[M]`, each in `0..V` or `ignore`.
    pub labels: Tensor,
    /// `[M]`, unweighted, wide; before `first`, what strips before this one have written.
    pub losses: Tensor,
    /// `[1]`, wide.
    pub loss: Tensor,
    /// The row of labels and losses that belongs to the first row of logits; 0 for all rows at once.
    pub first: usize,
    /// `[N, V]`; may be `logits` itself.
    pub dlogits: Option<Tensor>,
    pub ignore: i32,
    /// Label smoothing s, in `0..1` (Szegedy et al., arXiv 1512.00567).
    pub smoothing: f64,
    /// Weight of this loss in the total, for instance 1 / micro-batches.
    pub weight: f64,
}

impl CrossEntropy {
    /// The strip's rows of labels and losses.
    pub fn rows(&self) -> Range<usize> {
        self.first..self.first + self.logits.rows()
    }
}

impl Operation for CrossEntropy {
    const NAME: &'static str = "cross_entropy";

    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        visit(&mut self.logits, Access::Read);
        visit(&mut self.labels, Access::Read);
        let whole = self.losses.numel() == self.logits.rows();
        visit(&mut self.losses, if whole { Access::Write } else { Access::Update });
        visit(&mut self.loss, Access::Write);
        if let Some(t) = &mut self.dlogits {
            visit(t, Access::Write);
        }
    }

    fn check(&self) -> Result<()> {
        let (rows, vocab, all) = (self.logits.rows(), self.logits.width, self.losses.numel());
        expect_shape("losses", &self.losses, &[all])?;
        expect_rows("labels", &self.labels, 1, all)?;
        expect_dtype("labels", &self.labels, DType::I32)?;
        if self.first.checked_add(rows).is_none_or(|end| end > all) {
            bail!("{rows} rows of logits from row {} on are beyond the {all} rows of losses", self.first);
        }
        expect_shape("loss", &self.loss, &[1])?;
        expect_floats(&[("logits", &self.logits)])?;
        expect_wide(&self.logits, &[("losses", &self.losses), ("loss", &self.loss)])?;
        if let Some(t) = &self.dlogits {
            expect_rows("dlogits", t, rows, vocab)?;
            expect_floats(&[("logits", &self.logits), ("dlogits", t)])?;
        }
        if !(0.0..1.0).contains(&self.smoothing) {
            bail!("a label smoothing of {} is outside 0..1", self.smoothing);
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        // Maximum, exponential, sum; the gradient scales and subtracts.
        let each = if self.dlogits.is_some() { 6 } else { 4 };
        each * self.logits.numel() as u64
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        self.dlogits.map(|d| (self.logits, d))
    }
}
