use super::{Access, Operation, Visit, expect_dtype, expect_floats, expect_rows, expect_shape, expect_wide};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};
use std::ops::Range;

/// A second label for every row: the target is `share onehot(label) + (1 - share) onehot(other)` (mixup, Zhang et al., arXiv
/// 1710.09412).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// `[M]`, the others, each in `0..V` where its row is scored.
    pub labels: Tensor,
    /// `[M]`, wide, in 0 to 1: the part of the first label.
    pub share: Tensor,
}

/// Softmax, cross-entropy and the gradient of the logits in one pass.
///
/// With q = (1 - s) target + s / V, where the target is onehot(label) or that of [`Mix`]: `losses[n] = - sum over v of q[v]
/// log softmax(logits[n])[v]`, `loss = weight x sum of losses / scored`, `dlogits = weight (softmax - q) / scored`. Rows whose
/// label is `ignore` are not scored: loss and gradient zero. `scored` is the number of the others, at least 1, or what the
/// operand of that name says. Without any scored row the loss is zero.
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
    pub mix: Option<Mix>,
    /// `[1]`, wide: the rows scored in the whole batch, of which these are a micro-batch; without it, those scored here.
    pub scored: Option<Tensor>,
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
    /// Weight of this loss in the total, for instance 1/2 of two heads'.
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

    fn named_operands(&mut self, visit: Visit) {
        visit("logits", &mut self.logits, Access::Read);
        visit("labels", &mut self.labels, Access::Read);
        if let Some(mix) = &mut self.mix {
            visit("mix.labels", &mut mix.labels, Access::Read);
            visit("mix.share", &mut mix.share, Access::Read);
        }
        if let Some(t) = &mut self.scored {
            visit("scored", t, Access::Read);
        }
        let whole = self.losses.numel() == self.logits.rows();
        visit("losses", &mut self.losses, if whole { Access::Write } else { Access::Update });
        visit("loss", &mut self.loss, Access::Write);
        if let Some(t) = &mut self.dlogits {
            visit("dlogits", t, Access::Write);
        }
    }

    fn check(&self) -> Result<()> {
        let (rows, vocab, all) = (self.logits.rows(), self.logits.width(), self.losses.numel());
        expect_shape("losses", &self.losses, &[all])?;
        expect_rows("labels", &self.labels, 1, all)?;
        expect_dtype("labels", &self.labels, DType::I32)?;
        if let Some(mix) = &self.mix {
            expect_rows("other labels", &mix.labels, 1, all)?;
            expect_dtype("other labels", &mix.labels, DType::I32)?;
            expect_rows("share", &mix.share, 1, all)?;
            expect_wide(&self.logits, &[("share", &mix.share)])?;
        }
        if let Some(t) = &self.scored {
            expect_shape("scored", t, &[1])?;
            expect_wide(&self.logits, &[("scored", t)])?;
        }
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
