use super::{Node, Recorded};
use crate::device::ops::{Access, Attention, AttentionBackward, Mask, Operation};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Returns views of the queries, keys and values in a fused `[B, T, 3 C]`, each `[B, T, H, D]`.
fn parts(qkv: &Tensor, heads: usize) -> [Tensor; 3] {
    let (batch, time, width) = (qkv.dims()[0], qkv.dims()[1], qkv.dims()[2] / 3);
    std::array::from_fn(|i| qkv.columns(i * width, width).reshape(&[batch, time, heads, width / heads]))
}

/// What the backward pass needs to know: the operation and the variables of its operands.
#[derive(Clone, Copy)]
pub(in crate::tape) struct AttentionNode {
    op: Attention,
    qkv: Var,
    y: Var,
}

impl Recorded for AttentionNode {
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        self.op.operands(visit);
    }

    fn backward(self, tape: &mut Tape) {
        let AttentionNode { op, qkv, y } = self;
        tape.attention_backward(op, qkv, y);
    }
}

impl Tape {
    /// Records self-attention over a fused `[B, T, 3 C]` of queries, keys and values. The result is `[B, T, C]`.
    ///
    /// `key_mask`, `[B, T]` of I32, hides keys where it is 0. `dropout` is the probability of dropping an attention
    /// weight.
    pub fn attention(&mut self, qkv: Var, heads: usize, causal: bool, key_mask: Option<Var>, dropout: f32) -> Var {
        let fused = self.tensor(qkv);
        let (batch, time, width) = (fused.dims()[0], fused.dims()[1], fused.dims()[2] / 3);
        let head = width / heads;
        let needs = self.used(&[qkv]);
        let out = self.activation(&[batch, time, width]);
        let lse = self.wide_buffer(&[batch, heads, time]);
        let site = self.next_site();
        let [q, k, v] = parts(&fused, heads);
        let op = Attention {
            q,
            k,
            v,
            out: out.reshape(&[batch, time, heads, head]),
            lse,
            key_mask: key_mask.map(|m| self.tensor(m)),
            causal,
            scale: 1.0 / (head as f64).sqrt(),
            dropout: (dropout > 0.0 && self.is_training()).then_some(Mask { p: dropout, site, state: self.state }),
        };
        self.push_op(op);
        let y = self.push_result(out, needs);
        self.push_node(Node::Attention(AttentionNode { op, qkv, y }));
        y
    }

    /// Records the gradient of [`Tape::attention`].
    fn attention_backward(&mut self, op: Attention, qkv: Var, y: Var) {
        let Some(dout) = self.gradient(y) else { return };
        let (batch, _, _, heads, _) = op.sizes();
        let dqkv = self.buffer_like(&self.tensor(qkv));
        let [dq, dk, dv] = parts(&dqkv, heads);
        let delta = self.wide_buffer(&[batch, heads, op.q.dims()[1]]);
        self.push_op(AttentionBackward { forward: op, dout: dout.reshape(op.q.dims()), dq, dk, dv, delta });
        self.give(qkv, dqkv);
        self.done(y);
    }
}
