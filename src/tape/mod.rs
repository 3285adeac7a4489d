//! The tape records the operations of one step while the model's forward code runs, and derives the backward pass from
//! them.
//!
//! Recording computes nothing. Operations refer to numbered buffers. [`Tape::run`] assigns every buffer an offset in
//! one activation arena, according to its lifetime (`plan.rs`), and passes the list to the device. A step that records
//! the same operations as an earlier one reuses its plan: the offsets are the same, nothing is allocated, and the
//! captured list is replayed.

mod grad;
mod ops;
mod plan;
mod segment;

pub use ops::{Affine, LossOptions, Weight};

use crate::bail;
use crate::device::ops::{ALIGN, Access, Op, StepState};
use crate::device::{Device, Graph};
use crate::error::{Error, Result};
use crate::tensor::{DType, Place, Tensor};
use ops::Node;
use plan::Plan;
use segment::Segment;

/// Handle of a value of the step being recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var(u32);

/// The purpose of a recorded step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Forward pass only, without dropout.
    Evaluate,
    /// Forward and backward pass.
    Train {
        /// Adds to the parameter gradients, for micro-batches after the first, instead of overwriting them.
        accumulate: bool,
    },
}

/// The cost of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCost {
    /// FLOPs, not counting recomputed segments.
    pub model_flops: u64,
    /// FLOPs, counting recomputed segments.
    pub hardware_flops: u64,
    /// Bytes of the activation arena that the step needs.
    pub activation_bytes: usize,
}

/// What is known about a [`Var`].
#[derive(Clone, Copy)]
struct Variable {
    value: Tensor,
    /// For a parameter, its view in the gradient arena. Otherwise a buffer, once the backward pass has assigned one.
    gradient: Option<Tensor>,
    is_param: bool,
    needs_gradient: bool,
    /// Whether the parameter's gradient was written in this step.
    written: bool,
    /// Whether `gradient` is already the gradient of the activation's input instead of its output (see
    /// `ops/linear.rs`).
    through_activation: bool,
    /// The node that computes the value.
    node: Option<usize>,
    /// Number of operations that read the value. A loss that is differentiated counts one more.
    uses: u32,
}

/// A buffer that has no memory yet.
#[derive(Clone, Copy, PartialEq)]
struct Buffer {
    bytes: usize,
    /// Whether it must be readable after the step.
    keep: bool,
}

/// Records steps, plans their memory and runs them.
pub struct Tape {
    /// The compute type.
    float: DType,
    /// The [`StepState`] that dropout reads.
    state: Tensor,
    mode: Mode,
    vars: Vec<Variable>,
    nodes: Vec<Node>,
    segments: Vec<Segment>,
    in_segment: bool,
    /// Whether there is a loss whose operations are recorded only by `backward`.
    unrecorded: bool,
    /// Number of dropout sites recorded so far.
    sites: u32,
    ops: Vec<Op>,
    /// For each of `ops`, whether it recomputes something.
    again: Vec<bool>,
    recomputing: bool,
    buffers: Vec<Buffer>,
    /// For each of `buffers`, the number of variables that still use it as their gradient.
    shares: Vec<u32>,
    plans: Vec<Plan>,
    /// Index in `plans` of the step that ran last.
    current: Option<usize>,
    /// Whether the current recording has run.
    ran: bool,
    /// The activation arena and its size in bytes.
    arena: Option<(u32, usize)>,
}

/// Maximum number of cached plans. When there are more, the oldest is discarded.
const PLANS: usize = 16;

impl Tape {
    /// Creates a tape for steps that compute in `float`, which the device must support. `state` is the [`StepState`]
    /// that dropout reads.
    pub fn new(float: DType, state: Tensor) -> Self {
        debug_assert_eq!(state.numel(), StepState::WORDS);
        Tape {
            float,
            state,
            mode: Mode::Evaluate,
            vars: Vec::new(),
            nodes: Vec::new(),
            segments: Vec::new(),
            in_segment: false,
            unrecorded: false,
            sites: 0,
            ops: Vec::new(),
            again: Vec::new(),
            recomputing: false,
            buffers: Vec::new(),
            shares: Vec::new(),
            plans: Vec::new(),
            current: None,
            ran: false,
            arena: None,
        }
    }

    /// Starts to record a step and discards the previous recording.
    pub fn begin(&mut self, mode: Mode) {
        self.mode = mode;
        self.ran = false;
        self.vars.clear();
        self.nodes.clear();
        self.segments.clear();
        self.in_segment = false;
        self.unrecorded = false;
        self.sites = 0;
        self.ops.clear();
        self.again.clear();
        self.buffers.clear();
        self.shares.clear();
    }

    /// Returns whether the step is recorded with gradients.
    pub fn is_training(&self) -> bool {
        self.mode != Mode::Evaluate
    }

