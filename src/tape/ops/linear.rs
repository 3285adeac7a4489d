use super::{Node, Recorded};
use crate::device::ops::{Access, Activation, ActivationBackward, ColumnSum, Epilogue, Linear, Operation};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Layout of a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weight {
    /// `[in, out]`, as in the published GPT-2 weights.
    #[default]
    InOut,
    /// `[out, in]`, as in PyTorch's `nn.Linear`, and as tied embeddings have it.
    OutIn,
}

/// Options of [`Tape::linear`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Affine {
    /// Bias, `[out]`.
    pub bias: Option<Var>,
    /// Activation, applied after the bias.
    pub activation: Option<Activation>,
    /// Added after the activation, in the shape of the result.
    pub residual: Option<Var>,
    /// Layout of the weight.
    pub weight: Weight,
    /// Rows of the result are padded in memory to a multiple of this many elements. 0 means 8.
    pub pad: usize,
}

impl Affine {
    /// Returns options with a bias and nothing else.
    pub fn bias(bias: Var) -> Self {
        Affine { bias: Some(bias), ..Affine::default() }
    }

    /// Sets the activation.
    #[must_use]
    pub fn activation(self, kind: Activation) -> Self {
        Affine { activation: Some(kind), ..self }
    }

    /// Sets the residual.
    #[must_use]
    pub fn residual(self, x: Var) -> Self {
        Affine { residual: Some(x), ..self }
    }
}

/// What the backward pass needs to know: the operation and the variables of its operands.
#[derive(Clone, Copy)]
pub(in crate::tape) struct LinearNode {
    op: Linear,
    x: Var,
    w: Var,
    bias: Option<Var>,
    residual: Option<Var>,
    y: Var,
}

impl Recorded for LinearNode {
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        self.op.operands(visit);
    }

    fn backward(self, tape: &mut Tape) {
        let LinearNode { op, x, w, bias, residual, y } = self;
        tape.linear_backward(op, x, w, bias, residual, y);
    }
}

impl Tape {
    /// Records `activation(x W + bias) + residual` for `x` of shape `[.., in]`. The result is `[.., out]`.
    pub fn linear(&mut self, x: Var, w: Var, with: Affine) -> Var {
        let (tx, tw) = (self.tensor(x), self.tensor(w));
        let tb = with.weight == Weight::OutIn;
        let out_width = if tb { tw.rows() } else { tw.width() };
        let shape = tx.shape().with_last(out_width);
        let pad = if with.pad == 0 { 8 } else { with.pad };
        let needs = self.used(&[x, w]) | with.bias.is_some_and(|b| self.used(&[b]));
        let needs = needs | with.residual.is_some_and(|r| self.used(&[r]));
        let out = self.buffer(shape.dims(), pad);
        let pre = match with.activation {
            Some(_) if self.is_training() => Some(self.buffer(shape.dims(), pad)),
            _ => None,
        };
        let op = Linear {
            bias: with.bias.map(|b| self.tensor(b)),
            epilogue: with.activation.map_or(Epilogue::None, |kind| Epilogue::Activate { kind, pre }),
            residual: with.residual.map(|r| self.tensor(r)),
            ..Linear::product(tx, tw, out, (false, tb))
        };
        self.push_op(op);
        let y = self.push_result(out, needs);
        self.push_node(Node::Linear(LinearNode { op, x, w, bias: with.bias, residual: with.residual, y }));
        y
    }

    /// Records the gradient of [`Tape::linear`].
    fn linear_backward(&mut self, op: Linear, x: Var, w: Var, bias: Option<Var>, residual: Option<Var>, y: Var) {
        let Some(mut dy) = self.gradient(y) else { return };
        if let Some(residual) = residual {
            self.give(residual, dy);
        }
        if let (Epilogue::Activate { kind, pre: Some(pre) }, false) =
            (op.epilogue, self.vars[y.0 as usize].through_activation)
        {
            // No consumer could fuse the activation's derivative into its matrix product, so it needs a separate pass,
            // in place.
            let dx = self.own(y, dy);
            self.push_op(ActivationBackward { kind, dout: dx, pre, dx });
            dy = dx;
        }
        if let Some(bias) = bias.filter(|b| self.needs(*b)) {
            let (out, accumulate) = self.target(bias);
            self.push_op(ColumnSum { x: dy, out, accumulate });
        }
        if let Some((kind, pre)) = self.activation_behind(x) {
            // Compute the gradient of the input first: it also recomputes x, in the memory of `pre`, for the gradient
            // of the weight. So x need not be saved after the forward product that reads it.
            let value = self.needs(w).then(|| self.buffer_like(&pre));
            let (out, _) = self.target(x);
            let product = Linear::product(dy, op.b, out, (false, !op.tb));
            self.push_op(Linear { epilogue: Epilogue::ActivateGrad { kind, pre, value }, ..product });
            self.vars[x.0 as usize].through_activation = true;
            if let Some(value) = value {
                self.weight_gradient(op.tb, value, dy, w);
            }
        } else {
            if self.needs(w) {
                self.weight_gradient(op.tb, op.a, dy, w);
            }
            if self.needs(x) {
                let (out, accumulate) = self.target(x);
                self.push_op(Linear { accumulate, ..Linear::product(dy, op.b, out, (false, !op.tb)) });
            }
        }
        self.done(y);
    }

    /// Records the gradient of a weight: `x^T dy`, or its transpose if the weight is stored transposed.
    fn weight_gradient(&mut self, transposed: bool, x: Tensor, dy: Tensor, w: Var) {
        let (out, accumulate) = self.target(w);
        let (a, b) = if transposed { (dy, x) } else { (x, dy) };
        self.push_op(Linear { accumulate, ..Linear::product(a, b, out, (true, false)) });
    }

    /// Returns the activation that computed `x` and its pre-activation, if nothing else reads `x`. The matrix product
    /// that computes the gradient of `x` can then apply the activation's derivative in its epilogue.
    fn activation_behind(&self, x: Var) -> Option<(Activation, Tensor)> {
        let variable = &self.vars[x.0 as usize];
        if !variable.needs_gradient || variable.gradient.is_some() {
            return None;
        }
        match self.nodes.get(variable.node?)? {
            Node::Linear(LinearNode {
                op: Linear { epilogue: Epilogue::Activate { kind, pre: Some(pre) }, residual: None, .. },
                y,
                ..
            }) if *y == x && variable.uses == 1 => Some((*kind, *pre)),
            _ => None,
        }
    }
}
