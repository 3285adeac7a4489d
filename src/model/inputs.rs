//! What goes into a model beside its parameters.

use crate::tensor::DType;

/// One input of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// For messages.
    pub name: &'static str,
    /// The batch first.
    pub dims: Vec<usize>,
    pub content: Content,
    /// The losses, by number, that are scored on it: where it holds labels.
    pub scores: &'static [usize],
}

/// What an input holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Ids, labels, positions, masks: new ones for every step.
    Ints,
    /// Pixels: new ones for every step, in the type in which the step computes.
    Floats,
    /// Shares: new ones for every step, in the type of losses.
    Wide,
    /// The same for every step.
    Fixed(Vec<i32>),
}

impl Input {
    pub fn ints(name: &'static str, dims: &[usize]) -> Self {
        Input { name, dims: dims.to_vec(), content: Content::Ints, scores: &[] }
    }

    pub fn floats(name: &'static str, dims: &[usize]) -> Self {
        Input { name, dims: dims.to_vec(), content: Content::Floats, scores: &[] }
    }

    pub fn wide(name: &'static str, dims: &[usize]) -> Self {
        Input { name, dims: dims.to_vec(), content: Content::Wide, scores: &[] }
    }

    pub fn fixed(name: &'static str, dims: &[usize], values: Vec<i32>) -> Self {
        Input { name, dims: dims.to_vec(), content: Content::Fixed(values), scores: &[] }
    }

    /// The same as the labels of these losses: those that are not -100, or numbers that are not NaN, are scored.
    #[must_use]
    pub fn labels_of(self, losses: &'static [usize]) -> Self {
        Input { scores: losses, ..self }
    }

    /// Its type in a step that computes in `float`.
    pub fn dtype(&self, float: DType) -> DType {
        match self.content {
            Content::Ints | Content::Fixed(_) => DType::I32,
            Content::Floats => float,
            Content::Wide => float.wide(),
        }
    }

    pub fn numel(&self) -> usize {
        self.dims.iter().product()
    }
}

/// Sizes of what is computed at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Examples: sequences or images.
    pub batch: usize,
    /// Tokens of a sequence; images bring their own number.
    pub time: usize,
    /// Of each sequence, the positions that a masked model is scored at.
    pub scored: usize,
}

impl From<(usize, usize)> for BatchShape {
    /// Examples and tokens of each.
    fn from((batch, time): (usize, usize)) -> Self {
        BatchShape { batch, time, scored: 0 }
    }
}
