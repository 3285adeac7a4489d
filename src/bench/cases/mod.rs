//! The cases of each subject: operations on random operands that are laid out as in a training step.

mod gemm;
mod layers;
mod training;

use super::inputs::OperandAllocator;
use super::shapes::{Shape, Subject};
use crate::device::ops::Op;
use crate::error::Result;

/// An operation on a set of operands.
pub struct Prepared {
    /// An operation that runs before each timed run and is not timed.
    pub before: Option<Op>,
    /// The timed operation.
    pub op: Op,
}

impl From<Op> for Prepared {
    fn from(op: Op) -> Self {
        Prepared { before: None, op }
    }
}

/// Allocates a set of operands and returns the operation on them.
type Build = Box<dyn Fn(&mut OperandAllocator) -> Result<Prepared>>;

/// One operation to measure.
pub struct Case {
    /// Name of the case in tables and JSON.
    pub name: &'static str,
    /// Name of the operation.
    pub operation: &'static str,
    /// Makes a set of operands.
    pub build: Build,
}

fn case(
    name: &'static str,
    operation: &'static str,
    build: impl Fn(&mut OperandAllocator) -> Result<Prepared> + 'static,
) -> Case {
    Case { name, operation, build: Box::new(build) }
}

/// Returns a lower bound of the elements in a set of operands, to reject sizes that do not fit into memory before
/// allocating.
pub fn elements(subject: Subject, shape: &Shape) -> usize {
    match (subject, shape.sizes.as_slice()) {
        (Subject::Gemm, &[m, n, k]) => m * k + k * n + m * n,
        (Subject::Attention, sizes) => 4 * sizes.iter().product::<usize>(),
        (Subject::LayerNorm | Subject::CrossEntropy, sizes) => 2 * sizes.iter().product::<usize>(),
        (Subject::AdamW, &[count]) => 4 * count,
        _ => 0,
    }
}

/// Returns the cases of a shape; none for a step, which [`super::step`] measures.
pub fn of(subject: Subject, shape: &Shape) -> Vec<Case> {
    match (subject, shape.sizes.as_slice()) {
        (Subject::Gemm, &[m, n, k]) => gemm::cases(gemm::Gemm { m, n, k, tied: shape.mark.is_some() }),
        (Subject::Attention, &[batch, heads, time, size]) => {
            layers::attention([batch, heads, time, size], shape.mark.is_none())
        }
        (Subject::LayerNorm, &[rows, width]) => layers::layernorm(rows, width),
        (Subject::CrossEntropy, &[rows, vocab]) => layers::cross_entropy(rows, vocab),
        (Subject::AdamW, &[count]) => training::adamw(count),
        (Subject::Multilevel, &[layers, heads, width, context, vocab]) => {
            training::multilevel([layers, heads, width, context, vocab])
        }
        _ => Vec::new(),
    }
}
