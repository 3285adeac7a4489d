//! What backward needs to know of each forward operation.

use super::{Tape, Var, rebind};
use crate::device::ops::{self, Op};
use crate::tensor::Place;
use std::ops::Range;

/// A recorded operation with the variables behind its operands.
#[derive(Clone, Copy)]
pub(super) enum Node {
    Linear { op: ops::Linear, x: Var, w: Var, bias: Option<Var>, residual: Option<Var>, y: Var },
    Embedding { op: ops::Embedding, table: Var, positions: Option<Var>, y: Var },
    LayerNorm { op: ops::LayerNorm, x: Var, residual: Option<(Var, Var)>, weight: Var, bias: Var, y: Var },
    Attention { op: ops::Attention, qkv: Var, y: Var },
    Dropout { op: ops::Dropout, x: Var, residual: Option<Var>, y: Var },
    CrossEntropy { op: ops::CrossEntropy, logits: Var, loss: Var },
}

impl Node {
    fn op(&self) -> Op {
        match *self {
            Node::Linear { op, .. } => op.into(),
            Node::Embedding { op, .. } => op.into(),
            Node::LayerNorm { op, .. } => op.into(),
            Node::Attention { op, .. } => op.into(),
            Node::Dropout { op, .. } => op.into(),
            Node::CrossEntropy { op, .. } => op.into(),
        }
    }

    fn set_op(&mut self, new: Op) {
        match (self, new) {
            (Node::Linear { op, .. }, Op::Linear(new)) => *op = new,
            (Node::Embedding { op, .. }, Op::Embedding(new)) => *op = new,
            (Node::LayerNorm { op, .. }, Op::LayerNorm(new)) => *op = new,
            (Node::Attention { op, .. }, Op::Attention(new)) => *op = new,
            (Node::Dropout { op, .. }, Op::Dropout(new)) => *op = new,
            (Node::CrossEntropy { op, .. }, Op::CrossEntropy(new)) => *op = new,
            _ => unreachable!("an operation keeps its kind when its buffers move"),
        }
    }
}

/// A block that is computed again in the backward pass.
#[derive(Clone)]
pub(super) struct Segment {
    pub nodes: Range<usize>,
    pub ops: Range<usize>,
    pub buffers: Range<u32>,
}

impl Tape {
    /// Emits the segment's operations once more, into new buffers, and points its nodes there. Its variables stay with the
    /// first values, which may be kept; of a variable the walk back needs only the shape.
    pub(super) fn recompute(&mut self, number: usize) {
        let segment = self.segments[number].clone();
        let first = self.buffers.len() as u32;
        for b in segment.buffers.clone() {
            let bytes = self.buffers[b as usize].bytes;
            self.buffers.push(super::Buffer { bytes, keep: false });
            self.shares.push(0);
        }
        let mut moved =
            |b: u32| Place::Buffer(if segment.buffers.contains(&b) { first + (b - segment.buffers.start) } else { b });
        self.recomputing = true;
        for i in segment.ops.clone() {
            let mut op = self.ops[i];
            rebind(&mut op, &mut moved);
            self.push_op(op);
        }
        self.recomputing = false;
        for i in segment.nodes.clone() {
            let mut op = self.nodes[i].op();
            rebind(&mut op, &mut moved);
            self.nodes[i].set_op(op);
        }
    }
}
