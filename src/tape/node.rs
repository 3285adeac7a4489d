//! What backward needs to know of each forward operation.

use super::ops::linear_cross_entropy::Head;
use super::{Tape, Var, move_to, rebind};
use crate::device::ops::{self, Access, Operation};
use crate::tensor::{Place, Tensor};
use std::ops::Range;

/// A recorded operation with the variables behind its operands.
#[derive(Clone, Copy)]
pub(super) enum Node {
    Linear { op: ops::Linear, x: Var, w: Var, bias: Option<Var>, residual: Option<Var>, y: Var },
    Embedding { op: ops::Embedding, table: Var, positions: Option<Var>, padding: Option<u32>, y: Var },
    LayerNorm { op: ops::LayerNorm, x: Var, residual: Option<(Var, Var)>, weight: Var, bias: Var, y: Var },
    Attention { op: ops::Attention, qkv: Var, y: Var },
    Dropout { op: ops::Dropout, x: Var, residual: Option<Var>, y: Var },
    CrossEntropy { op: ops::CrossEntropy, logits: Var, loss: Var },
    LinearCrossEntropy(Head),
    SquaredError { op: ops::SquaredError, x: Var, loss: Var },
}

impl Node {
    /// Visits the operands of its operation.
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        match self {
            Node::Linear { op, .. } => op.operands(visit),
            Node::Embedding { op, .. } => op.operands(visit),
            Node::LayerNorm { op, .. } => op.operands(visit),
            Node::Attention { op, .. } => op.operands(visit),
            Node::Dropout { op, .. } => op.operands(visit),
            Node::CrossEntropy { op, .. } => op.operands(visit),
            Node::SquaredError { op, .. } => op.operands(visit),
            // It has none yet, and lies in no segment.
            Node::LinearCrossEntropy(_) => {}
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
            self.nodes[i].operands(&mut |t, _| move_to(t, &mut moved));
        }
    }
}