    /// Adds an input: memory that the caller fills before each run, such as tokens, labels or pixels. It has no
    /// gradient.
    pub fn input(&mut self, value: Tensor) -> Var {
        self.push_var(value, None, false)
    }

    /// Adds a parameter and the memory for its gradient.
    pub fn param(&mut self, value: Tensor, gradient: Tensor) -> Var {
        let var = self.push_var(value, Some(gradient), true);
        self.vars[var.0 as usize].is_param = true;
        var
    }

    /// Returns row `row` of a value `[.., C]` as `[1, C]`. It is a view and has no gradient.
    pub fn row(&mut self, var: Var, row: usize) -> Var {
        let view = self.tensor(var).row_block(row, 1);
        self.push_var(view, None, false)
    }

    /// Returns the dimensions of a value.
    pub fn dims(&self, var: Var) -> &[usize] {
        self.vars[var.0 as usize].value.dims()
    }

    /// Keeps a value so that it can be read after the run ([`Tape::value`]).
    pub fn keep(&mut self, var: Var) {
        self.keep_tensor(self.tensor(var));
    }

    /// Records `f` as a segment with activation checkpointing: only its inputs are saved, and what `f` computes is
    /// recomputed in the backward pass. A segment within a segment becomes part of the outer one.
    pub fn segment(&mut self, f: impl FnOnce(&mut Tape) -> Var) -> Var {
        if self.in_segment || !self.is_training() {
            return f(self);
        }
        let start = (self.nodes.len(), self.ops.len(), self.buffers.len());
        self.in_segment = true;
        let out = f(self);
        self.in_segment = false;
        if self.nodes.len() > start.0 {
            self.segments.push(Segment {
                nodes: start.0..self.nodes.len(),
                ops: start.1..self.ops.len(),
                buffers: start.2 as u32..self.buffers.len() as u32,
            });
        }
        out
    }

    /// Appends an operation on the caller's memory, such as the optimizer update after a backward pass, so that both
    /// are in one captured list.
    pub fn append(&mut self, op: impl Into<Op>) {
        self.push_op(op);
    }

    /// Returns the operations recorded so far, which refer to numbered buffers.
    pub fn recorded(&self) -> &[Op] {
        &self.ops
    }

    /// Returns the cost of the recorded step without running it.
    pub fn expected_cost(&self) -> StepCost {
        Plan::new(&self.ops, &self.again, &self.buffers).cost
    }

    /// Runs the recorded step.
    ///
    /// # Errors
    /// When shapes do not fit, memory runs out, or an operation fails; also when training with
    /// [`Tape::linear_cross_entropy`] without a call of [`Tape::backward`].
    pub fn run(&mut self, device: &mut dyn Device) -> Result<()> {
        self.current = None;
        if self.unrecorded {
            bail!("in training, linear_cross_entropy is recorded by `backward`: call `backward` before `run`");
        }
        let found = self.plans.iter().position(|p| p.is_for(&self.ops, &self.buffers));
        let number = match found {
            Some(number) => number,
            None => self.plan(device)?,
        };
        self.current = Some(number);
        self.ran = true;
        device.replay(self.plans[number].graph)
    }

    /// Returns the tensor of a value after the run. The value must be an input, a parameter, or kept with
    /// [`Tape::keep`].
    ///
    /// # Errors
    /// When the value was not kept, or the current recording has not run.
    pub fn value(&self, var: Var) -> Result<Tensor> {
        self.placed(self.tensor(var))
    }

    /// Returns the cost of the step that ran last.
    pub fn cost(&self) -> StepCost {
        self.current.map_or(StepCost::default(), |number| self.plans[number].cost)
    }

    /// Returns the operations of the step that ran last, as they were passed to the device.
    pub fn placed_ops(&self) -> &[Op] {
        self.current.map_or(&[], |number| &self.plans[number].placed)
    }

    /// Returns where a tensor is in memory after the run.
    fn placed(&self, tensor: Tensor) -> Result<Tensor> {
        let Place::Buffer(number) = tensor.place() else { return Ok(tensor) };
        let plan = self.current.filter(|_| self.ran).map(|n| &self.plans[n]);
        let (Some(plan), Some((arena, _))) = (plan, self.arena) else {
            return Err(Error::new("this recording has not run yet: call `run` before reading a value"));
        };
        if !self.buffers[number as usize].keep {
            return Err(Error::new("this value was not kept: call `keep` on it before `run`"));
        }
        Ok(plan.place(tensor, arena))
    }

