use super::linear_cross_entropy::labels_of;
use crate::device::ops::CrossEntropy;
use crate::tape::node::Node;
use crate::tape::{Tape, Var};

/// Of a loss.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// Rows with this label are not scored.
    pub ignore: i32,
    pub smoothing: f64,
    /// Weight in the total: 1 / micro-batches when gradients accumulate.
    pub weight: f64,
    /// Rows of logits that [`Tape::linear_cross_entropy`] makes at a time; 0: as many as its file finds best.
    pub strip: usize,
}

impl Default for LossOptions {
    fn default() -> Self {
        LossOptions { ignore: -100, smoothing: 0.0, weight: 1.0, strip: 0 }
    }
}

impl Tape {
    /// Mean cross-entropy of logits `[.., V]` against labels (as many as there are rows): `[1]`.
    pub fn cross_entropy(&mut self, logits: Var, labels: Var, options: LossOptions) -> Var {
        let (z, labels) = (self.tensor(logits), self.tensor(labels));
        let rows = z.rows();
        let needs = self.used(&[logits]);
        let (losses, loss) = (self.wide_buffer(&[rows]), self.wide_buffer(&[1]));
        let dlogits = if needs && self.is_training() { Some(self.buffer(z.dims(), z.pitch)) } else { None };
        let LossOptions { ignore, smoothing, weight, .. } = options;
        let labels = labels_of(labels, rows);
        let op = CrossEntropy { logits: z, labels, losses, loss, first: 0, dlogits, ignore, smoothing, weight };
        self.push_op(op);
        let result = self.push_result(loss, needs);
        self.push_node(Node::CrossEntropy { op, logits, loss: result });
        result
    }
}
