use super::{Access, Operation, expect_dtype, expect_floats, expect_rows, expect_shape, expect_wide};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Softmax, cross-entropy and the gradient of the logits in one pass.
///
/// With q = (1 - s) onehot(label) + s / V: `losses[n] = - sum over v of q[v] log softmax(logits[n])[v]`, `loss = weight x mean
/// over scored rows`, `dlogits = weight (softmax - q) / scored rows`. Rows whose label is `ignore` are not scored: loss
/// and gradient zero. Without any scored row the loss is zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CrossEntropy {
    /// `[N, V]`.
    pub logits: Tensor,
    /// `[N]`, each in `0..V` or `ignore`.
    pub labels: Tensor,
    /// `[N]`, unweighted, wide.
    pub losses: Tensor,
    /// `[1]`, wide.
    pub loss: Tensor,
    /// `[N, V]`; may be `logits` itself.
    pub dlogits: Option<Tensor>,
    pub ignore: i32,
    /// Label smoothing s, in `0..1` (Szegedy et al., arXiv 1512.00567).
    pub smoothing: f64,
    /// Weight of this loss in the total, for instance 1 / micro-batches.
    pub weight: f64,
}

impl Operation for CrossEntropy {
    const NAME: &'static str = "cross_entropy";

    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        visit(&mut self.logits, Access::Read);
        visit(&mut self.labels, Access::Read);
        visit(&mut self.losses, Access::Write);
        visit(&mut self.loss, Access::Write);
        if let Some(t) = &mut self.dlogits {
            visit(t, Access::Write);
        }
    }

    fn check(&self) -> Result<()> {
        let (rows, vocab) = (self.logits.rows(), self.logits.width);
        expect_rows("labels", &self.labels, 1, rows)?;
        expect_dtype("labels", &self.labels, DType::I32)?;
        expect_shape("losses", &self.losses, &[rows])?;
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
