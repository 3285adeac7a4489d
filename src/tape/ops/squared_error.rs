use super::LossOptions;
use super::{Node, Recorded};
use crate::device::ops::{Access, Operation, SquaredError};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// What the backward pass needs to know: the operation and the variables of its operands.
#[derive(Clone, Copy)]
pub(in crate::tape) struct SquaredErrorNode {
    op: SquaredError,
    x: Var,
    loss: Var,
}

impl Recorded for SquaredErrorNode {
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        self.op.operands(visit);
    }

    fn backward(self, tape: &mut Tape) {
        // The forward operation of a loss has already computed the gradient of its input.
        if let (Some(d), true) = (self.op.dx, tape.vars[self.loss.0 as usize].uses > 0) {
            tape.give(self.x, d);
        }
    }
}

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
        self.push_node(Node::SquaredError(SquaredErrorNode { op, x, loss: result }));
        result
    }
}
