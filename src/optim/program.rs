//! An update written as expressions, and compiled to the program of an [`Update`](crate::device::ops::Update).
//!
//! ```
//! use vcycle::optim::program::{Program, param, grad, state, learning_rate};
//!
//! // SGD with momentum: m = 0.9 m + g; p = p - lr m.
//! let m = state(0) * 0.9 + grad();
//! let program = Program::new(param() - learning_rate() * m.clone(), &[m]);
//! assert_eq!(program?.instructions().len(), 7);
//! # Ok::<(), vcycle::error::Error>(())
//! ```

use crate::bail;
use crate::device::ops::{Instruction, MAX_INSTRUCTIONS, Opcode, REGISTERS, Register};
use crate::error::Result;
use std::collections::HashMap;
use std::ops::{Add, Div, Mul, Neg, Sub};
use std::rc::Rc;

/// A value for each element of the parameter arena.
#[derive(Clone, Debug)]
pub struct Expr(Rc<Node>);

#[derive(Debug)]
enum Node {
    Register(Register),
    Const(f32),
    Apply(Opcode, Vec<Expr>),
}

/// The parameter before the update.
pub fn param() -> Expr {
    register(Register::Param)
}

/// The gradient after clipping.
pub fn grad() -> Expr {
    register(Register::Grad)
}

/// State tensor `number` (0 or 1) before the update.
///
/// # Panics
/// On other numbers.
pub fn state(number: usize) -> Expr {
    register([Register::State0, Register::State1][number])
}

/// The learning rate of the step.
pub fn learning_rate() -> Expr {
    register(Register::LearningRate)
}

/// 1 where weight decay applies, else 0.
pub fn decays() -> Expr {
    register(Register::Decays)
}

/// Bias correction `number` (0 or 1) of the step: see [`super::Optimizer::bias_corrections`].
///
/// # Panics
/// On other numbers.
pub fn bias_correction(number: usize) -> Expr {
    register([Register::Bias1, Register::Bias2][number])
}

fn register(register: Register) -> Expr {
    Expr(Rc::new(Node::Register(register)))
}

impl Expr {
    fn apply(opcode: Opcode, of: Vec<Expr>) -> Expr {
        Expr(Rc::new(Node::Apply(opcode, of)))
    }

    /// The square root.
    #[must_use]
    pub fn sqrt(self) -> Expr {
        Expr::apply(Opcode::Sqrt, vec![self])
    }

    /// -1, 0 or 1.
    #[must_use]
    pub fn sign(self) -> Expr {
        Expr::apply(Opcode::Sign, vec![self])
    }

    /// The absolute value.
    #[must_use]
    pub fn abs(self) -> Expr {
        Expr::apply(Opcode::Abs, vec![self])
    }

    /// The larger of both.
    #[must_use]
    pub fn max(self, other: impl Into<Expr>) -> Expr {
        Expr::apply(Opcode::Max, vec![self, other.into()])
    }

    /// The smaller of both.
    #[must_use]
    pub fn min(self, other: impl Into<Expr>) -> Expr {
        Expr::apply(Opcode::Min, vec![self, other.into()])
    }
}

impl From<f64> for Expr {
    fn from(value: f64) -> Self {
        Expr(Rc::new(Node::Const(value as f32)))
    }
}

macro_rules! operators {
    ($($operator:ident $method:ident $opcode:ident;)*) => { $(
        impl<T: Into<Expr>> $operator<T> for Expr {
            type Output = Expr;

            fn $method(self, other: T) -> Expr {
                Expr::apply(Opcode::$opcode, vec![self, other.into()])
            }
        }

        impl $operator<Expr> for f64 {
            type Output = Expr;

            fn $method(self, other: Expr) -> Expr {
                Expr::apply(Opcode::$opcode, vec![self.into(), other])
            }
        }
    )* };
}

operators! {
    Add add Add;
    Sub sub Sub;
    Mul mul Mul;
    Div div Div;
}

impl Neg for Expr {
    type Output = Expr;

    fn neg(self) -> Expr {
        0.0 - self
    }
}

/// A compiled update.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    instructions: Vec<Instruction>,
}

