//! Batches of any model family, and the trait of the sources that fill them.

use crate::bail;
use crate::data::tokens::Tokens;
use crate::data::tokens::sampler::{IGNORED, Sampler, validation_batch};
use crate::error::{At, Result};
use crate::memory;
use std::sync::Arc;

/// The buffer of one input of a batch, row-major, with the example as the first dimension.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// Token ids, masks or class labels. The label -100 is not scored.
    Ints(Vec<i32>),
    /// Pixels, shares of mixed labels or regression targets. The label NaN is not scored.
    Floats(Vec<f32>),
}

impl Field {
    /// Returns integer zeros for `rows` examples of `each` numbers.
    ///
    /// # Errors
    /// Fails if there is not enough memory.
    pub fn ints(rows: usize, each: usize) -> Result<Self> {
        Ok(Field::Ints(memory::zeros(numbers(rows, each)?).at("train.batch")?))
    }

    /// Returns floating-point zeros for `rows` examples of `each` numbers.
    ///
    /// # Errors
    /// Fails if there is not enough memory.
    pub fn floats(rows: usize, each: usize) -> Result<Self> {
        Ok(Field::Floats(memory::zeros(numbers(rows, each)?).at("train.batch")?))
    }

    /// Returns how many numbers it holds.
    pub fn len(&self) -> usize {
        match self {
            Field::Ints(values) => values.len(),
            Field::Floats(values) => values.len(),
        }
    }

    /// Returns whether it holds no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Truncates to `numbers` numbers, or appends zeros up to that length.
    pub(in crate::data) fn resize(&mut self, numbers: usize) {
        match self {
            Field::Ints(values) => values.resize(numbers, 0),
            Field::Floats(values) => values.resize(numbers, 0.0),
        }
    }

    /// Copies `from`, which must be of the same variant and must fit, to the positions from `first` on.
    pub(in crate::data) fn put(&mut self, first: usize, from: &Field) {
        match (self, from) {
            (Field::Ints(to), Field::Ints(from)) => to[first..][..from.len()].copy_from_slice(from),
            (Field::Floats(to), Field::Floats(from)) => to[first..][..from.len()].copy_from_slice(from),
            _ => unreachable!("the buffers of a source have the same variants"),
        }
    }

    /// Returns how many labels are scored: integers other than -100, or floats other than NaN.
    pub fn scored(&self) -> usize {
        match self {
            Field::Ints(labels) => labels.iter().filter(|&&label| label != IGNORED).count(),
            Field::Floats(labels) => labels.iter().filter(|label| !label.is_nan()).count(),
        }
    }

    /// Returns the integers, or an empty slice if it holds floats.
    pub fn as_ints(&self) -> &[i32] {
        if let Field::Ints(values) = self { values } else { &[] }
    }
}

/// Returns `rows * each`, checked for overflow.
fn numbers(rows: usize, each: usize) -> Result<usize> {
    match rows.checked_mul(each) {
        Some(n) => Ok(n),
        None => bail!("a batch of {rows} x {each} numbers is too large; use fewer or shorter examples"),
    }
}

/// A source of training and held-out batches for a run. A batch is a function of its number.
pub trait Source: Send + Sync {
    /// Allocates buffers for `rows` examples, one for each input of the model that is not fixed, in the model's order.
    ///
    /// # Errors
    /// Fails if there is not enough memory.
    fn allocate(&self, rows: usize) -> Result<Vec<Field>>;

    /// Fills the training batch of `step`.
    ///
    /// # Errors
    /// Fails if the data is damaged or the buffers have the wrong size.
    fn training_batch(&self, step: u64, fields: &mut [Field]) -> Result<()>;

    /// Returns the number of rows per chunk, if chunks of a training batch can be filled independently, for example by
    /// several threads. `None` if a batch is filled as a whole.
    fn chunk_rows(&self) -> Option<usize> {
        None
    }

    /// Fills one chunk of the training batch of `step`, which has `batch` rows, with what [`Source::training_batch`]
    /// would write there. The chunk starts at row `first`, a multiple of [`Source::chunk_rows`]. `fields` hold only the
    /// rows of the chunk; the last chunk may have fewer rows.
    ///
    /// # Errors
    /// Fails like [`Source::training_batch`], and if the source has no chunks.
    fn training_rows(&self, step: u64, batch: usize, first: usize, _fields: &mut [Field]) -> Result<()> {
        bail!("row {first} of step {step}: this source can only fill a batch of {batch} rows as a whole")
    }

    /// Describes the training data for messages, for example by the name of its file.
    fn describe(&self) -> String;

    /// Fills the `index`-th held-out batch and returns how many of its labels are scored, or `None` past the end.
    ///
    /// # Errors
    /// See [`Source::training_batch`].
    fn held_out_batch(&self, index: usize, fields: &mut [Field]) -> Result<Option<usize>>;
}

/// The source of batches for next-token prediction. A batch has two fields, `ids` and `labels`.
#[derive(Clone, Debug)]
pub struct NextToken {
    /// Tokens of the training split.
    pub train: Arc<Tokens>,
    /// Tokens of the held-out split.
    pub valid: Arc<Tokens>,
    /// Draws the windows of training batches. Held-out batches cover their split in order.
    pub sampler: Sampler,
    /// The number of tokens per row.
    pub context: usize,
}

impl Source for NextToken {
    fn allocate(&self, rows: usize) -> Result<Vec<Field>> {
        Ok(vec![Field::ints(rows, self.context)?, Field::ints(rows, self.context)?])
    }

    fn training_batch(&self, step: u64, fields: &mut [Field]) -> Result<()> {
        let (ids, labels) = pair(fields)?;
        let batch = ids.len() / self.context.max(1);
        self.sampler.training_batch(&*self.train, step, batch, self.context, ids, labels)
    }

    fn describe(&self) -> String {
        self.train.to_string()
    }

    fn held_out_batch(&self, index: usize, fields: &mut [Field]) -> Result<Option<usize>> {
        let (ids, labels) = pair(fields)?;
        let batch = ids.len() / self.context.max(1);
        let scored = validation_batch(&*self.valid, index, batch, self.context, ids, labels)?;
        Ok((scored > 0).then_some(scored))
    }
}

/// Returns the `ids` and `labels` of a batch.
fn pair(fields: &mut [Field]) -> Result<(&mut Vec<i32>, &mut Vec<i32>)> {
    match fields {
        [Field::Ints(ids), Field::Ints(labels)] => Ok((ids, labels)),
        other => bail!("{} fields given, expected two: ids and labels", other.len()),
    }
}
