//! The tape: the operations of one step, recorded by running the model's forward code, walked backwards for gradients.
//!
//! Recording computes nothing. Operations work on numbered buffers; [`Tape::run`] gives every buffer a place in one
//! activation arena by its lifetime (`plan.rs`) and hands the list to the device. A step that records what an earlier one
//! recorded finds that plan again: the same offsets, no allocation, and on devices that capture, one replayed graph.

mod grad;
mod node;
mod ops;
mod plan;

pub use ops::{Affine, LossOptions, Weight};

use crate::bail;
use crate::device::ops::{ALIGN, Access, Op, StepState};
use crate::device::{Device, Graph};
use crate::error::{Error, Result};
use crate::tensor::{DType, Place, Tensor};
use node::{Node, Segment};
use plan::Plan;

/// A value of the step being recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var(u32);

/// What a recorded step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No gradients; dropout is off.
    Evaluate,
    /// With gradients. `accumulate`: added to those of the micro-batch before, else written.
    Train { accumulate: bool },
}

/// FLOPs of a step. Recomputed segments count in `hardware_flops` alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCost {
    pub model_flops: u64,
    pub hardware_flops: u64,
    /// Size of the activation arena that the step needs.
    pub activation_bytes: usize,
}

#[derive(Clone, Copy)]
struct Variable {
    value: Tensor,
    /// Of a parameter: its place in the gradient arena. Else a buffer, once one is there.
    gradient: Option<Tensor>,
    is_param: bool,
    needs_gradient: bool,
    /// The parameter's gradient was written in this step.
    written: bool,
    /// The gradient is already that of the activation's input; see `ops::linear`.
    through_activation: bool,
    /// Number of the node that made it.
    node: Option<usize>,
    uses: u32,
}

#[derive(Clone, Copy, PartialEq)]
struct Buffer {
    bytes: usize,
    /// Readable after the step.
    keep: bool,
}

/// See the module.
pub struct Tape {
    float: DType,
    state: Tensor,
    mode: Mode,
    vars: Vec<Variable>,
    nodes: Vec<Node>,
    segments: Vec<Segment>,
    in_segment: bool,
    /// A loss was declared that `backward` is to record.
    unrecorded: bool,
    sites: u32,
    ops: Vec<Op>,
    /// Beside `ops`: this one computes something a second time.
    again: Vec<bool>,
    recomputing: bool,
    buffers: Vec<Buffer>,
    /// Beside `buffers`: variables that will still read or write it as their gradient.
    shares: Vec<u32>,
    plans: Vec<Plan>,
    /// Number in `plans` of the step that ran last.
    current: Option<usize>,
    /// The recording in hand ran.
    ran: bool,
    /// Activation arena and its size.
    arena: Option<(u32, usize)>,
}

/// Plans kept; beyond it the oldest is forgotten.
const PLANS: usize = 16;

impl Tape {
    /// A tape for steps that compute in `float`, a type of the device's. `state`: the [`StepState`] that dropout reads.
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

    /// Starts to record a step; forgets the recording before.
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

    pub fn is_training(&self) -> bool {
        self.mode != Mode::Evaluate
    }

    /// Memory that the caller fills before each run: tokens, labels, pixels. No gradient.
    pub fn input(&mut self, value: Tensor) -> Var {
        self.push_var(value, None, false)
    }

    /// A parameter and the place of its gradient.
    pub fn param(&mut self, value: Tensor, gradient: Tensor) -> Var {
        let var = self.push_var(value, Some(gradient), true);
        self.vars[var.0 as usize].is_param = true;
        var
    }

    /// Row `row` of a value `[.., C]` as `[1, C]`: a view, without gradient.
    pub fn row(&mut self, var: Var, row: usize) -> Var {
        let view = self.tensor(var).row_block(row, 1);
        self.push_var(view, None, false)
    }

    /// Dimensions of a value.
    pub fn dims(&self, var: Var) -> &[usize] {
        self.vars[var.0 as usize].value.dims()
    }

    /// Makes a value readable after the run (see [`Tape::value`]).
    pub fn keep(&mut self, var: Var) {
        self.keep_tensor(self.tensor(var));
    }

    /// Keeps only what enters the recorded block: what `f` computes is given up after the forward pass and computed again
    /// in the backward pass. Segments within segments are part of the outer one.
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

    /// Appends an operation on memory of the caller: the update after a backward pass, so that both are one captured list.
    pub fn append(&mut self, op: impl Into<Op>) {
        self.push_op(op);
    }

    /// The operations recorded so far, on numbered buffers.
    pub fn recorded(&self) -> &[Op] {
        &self.ops
    }

    /// FLOPs and memory of what was recorded, without running it.
    pub fn expected_cost(&self) -> StepCost {
        Plan::new(&self.ops, &self.again, &self.buffers).cost
    }

