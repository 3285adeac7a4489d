use super::LossOptions;
use crate::device::ops::SquaredError;
use crate::tape::node::Node;
use crate::tape::{Tape, Var};

impl Tape {
    /// Mean squared error of x `[.., C]` against as many targets, numbers of the wide type: `[1]`. Targets that are NaN are not
    /// scored.
    pub fn squared_error(&mut self, x: Var, targets: Var, options: LossOptions) -> Var {
        let (tx, targets) = (self.tensor(x), self.tensor(targets));
        // One target for each row is a vector in a batch. Too few or too many: left for the operation's check to refuse.
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
