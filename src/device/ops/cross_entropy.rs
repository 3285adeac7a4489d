use super::{Access, Operation, Visit, expect_accumulator, expect_dtype, expect_floats, expect_rows, expect_shape};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};
use std::ops::Range;

/// A second label for every row, for mixup (Zhang et al., arXiv 1710.09412) and CutMix: the target of a row becomes
/// `share onehot(label) + (1 - share) onehot(other)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// The second labels, `[M]`, I32, each in `0..V` if its row is scored.
    pub labels: Tensor,
    /// Weight of the first label of each row, `[M]`, accumulator type, from 0 to 1.
    pub share: Tensor,
}

/// Softmax cross-entropy loss, fused with the gradient of the logits.
///
/// With label smoothing `s` and `q = (1 - s) target + s / V`, where the target is `onehot(label)` or the one of
/// [`Mix`]: `losses[n] = - sum over v of q[v] log softmax(logits[n])[v]`, `loss = weight x sum(losses) / scored`, and
/// `dlogits = weight (softmax - q) / scored`. Rows whose label is `ignore` are not scored; their loss and gradient are
/// zero.
///
/// The `N` rows of logits may be a strip of the `M` rows of the batch, namely the rows from `first` on. Scored rows are
/// counted over all `M` labels, `losses` is written for the rows of the strip, and `loss` sums over all rows up to the
/// end of the strip. If the strips run in order, the last one leaves the same loss as a single pass over all rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// Logits, `[N, V]`.
    pub logits: Tensor,
    /// Labels, `[M]`, I32, each in `0..V` or equal to `ignore`.
    pub labels: Tensor,
    /// Second labels and their weights.
    pub mix: Option<Mix>,
    /// Divisor of the loss, `[1]`, accumulator type: the number of scored rows of the whole batch, when this is a
    /// micro-batch of it. Without it, the divisor is the number of scored rows here. Values below 1 count as 1, so that
    /// the loss is zero if no row is scored.
    pub scored: Option<Tensor>,
    /// Output: loss of each row before `weight` is applied, `[M]`, accumulator type. The rows before `first` are read
    /// and must hold the losses of the strips before.
    pub losses: Tensor,
    /// Output: the loss, `[1]`, accumulator type.
    pub loss: Tensor,
    /// The row of `labels` and `losses` that belongs to the first row of `logits`. 0 when `logits` holds all rows.
    pub first: usize,
    /// Output: gradient of the logits, `[N, V]`. May be the same view as `logits`. `None` computes only the loss.
    pub dlogits: Option<Tensor>,
    /// Label of rows that are not scored.
    pub ignore: i32,
    /// Label smoothing `s`, from 0 to below 1 (Szegedy et al., arXiv 1512.00567).
    pub smoothing: f64,
    /// Weight of this loss in the total loss, such as 1/2 for each of two heads.
    pub weight: f64,
}

impl CrossEntropy {
    /// Returns the rows of `labels` and `losses` that belong to the rows of `logits`.
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
            expect_rows("mix.labels", &mix.labels, 1, all)?;
            expect_dtype("mix.labels", &mix.labels, DType::I32)?;
            expect_rows("mix.share", &mix.share, 1, all)?;
            expect_accumulator(&self.logits, &[("mix.share", &mix.share)])?;
        }
        if let Some(t) = &self.scored {
            expect_shape("scored", t, &[1])?;
            expect_accumulator(&self.logits, &[("scored", t)])?;
        }
        if self.first.checked_add(rows).is_none_or(|end| end > all) {
            bail!("{rows} rows of logits from row {} on extend beyond the {all} rows of losses", self.first);
        }
        expect_shape("loss", &self.loss, &[1])?;
        expect_floats(&[("logits", &self.logits)])?;
        expect_accumulator(&self.logits, &[("losses", &self.losses), ("loss", &self.loss)])?;
        if let Some(t) = &self.dlogits {
            expect_rows("dlogits", t, rows, vocab)?;
            expect_floats(&[("logits", &self.logits), ("dlogits", t)])?;
        }
        if !(0.0..1.0).contains(&self.smoothing) {
            bail!("label smoothing is {} but must be at least 0 and below 1", self.smoothing);
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        // Maximum, subtraction, exponential and sum; the gradient adds a scaling and a subtraction.
        let each = if self.dlogits.is_some() { 6 } else { 4 };
        each * self.logits.numel() as u64
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        self.dlogits.map(|d| (self.logits, d))
    }
}
