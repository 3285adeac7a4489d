use super::linear_cross_entropy::labels_of;
use super::{Node, Recorded};
use crate::device::ops::{Access, CrossEntropy, Mix, Operation};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Options of a loss.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// Rows with this label are not scored.
    pub ignore: i32,
    /// Label smoothing, from 0 to below 1.
    pub smoothing: f64,
    /// Weight of this loss in the total loss.
    pub weight: f64,
    /// `[1]`, accumulator type, in memory of the caller: the number of items that the whole batch scores, when this
    /// step is a micro-batch of it. The loss is then the sum over the items scored here divided by this number, so that
    /// the losses of all micro-batches add up to the mean of the batch. `None` gives the mean over the items scored
    /// here.
    pub scored: Option<Tensor>,
    /// Number of rows of logits that [`Tape::linear_cross_entropy`] computes at a time. 0 selects it automatically.
    pub strip: usize,
}

impl Default for LossOptions {
    fn default() -> Self {
        LossOptions { ignore: -100, smoothing: 0.0, weight: 1.0, scored: None, strip: 0 }
    }
}

/// What the backward pass needs to know: the operation and the variables of its operands.
#[derive(Clone, Copy)]
pub(in crate::tape) struct CrossEntropyNode {
    op: CrossEntropy,
    logits: Var,
    loss: Var,
}

impl Recorded for CrossEntropyNode {
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        self.op.operands(visit);
    }

    fn backward(self, tape: &mut Tape) {
        // The forward operation of a loss has already computed the gradient of its input.
        if let (Some(d), true) = (self.op.dlogits, tape.vars[self.loss.0 as usize].uses > 0) {
            tape.give(self.logits, d);
        }
    }
}

impl Tape {
    /// Records the mean cross-entropy of logits `[.., V]` against labels, one for each row. The result is `[1]`.
    pub fn cross_entropy(&mut self, logits: Var, labels: Var, options: LossOptions) -> Var {
        self.push_cross_entropy(logits, labels, None, options)
    }

    /// Like [`Tape::cross_entropy`] with two labels for each row, for mixup and CutMix: `labels` have the weight
    /// `share`, `[N]` of the accumulator type from 0 to 1, and `others` have the weight `1 - share`.
    pub fn cross_entropy_mixed(
        &mut self,
        logits: Var,
        labels: Var,
        (others, share): (Var, Var),
        options: LossOptions,
    ) -> Var {
        self.push_cross_entropy(logits, labels, Some((others, share)), options)
    }

    fn push_cross_entropy(&mut self, logits: Var, labels: Var, mix: Option<(Var, Var)>, options: LossOptions) -> Var {
        let (z, labels) = (self.tensor(logits), self.tensor(labels));
        let rows = z.rows();
        let mix = mix.map(|(others, share)| Mix {
            labels: labels_of(self.tensor(others), rows),
            share: labels_of(self.tensor(share), rows),
        });
        let needs = self.used(&[logits]);
        let (losses, loss) = (self.wide_buffer(&[rows]), self.wide_buffer(&[1]));
        let dlogits = if needs && self.is_training() { Some(self.buffer(z.dims(), z.pitch())) } else { None };
        let LossOptions { ignore, smoothing, weight, scored, .. } = options;
        let labels = labels_of(labels, rows);
        let first = 0;
        let op =
            CrossEntropy { logits: z, labels, mix, scored, losses, loss, first, dlogits, ignore, smoothing, weight };
        self.push_op(op);
        let result = self.push_result(loss, needs);
        self.push_node(Node::CrossEntropy(CrossEntropyNode { op, logits, loss: result }));
        result
    }
}
