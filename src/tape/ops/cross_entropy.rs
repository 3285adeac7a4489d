use super::linear_cross_entropy::labels_of;
use crate::device::ops::{CrossEntropy, Mix};
use crate::tape::node::Node;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Of a loss.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// Rows with this label are not scored.
    pub ignore: i32,
    pub smoothing: f64,
    /// Weight in the total.
    pub weight: f64,
    /// `[1]`, wide, in memory of the caller: how many items the whole batch scores, when this step is a micro-batch of it. The loss
    /// is the sum over the items scored here, divided by that number: over all micro-batches it adds up to the mean of the
    /// batch. `None`: the mean over the items scored here.
    pub scored: Option<Tensor>,
    /// Rows of logits that [`Tape::linear_cross_entropy`] makes at a time; 0: as many as its file finds best.
    pub strip: usize,
}

impl Default for LossOptions {
    fn default() -> Self {
        LossOptions { ignore: -100, smoothing: 0.0, weight: 1.0, scored: None, strip: 0 }
    }
}

impl Tape {
    /// Mean cross-entropy of logits `[.., V]` against labels (as many as there are rows): `[1]`.
    pub fn cross_entropy(&mut self, logits: Var, labels: Var, options: LossOptions) -> Var {
        self.push_cross_entropy(logits, labels, None, options)
    }

    /// As [`Tape::cross_entropy`], against two labels for each row: `labels` with the part `share` `[N]` in 0 to 1, numbers of
    /// the wide type, and `others` with the rest (mixup, cutmix).
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
        self.push_node(Node::CrossEntropy { op, logits, loss: result });
        result
    }
}
