//! Segments: blocks of the forward pass whose operations the backward pass records again.

use super::ops::Recorded;
use super::{Tape, move_to, rebind};
use crate::tensor::Place;
use std::ops::Range;

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
