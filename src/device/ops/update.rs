use super::{
    ALIGN, Access, Operation, StepState, Visit, expect_any_floats, expect_contiguous, expect_dtype, expect_floats,
    expect_shape,
};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// An optimizer's update of every element of a parameter arena, given as a program, with gradient clipping.
///
/// The program runs once for each element on a file of [`REGISTERS`] registers. Before it starts, registers hold the
/// element's values ([`Register`]); after it has ended, the registers of the parameter and of the state tensors are
/// written back. An optimizer that is expressed this way needs no kernel of its own (`optim/` builds the programs).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// `[n]`, contiguous, f32 (f64 on the reference); updated. The next four have the same shape and type.
    pub params: Tensor,
    /// Read, and scaled by `min(1, max_norm / (norm + 1e-6))`.
    pub grads: Tensor,
    /// The optimizer's first state tensor, such as a momentum; updated.
    pub state0: Option<Tensor>,
    /// The optimizer's second state tensor; updated.
    pub state1: Option<Tensor>,
    /// `[n]`, contiguous, of any float type: the new parameters, rounded to that type.
    pub copy: Option<Tensor>,
    /// `[n / 64]`, U8: 1 where weight decay applies to these 64 elements.
    pub decay_mask: Tensor,
    /// `[1]`: the global norm of the gradients.
    pub norm: Tensor,
    /// A [`StepState`]: learning rate and bias corrections.
    pub state: Tensor,
    /// `[instructions, 2]`, U32: see [`Instruction`]. Numbers of registers are taken modulo [`REGISTERS`], and unknown
    /// opcodes give 0, so no content of this table makes a device access other memory.
    pub program: Tensor,
    /// Largest norm of the gradients. Infinity: no clipping.
    pub max_norm: f64,
}

/// Registers of a program.
pub const REGISTERS: usize = 16;
/// Instructions that a program may have.
pub const MAX_INSTRUCTIONS: usize = 64;

/// What a register holds when the program starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Register {
    /// The parameter. Written back.
    Param = 0,
    /// The clipped gradient.
    Grad = 1,
    /// The first state tensor, or 0. Written back.
    State0 = 2,
    /// The second state tensor, or 0. Written back.
    State1 = 3,
    /// The learning rate.
    LearningRate = 4,
    /// 1 if weight decay applies to the element, else 0.
    Decays = 5,
    /// [`StepState::bias1`].
    Bias1 = 6,
    /// [`StepState::bias2`].
    Bias2 = 7,
    /// The first register that holds nothing.
    Free = 8,
}

/// What an instruction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The instruction's constant.
    Const = 1,
    /// `a`.
    Move,
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`.
    Div,
    /// `sqrt(a)`.
    Sqrt,
    /// -1, 0 or 1, as PyTorch's `sign`.
    Sign,
    /// `|a|`.
    Abs,
    /// The larger of `a` and `b`.
    Max,
    /// The smaller of `a` and `b`.
    Min,
}

impl Opcode {
    /// All opcodes, in the order of their numbers.
    pub const ALL: [Opcode; 11] = {
        use Opcode::{Abs, Add, Const, Div, Max, Min, Move, Mul, Sign, Sqrt, Sub};
        [Const, Move, Add, Sub, Mul, Div, Sqrt, Sign, Abs, Max, Min]
    };
}

/// One instruction: `to = opcode(a, b)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Instruction {
    /// What to compute.
    pub opcode: Opcode,
    /// Number of the register that receives the result.
    pub to: u8,
    /// Number of the register with the first operand.
    pub a: u8,
    /// Number of the register with the second operand; ignored by opcodes with fewer operands.
    pub b: u8,
    /// The value of [`Opcode::Const`]. Devices compute with it in f32, as rounded here.
    pub constant: f32,
}

impl Instruction {
    /// Returns the instruction as a row of [`Update::program`]: `opcode | to << 8 | a << 16 | b << 24`, and the bits of
    /// the constant.
    pub fn encode(&self) -> [u32; 2] {
        [u32::from_le_bytes([self.opcode as u8, self.to, self.a, self.b]), self.constant.to_bits()]
    }
}

/// One decoded row of a program, for devices on the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoded {
    /// `None`: an unknown opcode, which gives 0.
    pub opcode: Option<Opcode>,
    /// Register that receives the result, below [`REGISTERS`].
    pub to: usize,
    /// Register with the first operand, below [`REGISTERS`].
    pub a: usize,
    /// Register with the second operand, below [`REGISTERS`].
    pub b: usize,
    /// The value of [`Opcode::Const`].
    pub constant: f32,
}

impl Decoded {
    /// Decodes a row of [`Update::program`].
    pub fn new(row: [u32; 2]) -> Self {
        let [opcode, to, a, b] = row[0].to_le_bytes().map(usize::from);
        let opcode = opcode.checked_sub(1).and_then(|number| Opcode::ALL.get(number)).copied();
        let [to, a, b] = [to, a, b].map(|register| register % REGISTERS);
        Decoded { opcode, to, a, b, constant: f32::from_bits(row[1]) }
    }
}

impl Operation for Update {
    const NAME: &'static str = "update";

    fn named_operands(&mut self, visit: Visit) {
        visit("grads", &mut self.grads, Access::Read);
        visit("decay_mask", &mut self.decay_mask, Access::Read);
        visit("norm", &mut self.norm, Access::Read);
        visit("state", &mut self.state, Access::Read);
        visit("program", &mut self.program, Access::Read);
        visit("params", &mut self.params, Access::Update);
        for (name, state) in [("state0", &mut self.state0), ("state1", &mut self.state1)] {
            if let Some(t) = state {
                visit(name, t, Access::Update);
            }
        }
        if let Some(t) = &mut self.copy {
            visit("copy", t, Access::Write);
        }
    }

    fn check(&self) -> Result<()> {
        let n = self.params.numel();
        let states = [("state0", &self.state0), ("state1", &self.state1)].into_iter();
        let states = states.filter_map(|(what, t)| t.as_ref().map(|t| (what, t)));
        for (what, t) in [("params", &self.params), ("grads", &self.grads)].into_iter().chain(states) {
            expect_shape(what, t, &[n])?;
            expect_contiguous(what, t)?;
            expect_floats(&[("params", &self.params), (what, t)])?;
        }
        if let Some(t) = &self.copy {
            expect_shape("copy", t, &[n])?;
            expect_contiguous("copy", t)?;
            expect_any_floats(&[("copy", t)])?;
        }
        if !n.is_multiple_of(ALIGN) {
            bail!("the number of parameters is {n} but must be a multiple of {ALIGN}");
        }
        expect_shape("decay_mask", &self.decay_mask, &[n / ALIGN])?;
        expect_dtype("decay_mask", &self.decay_mask, DType::U8)?;
        expect_shape("norm", &self.norm, &[1])?;
        expect_floats(&[("params", &self.params), ("norm", &self.norm)])?;
        expect_dtype("state", &self.state, DType::U32)?;
        expect_shape("state", &self.state, &[StepState::WORDS])?;
        expect_dtype("program", &self.program, DType::U32)?;
        expect_contiguous("program", &self.program)?;
        let instructions = self.program.rows();
        expect_shape("program", &self.program, &[instructions, 2])?;
        if instructions > MAX_INSTRUCTIONS {
            bail!("the program has {instructions} instructions but at most {MAX_INSTRUCTIONS} are allowed");
        }
        Ok(())
    }

    /// One for each instruction and element, and one for clipping.
    fn flops(&self) -> u64 {
        ((self.program.rows() + 1) * self.params.numel()) as u64
    }
}