impl Program {
    /// Compiles the new parameter and the new state tensors, in the order of their numbers. Expressions see the values
    /// before the update; an expression that is used twice (a clone) is computed once.
    ///
    /// # Errors
    /// More than two states; expressions that need more registers or instructions than there are.
    pub fn new(param: Expr, states: &[Expr]) -> Result<Program> {
        if states.len() > 2 {
            bail!("an update has {} state tensors but at most 2 are supported", states.len());
        }
        let outputs: Vec<&Expr> = [&param].into_iter().chain(states).collect();
        let mut compiler = Compiler::default();
        outputs.iter().for_each(|output| compiler.count(output));
        // All results first: none may overwrite a register that another still reads.
        let results = outputs.iter().map(|output| compiler.compile(output)).collect::<Result<Vec<u8>>>()?;
        for (&from, to) in results.iter().zip([Register::Param, Register::State0, Register::State1]) {
            compiler.emit(Opcode::Move, to as u8, from, from, 0.0);
        }
        let instructions = compiler.instructions;
        if instructions.len() > MAX_INSTRUCTIONS {
            bail!("an update has {} instructions but at most {MAX_INSTRUCTIONS} are supported", instructions.len());
        }
        Ok(Program { instructions })
    }

    /// The instructions, in order.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Returns the table that devices read: `[instructions, 2]`.
    pub fn table(&self) -> Vec<u32> {
        self.instructions.iter().flat_map(Instruction::encode).collect()
    }
}

/// Compiles expressions in postorder, each into the lowest free register.
#[derive(Default)]
struct Compiler {
    instructions: Vec<Instruction>,
    /// How often each node is still read.
    uses: HashMap<*const Node, usize>,
    /// Nodes that are in a register.
    held: HashMap<*const Node, u8>,
    taken: [bool; REGISTERS],
}

impl Compiler {
    fn count(&mut self, expr: &Expr) {
        let uses = self.uses.entry(Rc::as_ptr(&expr.0)).or_default();
        *uses += 1;
        if *uses == 1
            && let Node::Apply(_, of) = &*expr.0
        {
            of.iter().for_each(|expr| self.count(expr));
        }
    }

    /// Returns the register of the value.
    fn compile(&mut self, expr: &Expr) -> Result<u8> {
        let node = Rc::as_ptr(&expr.0);
        if let Node::Register(register) = &*expr.0 {
            return Ok(*register as u8);
        }
        if let Some(&register) = self.held.get(&node) {
            return Ok(register);
        }
        let (opcode, constant, operands) = match &*expr.0 {
            Node::Apply(opcode, of) => {
                let registers = of.iter().map(|expr| self.compile(expr)).collect::<Result<Vec<u8>>>()?;
                of.iter().for_each(|expr| self.release(expr));
                (*opcode, 0.0, registers)
            }
            Node::Const(value) => (Opcode::Const, *value, Vec::new()),
            Node::Register(_) => unreachable!("returned above"),
        };
        let free = (Register::Free as usize..REGISTERS).find(|&register| !self.taken[register]);
        let Some(to) = free else {
            bail!("an update needs more than {} registers at once; split it", REGISTERS - Register::Free as usize)
        };
        self.taken[to] = true;
        let to = to as u8;
        let (a, b) = (operands.first().copied().unwrap_or(0), operands.get(1).copied().unwrap_or(0));
        self.emit(opcode, to, a, b, constant);
        self.held.insert(node, to);
        Ok(to)
    }

    /// One reader less: after the last one the register is free.
    fn release(&mut self, expr: &Expr) {
        let node = Rc::as_ptr(&expr.0);
        let uses = self.uses.entry(node).or_default();
        *uses = uses.saturating_sub(1);
        if *uses == 0
            && let Some(register) = self.held.remove(&node)
        {
            self.taken[usize::from(register)] = false;
        }
    }

    fn emit(&mut self, opcode: Opcode, to: u8, a: u8, b: u8, constant: f32) {
        self.instructions.push(Instruction { opcode, to, a, b, constant });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_used_twice_is_computed_once() {
        let m = state(0) * 0.5 + grad();
        let program = Program::new(param() - learning_rate() * m.clone(), &[m]).expect("it fits");
        let count = |opcode| program.instructions().iter().filter(|i| i.opcode == opcode).count();
        assert_eq!(
            [Opcode::Const, Opcode::Mul, Opcode::Add, Opcode::Sub, Opcode::Move].map(count),
            [1, 2, 1, 1, 2],
            "{program:?}"
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let wide = (0..9).map(|i| grad() * f64::from(i)).collect::<Vec<_>>();
        // Every product is kept until the last sum.
        let sum = wide.iter().rev().fold(param(), |sum, product| product.clone() - sum * product.clone());
        let first = wide.iter().fold(param(), |sum, product| sum + product.clone());
        let error = Program::new(first * sum, &[]).expect_err("nine values at once").to_string();
        assert!(error.contains("registers"), "{error}");
        let mut long = param();
        for _ in 0..MAX_INSTRUCTIONS {
            long = long + grad();
        }
        let error = Program::new(long, &[]).expect_err("too long").to_string();
        assert!(error.contains("instructions"), "{error}");
        assert!(Program::new(param(), &[grad(), grad(), grad()]).is_err());
    }
}
