use super::{Node, Recorded};
use crate::device::ops::{Access, Dropout, Mask, Operation};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// What the backward pass needs to know: the operation and the variables of its operands.
#[derive(Clone, Copy)]
pub(in crate::tape) struct DropoutNode {
    op: Dropout,
    x: Var,
    residual: Option<Var>,
    y: Var,
}

impl Recorded for DropoutNode {
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        self.op.operands(visit);
    }

    fn backward(self, tape: &mut Tape) {
        let DropoutNode { op, x, residual, y } = self;
        tape.dropout_backward(op, x, residual, y);
    }
}

impl Tape {
    /// Records dropout: sets elements of `x` to zero with probability `p`, scales the others by `1 / (1 - p)`, and adds
    /// `residual`. In evaluation `p` is 0. With `p` 0 and no residual, nothing is recorded and the result is `x`.
    pub fn dropout(&mut self, x: Var, residual: Option<Var>, p: f32) -> Var {
        self.push_dropout(x, residual, p, 1)
    }

    /// Like [`Tape::dropout`], but keeps or drops all elements of a sample of `x`, `[B, .., C]`, together. This is
    /// stochastic depth if `x` is what a block adds to the residual stream `residual`.
    pub fn drop_path(&mut self, x: Var, residual: Option<Var>, p: f32) -> Var {
        let t = self.tensor(x);
        let sample = t.numel().checked_div(t.dims()[0]).unwrap_or(0);
        self.push_dropout(x, residual, p, sample.max(1))
    }

    fn push_dropout(&mut self, x: Var, residual: Option<Var>, p: f32, unit: usize) -> Var {
        let p = if self.is_training() { p } else { 0.0 };
        if p == 0.0 && residual.is_none() {
            return x;
        }
        let tx = self.tensor(x);
        let needs = self.used(&[x]) | residual.is_some_and(|r| self.used(&[r]));
        let out = self.activation(tx.dims());
        let mask = Mask { p, site: self.next_site(), state: self.state };
        let op = Dropout { x: tx, residual: residual.map(|r| self.tensor(r)), out, mask, unit };
        self.push_op(op);
        let y = self.push_result(out, needs);
        self.push_node(Node::Dropout(DropoutNode { op, x, residual, y }));
        y
    }

    /// Records the gradient of [`Tape::dropout`] and [`Tape::drop_path`].
    fn dropout_backward(&mut self, op: Dropout, x: Var, residual: Option<Var>, y: Var) {
        let Some(dy) = self.gradient(y) else { return };
        if let Some(residual) = residual {
            self.give(residual, dy);
        }
        if self.needs(x) {
            let dx = self.activation(dy.dims());
            self.push_op(Dropout { x: dy, residual: None, out: dx, ..op });
            self.give(x, dx);
        }
        self.done(y);
    }
}
