use super::{Node, Recorded};
use crate::device::ops::{Access, Accumulate, LayerNorm, LayerNormBackward, Operation};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// What the backward pass needs to know: the operation and the variables of its operands.
#[derive(Clone, Copy)]
pub(in crate::tape) struct LayerNormNode {
    op: LayerNorm,
    x: Var,
    residual: Option<(Var, Var)>,
    weight: Var,
    bias: Var,
    y: Var,
}

impl Recorded for LayerNormNode {
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        self.op.operands(visit);
    }

    fn backward(self, tape: &mut Tape) {
        let LayerNormNode { op, x, residual, weight, bias, y } = self;
        tape.layernorm_backward(op, x, residual, weight, bias, y);
    }
}

impl Tape {
    /// Records the LayerNorm of `x`, `[.., C]`, with `weight` and `bias`, both `[C]`.
    pub fn layernorm(&mut self, x: Var, weight: Var, bias: Var, eps: f64) -> Var {
        self.push_layernorm(x, None, weight, bias, eps).1
    }

    /// Records a residual addition fused with LayerNorm. Returns `(x + residual, layernorm(x + residual))`.
    pub fn residual_layernorm(&mut self, x: Var, residual: Var, weight: Var, bias: Var, eps: f64) -> (Var, Var) {
        self.push_layernorm(x, Some(residual), weight, bias, eps)
    }

    fn push_layernorm(&mut self, x: Var, residual: Option<Var>, weight: Var, bias: Var, eps: f64) -> (Var, Var) {
        let tx = self.tensor(x);
        let needs = self.used(&[x, weight, bias]) | residual.is_some_and(|r| self.used(&[r]));
        let sum = residual.map(|_| self.activation(tx.dims()));
        let out = self.activation(tx.dims());
        let (mean, rstd) = (self.wide_buffer(&[tx.rows()]), self.wide_buffer(&[tx.rows()]));
        let op = LayerNorm {
            x: tx,
            residual: residual.map(|r| self.tensor(r)),
            sum,
            weight: self.tensor(weight),
            bias: self.tensor(bias),
            out,
            mean,
            rstd,
            eps,
        };
        self.push_op(op);
        let sum = sum.map(|t| self.push_result(t, needs));
        let y = self.push_result(out, needs);
        self.push_node(Node::LayerNorm(LayerNormNode { op, x, residual: residual.zip(sum), weight, bias, y }));
        (sum.unwrap_or(x), y)
    }

    /// Records the gradient of both.
    fn layernorm_backward(
        &mut self,
        op: LayerNorm,
        x: Var,
        residual: Option<(Var, Var)>,
        weight: Var,
        bias: Var,
        y: Var,
    ) {
        // The value that was normalized: the sum if there is a residual, else x.
        let inner = residual.map_or(x, |(_, sum)| sum);
        if let Some(dout) = self.gradient(y) {
            let (dx, accumulate_dx) = self.target(inner);
            let ((mut dweight, accumulate), (mut dbias, add_bias)) = (self.target(weight), self.target(bias));
            let finished = [dweight, dbias];
            // If a weight is used twice with different biases, only one of the two gradients is added to. Compute both
            // separately.
            let apart = accumulate != add_bias;
            if apart {
                (dweight, dbias) = (self.buffer_like(&dweight), self.buffer_like(&dbias));
            }
            let (rows, width) = (op.x.rows(), op.x.width());
            let partials = self.wide_buffer(&[LayerNormBackward::partials(rows), 2 * width]);
            let (mean, rstd) = (op.mean, op.rstd);
            let x = op.sum.unwrap_or(op.x);
            self.push_op(LayerNormBackward {
                dout,
                x,
                weight: op.weight,
                mean,
                rstd,
                dx,
                accumulate_dx,
                dweight,
                dbias,
                accumulate: accumulate && !apart,
                partials,
            });
            if apart {
                for (x, out, add) in [(dweight, finished[0], accumulate), (dbias, finished[1], add_bias)] {
                    self.push_op(Accumulate { x, out, add });
                }
            }
            self.done(y);
        }
        if let (Some((residual, sum)), Some(d)) = (residual, self.gradient(inner)) {
            self.give(residual, d);
            self.give(x, d);
            self.done(sum);
        }
    }
}
