//! Batches of any family, and where they come from.

use super::sampler::{Sampler, validation_batch};
use super::tokens::Tokens;
use crate::bail;
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