    /// Runs what was recorded.
    ///
    /// # Errors
    /// Shapes that do not fit, out of memory, or an error of an operation; in training a loss that [`Tape::backward`] has not
    /// recorded.
    pub fn run(&mut self, device: &mut dyn Device) -> Result<()> {
        self.current = None;
        if self.unrecorded {
            bail!("a training step with linear_cross_entropy has no loss before `backward`: call it before the run");
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

    /// Where a kept value (or an input, parameter, gradient) lies after the run.
    ///
    /// # Errors
    /// The value was not kept, or nothing ran.
    pub fn value(&self, var: Var) -> Result<Tensor> {
        self.placed(self.tensor(var))
    }

    /// FLOPs and memory of the step that ran last.
    pub fn cost(&self) -> StepCost {
        self.current.map_or(StepCost::default(), |number| self.plans[number].cost)
    }

    /// Operations of the step that ran last, as the device got them.
    pub fn placed_ops(&self) -> &[Op] {
        self.current.map_or(&[], |number| &self.plans[number].placed)
    }

    fn placed(&self, tensor: Tensor) -> Result<Tensor> {
        let Place::Buffer(number) = tensor.place() else { return Ok(tensor) };
        let plan = self.current.filter(|_| self.ran).map(|n| &self.plans[n]);
        let (Some(plan), Some((arena, _))) = (plan, self.arena) else {
            return Err(Error::new("nothing ran yet, so there is no value to read"));
        };
        if !self.buffers[number as usize].keep {
            return Err(Error::new("this value was not kept: call `keep` on it before the run"));
        }
        Ok(plan.place(tensor, arena))
    }

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

    /// Gives the activation arena and all plans back to the device.
    pub fn forget(&mut self, device: &mut dyn Device) {
        self.plans.drain(..).for_each(|plan| device.release(plan.graph));
        self.current = None;
        if let Some((arena, _)) = self.arena.take() {
            device.free(arena);
        }
    }

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

    /// The value that the node recorded next will make.
    fn push_result(&mut self, value: Tensor, needs_gradient: bool) -> Var {
        let var = self.push_var(value, None, needs_gradient && self.is_training());
        self.vars[var.0 as usize].node = Some(self.nodes.len());
        var
    }

    fn push_node(&mut self, node: Node) {
        if self.is_training() {
            self.nodes.push(node);
        }
    }

    fn push_op(&mut self, op: impl Into<Op>) {
        self.ops.push(op.into());
        self.again.push(self.recomputing);
    }

    fn tensor(&self, var: Var) -> Tensor {
        self.vars[var.0 as usize].value
    }

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

    /// A new buffer in the type of the step; rows are padded to a multiple of `pad` elements.
    fn buffer(&mut self, dims: &[usize], pad: usize) -> Tensor {
        self.buffer_of(self.float, dims, pad)
    }

    /// A new buffer for what is wide.
    fn wide_buffer(&mut self, dims: &[usize]) -> Tensor {
        self.buffer_of(self.float.wide(), dims, 1)
    }

    fn buffer_of(&mut self, dtype: DType, dims: &[usize], pad: usize) -> Tensor {
        let number = self.buffers.len() as u32;
        let plain = Tensor::new(Place::Buffer(number), dtype, 0, dims);
        let tensor = if dims.len() > 1 { plain.with_pitch(plain.width().next_multiple_of(pad)) } else { plain };
        // Saturated sizes are refused when the step asks for its memory.
        let bytes = tensor.rows().saturating_mul(tensor.pitch()).max(1).saturating_mul(dtype.bytes());
        let bytes = bytes.checked_next_multiple_of(ALIGN * 4).unwrap_or(usize::MAX);
        self.buffers.push(Buffer { bytes, keep: false });
        self.shares.push(0);
        tensor
    }

    /// A buffer for rows of activations: padded to 8 elements, the alignment of 16-byte loads at any type from bf16 up.
    fn activation(&mut self, dims: &[usize]) -> Tensor {
        self.buffer(dims, 8)
    }

    /// Number of the next dropout of the model.
    fn next_site(&mut self) -> u32 {
        self.sites += 1;
        self.sites
    }
}

/// Moves the operands of an operation from one buffer to another.
fn rebind(op: &mut Op, f: &mut dyn FnMut(u32) -> Place) {
    op.operands(&mut |t: &mut Tensor, _: Access| move_to(t, f));
}

fn move_to(t: &mut Tensor, f: &mut dyn FnMut(u32) -> Place) {
    if let Place::Buffer(number) = t.place() {
        *t = t.with_place(f(number));
    }
}

/// A plan that has not been captured.
const UNCAPTURED: Graph = Graph(u32::MAX);