    /// Plans and captures the recorded step. Returns the index of the plan.
    fn plan(&mut self, device: &mut dyn Device) -> Result<usize> {
        let mut plan = Plan::new(&self.ops, &self.again, &self.buffers);
        let bytes = plan.cost.activation_bytes;
        if self.arena.is_none_or(|(_, size)| size < bytes) {
            self.forget(device);
            self.arena = Some((device.alloc(bytes).map_err(|e| e.at("activations of a step"))?, bytes));
        }
        if self.plans.len() == PLANS {
            device.release(self.plans.remove(0).graph);
        }
        plan.finish(self.arena.map_or(0, |(arena, _)| arena));
        plan.graph = device.capture(&plan.placed)?;
        self.plans.push(plan);
        Ok(self.plans.len() - 1)
    }

    /// Frees the activation arena and releases all plans.
    pub fn forget(&mut self, device: &mut dyn Device) {
        self.plans.drain(..).for_each(|plan| device.release(plan.graph));
        self.current = None;
        if let Some((arena, _)) = self.arena.take() {
            device.free(arena);
        }
    }

    /// Adds a variable.
    fn push_var(&mut self, value: Tensor, gradient: Option<Tensor>, needs_gradient: bool) -> Var {
        self.vars.push(Variable {
            value,
            gradient,
            is_param: false,
            needs_gradient,
            written: false,
            through_activation: false,
            node: None,
            uses: 0,
        });
        Var(self.vars.len() as u32 - 1)
    }

    /// Adds a variable for the result of the node that is pushed next.
    fn push_result(&mut self, value: Tensor, needs_gradient: bool) -> Var {
        let var = self.push_var(value, None, needs_gradient && self.is_training());
        self.vars[var.0 as usize].node = Some(self.nodes.len());
        var
    }

    /// Adds a node, if there will be a backward pass.
    fn push_node(&mut self, node: Node) {
        if self.is_training() {
            self.nodes.push(node);
        }
    }

    /// Adds an operation.
    fn push_op(&mut self, op: impl Into<Op>) {
        self.ops.push(op.into());
        self.again.push(self.recomputing);
    }

    fn tensor(&self, var: Var) -> Tensor {
        self.vars[var.0 as usize].value
    }

    /// Counts a use of each variable. Returns whether any of them needs a gradient.
    fn used(&mut self, vars: &[Var]) -> bool {
        vars.iter().fold(false, |any, v| {
            let var = &mut self.vars[v.0 as usize];
            var.uses += 1;
            any | var.needs_gradient
        })
    }

    fn keep_tensor(&mut self, tensor: Tensor) {
        if let Place::Buffer(number) = tensor.place() {
            self.buffers[number as usize].keep = true;
        }
    }

    /// Adds a buffer of the compute type, with rows padded to a multiple of `pad` elements.
    fn buffer(&mut self, dims: &[usize], pad: usize) -> Tensor {
        self.buffer_of(self.float, dims, pad)
    }

    /// Adds a buffer of the accumulator type.
    fn wide_buffer(&mut self, dims: &[usize]) -> Tensor {
        self.buffer_of(self.float.accumulator(), dims, 1)
    }

    /// Adds a buffer of type `dtype`, with rows padded to a multiple of `pad` elements if it has more than one
    /// dimension.
    fn buffer_of(&mut self, dtype: DType, dims: &[usize], pad: usize) -> Tensor {
        let number = self.buffers.len() as u32;
        let plain = Tensor::new(Place::Buffer(number), dtype, 0, dims);
        let tensor = if dims.len() > 1 { plain.with_pitch(plain.width().next_multiple_of(pad)) } else { plain };
        // Sizes that saturate are refused when the arena is allocated.
        let bytes = tensor.rows().saturating_mul(tensor.pitch()).max(1).saturating_mul(dtype.bytes());
        let bytes = bytes.checked_next_multiple_of(ALIGN * 4).unwrap_or(usize::MAX);
        self.buffers.push(Buffer { bytes, keep: false });
        self.shares.push(0);
        tensor
    }

    /// Adds a buffer for rows of activations, padded to multiples of 8 elements, which aligns them for 16-byte loads in
    /// bf16 and all wider types.
    fn activation(&mut self, dims: &[usize]) -> Tensor {
        self.buffer(dims, 8)
    }

    /// Returns the number of the next dropout site.
    fn next_site(&mut self) -> u32 {
        self.sites += 1;
        self.sites
    }
}

/// Replaces the buffers of an operation's operands by `f(buffer number)`.
fn rebind(op: &mut Op, f: &mut dyn FnMut(u32) -> Place) {
    op.operands(&mut |t: &mut Tensor, _: Access| move_to(t, f));
}

/// Replaces the buffer of a tensor by `f(buffer number)`. Tensors in arenas stay as they are.
fn move_to(t: &mut Tensor, f: &mut dyn FnMut(u32) -> Place) {
    if let Place::Buffer(number) = t.place() {
        *t = t.with_place(f(number));
    }
}

/// The graph of a plan that was not captured yet.
const UNCAPTURED: Graph = Graph(u32::MAX);
