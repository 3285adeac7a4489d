//! Batches of any family, and where they come from.

use crate::bail;
use crate::data::tokens::Tokens;
use crate::data::tokens::sampler::{IGNORED, Sampler, validation_batch};
use crate::error::{At, Result};
use crate::memory;
use std::sync::Arc;

/// One input of a batch, row-major, examples first.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    Ints(Vec<i32>),
    Floats(Vec<f32>),
}

impl Field {
    /// Zeros: `rows` examples of `each` numbers.
    ///
    /// # Errors
    /// Out of memory.
    pub fn ints(rows: usize, each: usize) -> Result<Self> {
        Ok(Field::Ints(memory::zeros(numbers(rows, each)?).at("train.batch")?))
    }

    /// As [`Field::ints`].
    ///
    /// # Errors
    /// As [`Field::ints`].
    pub fn floats(rows: usize, each: usize) -> Result<Self> {
        Ok(Field::Floats(memory::zeros(numbers(rows, each)?).at("train.batch")?))
    }

    pub fn len(&self) -> usize {
        match self {
            Field::Ints(values) => values.len(),
            Field::Floats(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts numbers off at the end, or adds zeros there.
    pub(in crate::data) fn resize(&mut self, numbers: usize) {
        match self {
            Field::Ints(values) => values.resize(numbers, 0),
            Field::Floats(values) => values.resize(numbers, 0.0),
        }
    }

    /// Copies `from`, of the same kind and no longer than what is left here, to `first` and on.
    pub(in crate::data) fn put(&mut self, first: usize, from: &Field) {
        match (self, from) {
            (Field::Ints(to), Field::Ints(from)) => to[first..][..from.len()].copy_from_slice(from),
            (Field::Floats(to), Field::Floats(from)) => to[first..][..from.len()].copy_from_slice(from),
            _ => unreachable!("buffers of one source"),
        }
    }

    /// Of labels, those that are scored: integers that are not -100, and numbers that are not NaN.
    pub fn scored(&self) -> usize {
        match self {
            Field::Ints(labels) => labels.iter().filter(|&&label| label != IGNORED).count(),
            Field::Floats(labels) => labels.iter().filter(|label| !label.is_nan()).count(),
        }
    }

    /// Integers; none where it holds floats.
    pub fn as_ints(&self) -> &[i32] {
        if let Field::Ints(values) = self { values } else { &[] }
    }
}

fn numbers(rows: usize, each: usize) -> Result<usize> {
    match rows.checked_mul(each) {
        Some(n) => Ok(n),
        None => bail!("a batch of {rows} x {each} is beyond reason; use fewer or shorter examples"),
    }
}

/// What a run trains and validates on, cut into batches. A batch follows from its number alone.
pub trait Source: Send + Sync {
    /// Buffers for `rows` examples, one for each input of the model that is not fixed, in its order.
    ///
    /// # Errors
    /// Out of memory.
    fn room(&self, rows: usize) -> Result<Vec<Field>>;

    /// Fills the training batch of `step`.
    ///
    /// # Errors
    /// Damaged data; buffers of another size.
    fn training_batch(&self, step: u64, fields: &mut [Field]) -> Result<()>;

    /// The rows of a training batch that are best filled at a time, where that can be done apart from the others: by
    /// several threads, say. `None`: a batch is filled as a whole.
    fn grain(&self) -> Option<usize> {
        None
    }

    /// Fills the rows from `first`, a multiple of [`Source::grain`], on of the training batch of `step`, which has `batch`
    /// rows: what [`Source::training_batch`] writes there. `fields` hold these rows alone, as many as the grain or up to
    /// the end.
    ///
    /// # Errors
    /// As [`Source::training_batch`]; a source without grain.
    fn training_rows(&self, step: u64, batch: usize, first: usize, _fields: &mut [Field]) -> Result<()> {
        bail!("row {first} of step {step}: a batch of {batch} rows is filled as a whole here")
    }

    /// What training batches are made of, for messages: a file, say.
    fn reads(&self) -> String;

    /// Fills the `index`-th held-out batch, and returns how many of its labels are scored. `None`: past the end.
    ///
    /// # Errors
    /// As [`Source::training_batch`].
    fn held_out_batch(&self, index: usize, fields: &mut [Field]) -> Result<Option<usize>>;
}

/// NextToken of text, for models that predict the next token: ids and labels.
#[derive(Clone, Debug)]
pub struct NextToken {
    pub train: Arc<Tokens>,
    pub valid: Arc<Tokens>,
    pub sampler: Sampler,
    /// Tokens of a window.
    pub context: usize,
}

impl Source for NextToken {
    fn room(&self, rows: usize) -> Result<Vec<Field>> {
        Ok(vec![Field::ints(rows, self.context)?, Field::ints(rows, self.context)?])
    }

    fn training_batch(&self, step: u64, fields: &mut [Field]) -> Result<()> {
        let (ids, labels) = pair(fields)?;
        let batch = ids.len() / self.context.max(1);
        self.sampler.training_batch(&*self.train, step, batch, self.context, ids, labels)
    }

    fn reads(&self) -> String {
        self.train.to_string()
    }

    fn held_out_batch(&self, index: usize, fields: &mut [Field]) -> Result<Option<usize>> {
        let (ids, labels) = pair(fields)?;
        let batch = ids.len() / self.context.max(1);
        let scored = validation_batch(&*self.valid, index, batch, self.context, ids, labels)?;
        Ok((scored > 0).then_some(scored))
    }
}

fn pair(fields: &mut [Field]) -> Result<(&mut Vec<i32>, &mut Vec<i32>)> {
    match fields {
        [Field::Ints(ids), Field::Ints(labels)] => Ok((ids, labels)),
        other => bail!("{} fields are given where ids and labels are filled", other.len()),
    }
}
