//! The nodes of the computation graph: what the backward pass needs to know about each forward operation.

use super::ops::linear_cross_entropy::Head;
use super::{Tape, Var, move_to, rebind};
use crate::device::ops::{self, Access, Operation};
use crate::tensor::{Place, Tensor};
use std::ops::Range;

/// A recorded forward operation and the variables of its operands.
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
    /// Calls `visit` for all operands of the node's operation.
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        match self {
            Node::Linear { op, .. } => op.operands(visit),
            Node::Embedding { op, .. } => op.operands(visit),
            Node::LayerNorm { op, .. } => op.operands(visit),
            Node::Attention { op, .. } => op.operands(visit),
            Node::Dropout { op, .. } => op.operands(visit),
            Node::CrossEntropy { op, .. } => op.operands(visit),
            Node::SquaredError { op, .. } => op.operands(visit),
            // Its operations are not recorded yet, and it is never in a segment.
            Node::LinearCrossEntropy(_) => {}
        }
    }
}

/// A block of the forward pass that is recomputed in the backward pass.
#[derive(Clone)]
pub(super) struct Segment {
    /// The nodes recorded in the block.
    pub nodes: Range<usize>,
    /// The operations recorded in the block.
    pub ops: Range<usize>,
    /// The buffers created in the block.
    pub buffers: Range<u32>,
}

impl Tape {
    /// Records the operations of a segment again, with new buffers, and makes its nodes refer to these. Variables still
    /// refer to the original values, which may be kept; the backward pass uses only the shapes of variables.
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
