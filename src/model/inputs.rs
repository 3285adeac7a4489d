//! Descriptions of a model's inputs.

use crate::tensor::DType;

/// One input of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Name, for error messages.
    pub name: &'static str,
    /// Dimensions, the batch first.
    pub dims: Vec<usize>,
    /// Its kind and type.
    pub content: Content,
    /// The losses, by number, for which this input holds the labels.
    pub scores: &'static [usize],
}

/// The content of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Integers that change every step: ids, labels, positions, masks.
    Ints,
    /// Floats that change every step, in the type that the step computes in: pixels.
    Floats,
    /// Floats that change every step, in the type of losses (the accumulator type): mixing shares, regression targets.
    Wide,
    /// Integers that are the same for every step.
    Fixed(Vec<i32>),
}

impl Input {
    /// Describes an input of integers.
    pub fn ints(name: &'static str, dims: &[usize]) -> Self {
        Input { name, dims: dims.to_vec(), content: Content::Ints, scores: &[] }
    }

    /// Describes an input of floats in the compute type.
    pub fn floats(name: &'static str, dims: &[usize]) -> Self {
        Input { name, dims: dims.to_vec(), content: Content::Floats, scores: &[] }
    }

    /// Describes an input of floats in the accumulator type.
    pub fn wide(name: &'static str, dims: &[usize]) -> Self {
        Input { name, dims: dims.to_vec(), content: Content::Wide, scores: &[] }
    }

    /// Describes an input of integers that are the same for every step.
    pub fn fixed(name: &'static str, dims: &[usize], values: Vec<i32>) -> Self {
        Input { name, dims: dims.to_vec(), content: Content::Fixed(values), scores: &[] }
    }

    /// Marks the input as the labels of these losses. Integers other than -100, and floats other than NaN, are scored.
    #[must_use]
    pub fn labels_of(self, losses: &'static [usize]) -> Self {
        Input { scores: losses, ..self }
    }

    /// Returns the data type of the input in a step that computes in `float`.
    pub fn dtype(&self, float: DType) -> DType {
        match self.content {
            Content::Ints | Content::Fixed(_) => DType::I32,
            Content::Floats => float,
            Content::Wide => float.accumulator(),
        }
    }

    /// Returns the number of elements.
    pub fn numel(&self) -> usize {
        self.dims.iter().product()
    }
}

/// The shape of a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShape {
    /// Number of examples: sequences or images.
    pub batch: usize,
    /// Tokens per sequence. Not used for images, whose size is fixed by the model.
    pub time: usize,
    /// Scored positions per sequence of a masked model.
    pub scored: usize,
}

impl From<(usize, usize)> for BatchShape {
    /// Converts from `(examples, tokens per example)`.
    fn from((batch, time): (usize, usize)) -> Self {
        BatchShape { batch, time, scored: 0 }
    }
}
