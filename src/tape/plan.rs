//! Assigns offsets to numbered buffers. Operations without effect are dropped. A buffer lives from its first to its
//! last use. Larger buffers are placed first, each at the lowest offset that is free for its whole lifetime.

use super::{Buffer, StepCost, UNCAPTURED, rebind};
use crate::device::Graph;
use crate::device::ops::{Access, Op};
use crate::tensor::{Place, Tensor};

/// A recorded step with the memory of its buffers.
pub(super) struct Plan {
    /// The operations as recorded.
    recorded: Vec<Op>,
    /// The buffers as recorded.
    buffers: Vec<Buffer>,
    /// Offset in bytes of each buffer in the activation arena.
    offsets: Vec<usize>,
    /// The operations that have an effect, with their operands in memory after [`Plan::finish`].
    pub placed: Vec<Op>,
    /// Cost of the step.
    pub cost: StepCost,
    /// The captured list.
    pub graph: Graph,
}

/// Lifetime of a buffer.
#[derive(Clone, Copy)]
struct Life {
    /// The first operation that uses the buffer, or `usize::MAX` if none does.
    first: usize,
    /// The last operation that uses the buffer, or the number of operations if it is kept.
    last: usize,
    bytes: usize,
    /// The buffer whose memory this one shares, or this buffer itself.
    owner: usize,
}

impl Plan {
    /// Plans the memory of a step. `again` tells for each operation whether it recomputes something.
    pub fn new(recorded: &[Op], again: &[bool], buffers: &[Buffer]) -> Self {
        let live = live(recorded, buffers);
        let placed: Vec<Op> = recorded.iter().zip(&live).filter(|(_, l)| **l).map(|(op, _)| *op).collect();
        let (offsets, activation_bytes) = place(&lives(&placed, buffers));
        let mut cost = StepCost { activation_bytes, ..StepCost::default() };
        for ((op, again), _) in recorded.iter().zip(again).zip(&live).filter(|(_, live)| **live) {
            let flops = op.cost().flops;
            cost.hardware_flops += flops;
            cost.model_flops += if *again { 0 } else { flops };
        }
        Plan { recorded: recorded.to_vec(), buffers: buffers.to_vec(), offsets, placed, cost, graph: UNCAPTURED }
    }

    /// Returns whether this is the plan for a step with these operations and buffers.
    pub fn is_for(&self, ops: &[Op], buffers: &[Buffer]) -> bool {
        self.recorded == ops && self.buffers == buffers
    }

    /// Replaces the buffers of all operations by their memory in `arena`.
    pub fn finish(&mut self, arena: u32) {
        let offsets = &self.offsets;
        for op in &mut self.placed {
            op.operands(&mut |t, _| *t = bind(offsets, *t, arena));
        }
    }

    /// Returns the memory of a tensor, given the activation arena.
    pub fn place(&self, tensor: Tensor, arena: u32) -> Tensor {
        bind(&self.offsets, tensor, arena)
    }
}

/// Replaces the buffer of a tensor by its memory in `arena`.
fn bind(offsets: &[usize], tensor: Tensor, arena: u32) -> Tensor {
    let Place::Buffer(number) = tensor.place() else { return tensor };
    let start = offsets[number as usize] / tensor.dtype().bytes();
    tensor.with_offset(tensor.offset() + start).with_place(Place::Arena(arena))
}

/// Returns for each operation whether it has an effect: it writes memory of the caller, a kept buffer, or a buffer that
/// a later operation with an effect uses.
fn live(ops: &[Op], buffers: &[Buffer]) -> Vec<bool> {
    let mut wanted: Vec<bool> = buffers.iter().map(|b| b.keep).collect();
    let mut live = vec![false; ops.len()];
    for (op, live) in ops.iter().zip(&mut live).rev() {
        let mut op = *op;
        op.operands(&mut |t, access| {
            let needed = match t.place() {
                Place::Arena(_) => true,
                Place::Buffer(b) => wanted[b as usize],
            };
            *live |= access != Access::Read && needed;
        });
        if *live {
            rebind(&mut op, &mut |b| {
                wanted[b as usize] = true;
                Place::Buffer(b)
            });
        }
    }
    live
}

/// Returns the lifetimes of all buffers, with buffers that are overwritten in place sharing memory.
fn lives(ops: &[Op], buffers: &[Buffer]) -> Vec<Life> {
    let mut lives: Vec<Life> = (0..buffers.len())
        .map(|owner| Life { first: usize::MAX, last: 0, bytes: buffers[owner].bytes, owner })
        .collect();
    for (i, op) in ops.iter().enumerate() {
        rebind(&mut { *op }, &mut |b| {
            let life = &mut lives[b as usize];
            life.first = life.first.min(i);
            life.last = i;
            Place::Buffer(b)
        });
    }
    for (life, buffer) in lives.iter_mut().zip(buffers) {
        if buffer.keep && life.first != usize::MAX {
            life.last = ops.len();
        }
    }
    for (i, op) in ops.iter().enumerate() {
        let Some((input, output)) = op.in_place() else { continue };
        let (Place::Buffer(a), Place::Buffer(b)) = (input.place(), output.place()) else { continue };
        let (a, b) = (a as usize, b as usize);
        let same = (input.offset(), input.width(), input.pitch(), input.numel())
            == (output.offset(), output.width(), output.pitch(), output.numel());
        // An input that the operation reads through a second operand as well, as in x + f(x), must not be overwritten
        // in place.
        let mut reads = 0;
        rebind(&mut { *op }, &mut |number| {
            reads += usize::from(number as usize == a);
            Place::Buffer(number)
        });
        let dies = lives[a].last == i && reads == 1;
        if a != b && same && dies && lives[b].first == i && lives[a].bytes == lives[b].bytes {
            // The input's lifetime ends here and the output's begins: both share the owner's memory, whose lifetime is
            // extended.
            let owner = lives[a].owner;
            let last = lives[b].last;
            lives[b].owner = owner;
            lives[owner].last = lives[owner].last.max(last);
        }
    }
    lives
}

/// Returns the offset of each buffer in bytes, and the size of the arena.
fn place(lives: &[Life]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> =
        (0..lives.len()).filter(|&i| lives[i].owner == i && lives[i].first != usize::MAX).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lives[i].bytes), lives[i].first));
    let mut offsets = vec![0; lives.len()];
    let (mut placed, mut total): (Vec<usize>, usize) = (Vec::new(), 0);
    for i in order {
        let life = lives[i];
        let mut offset = 0;
        // `placed` is sorted by offset: skip every buffer with an overlapping lifetime that leaves no large enough gap
        // below it.
        for &j in placed.iter().filter(|&&j| lives[j].first <= life.last && life.first <= lives[j].last) {
            if offsets[j] >= life.bytes.saturating_add(offset) {
                break;
            }
            offset = offset.max(lives[j].bytes.saturating_add(offsets[j]));
        }
        offsets[i] = offset;
        total = total.max(life.bytes.saturating_add(offset));
        let at = placed.partition_point(|&j| offsets[j] <= offset);
        placed.insert(at, i);
    }
    for i in 0..lives.len() {
        offsets[i] = offsets[lives[i].owner];
    }
    (offsets, total)
}
