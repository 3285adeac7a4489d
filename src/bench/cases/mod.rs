//! What is measured of each subject: operations with random operands, laid out as in a step of a model.

mod gemm;
mod layers;
mod training;

use super::inputs::Maker;
use super::shapes::{Shape, Subject};
use crate::device::ops::Op;
use crate::error::Result;

/// An operation on a set of operands.
pub struct Prepared {
    /// Runs before it every time, and does not count.
    pub before: Option<Op>,
    pub op: Op,
}

impl From<Op> for Prepared {
    fn from(op: Op) -> Self {
        Prepared { before: None, op }
    }
}

/// Makes a set of operands.
type Build = Box<dyn Fn(&mut Maker) -> Result<Prepared>>;

/// One thing to measure.
pub struct Case {
    pub name: &'static str,
    /// The stem of its operation.
    pub operation: &'static str,
    pub build: Build,
}

fn case(name: &'static str, operation: &'static str, build: impl Fn(&mut Maker) -> Result<Prepared> + 'static) -> Case {
    Case { name, operation, build: Box::new(build) }
}

/// Elements that a set of operands has at least, to refuse what no memory holds before any is filled.
pub fn elements(subject: Subject, shape: &Shape) -> usize {
    match (subject, shape.sizes.as_slice()) {
        (Subject::Gemm, &[m, n, k]) => m * k + k * n + m * n,
        (Subject::Attention, sizes) => 4 * sizes.iter().product::<usize>(),
        (Subject::LayerNorm | Subject::CrossEntropy, sizes) => 2 * sizes.iter().product::<usize>(),
        (Subject::AdamW, &[count]) => 4 * count,
        _ => 0,
    }
}

/// The cases of a shape; a step is none, see [`super::step`].
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
