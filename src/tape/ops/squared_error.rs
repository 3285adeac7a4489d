use super::LossOptions;
use crate::device::ops::SquaredError;
use crate::tape::node::Node;
use crate::tape::{Tape, Var};

impl Tape {
    /// Records the mean squared error of `x`, `[.., C]`, against as many targets of the accumulator type. Elements
    /// whose target is NaN are not scored. The result is `[1]`.
    pub fn squared_error(&mut self, x: Var, targets: Var, options: LossOptions) -> Var {
        let (tx, targets) = (self.tensor(x), self.tensor(targets));
        // Targets may have other dimensions, such as a vector with one target per row. If their number is wrong, they
        // stay unchanged and the operation's check refuses them.
        let fits = targets.numel() == tx.numel() && targets.is_contiguous();
        let targets = if fits { targets.reshape(&[tx.rows(), tx.width()]) } else { targets };
        let needs = self.used(&[x]);
        let loss = self.wide_buffer(&[1]);
        let dx = if needs && self.is_training() { Some(self.buffer(tx.dims(), tx.pitch())) } else { None };
        let op = SquaredError { x: tx, targets, scored: options.scored, loss, dx, weight: options.weight };
        self.push_op(op);
        let result = self.push_result(loss, needs);
        self.push_node(Node::SquaredError { op, x, loss: result });
        result
    }
}
