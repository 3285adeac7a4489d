//! Text with masks, for pretraining.

use crate::bail;
use crate::config::Config;
use crate::data::loader::batch::{Field, Source};
use crate::data::prepared::corpus::Corpus;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokens::Tokens;
use crate::data::tokens::masking::{MaskedBatch, Masking};
use crate::data::tokens::sampler::Sampler;
use crate::data::tokens::windows::Window;
use crate::error::Result;
use crate::families::text::Text;
use crate::families::{DataFacts, Dataset};
use std::sync::{Arc, Mutex, PoisonError};

/// Text with special tokens, in sequences some of whose tokens are masked.
pub(super) struct MaskedText(pub Text);

impl Dataset for MaskedText {
    fn facts(&self) -> DataFacts {
        self.0.facts()
    }

    fn name(&self) -> String {
        self.0.name()
    }

    fn tokens_sum(&self) -> Option<String> {
        Some(self.0.tokens_sum())
    }

    fn check_unchanged(&self) -> Result<()> {
        self.0.check_unchanged()
    }

    fn tokenizer(&self) -> Option<&Tokenizer> {
        self.0.tokenizer()
    }

    fn source(&self, config: &Config) -> Result<Arc<dyn Source>> {
        let Corpus { train, valid, tokenizer, .. } = &self.0.corpus;
        let Some(tokenizer) = tokenizer else { bail!("data.tokenizer: missing; a masked model needs one") };
        let context = config.model.context;
        let masking = Masking::new(config.masking(), tokenizer, context)?;
        let windows = masking.held_out(&**valid)?;
        let [training, held_out] = [masking.clone(), masking].map(Mutex::new);
        Ok(Arc::new(Masked {
            train: Arc::clone(train),
            valid: Arc::clone(valid),
            sampler: Sampler { seed: config.seed, rank: 0, world: 1 },
            training,
            held_out,
            windows,
            micro: config.train.batch / config.train.accumulate,
            context,
            next: config.masking().next_sentence,
        }))
    }
}

/// Batches of masked text. The fields are ids, token types, attention mask, scored positions, labels and, for
/// next-sentence prediction, whether the second segment follows the first.
pub struct Masked {
    /// Tokens to train on.
    pub train: Arc<Tokens>,
    /// Held-out tokens.
    pub valid: Arc<Tokens>,
    /// Draws the rows of training batches.
    pub sampler: Sampler,
    /// The masking of training batches, used by the prefetching thread.
    pub training: Mutex<Masking>,
    /// The masking of held-out batches.
    pub held_out: Mutex<Masking>,
    /// The windows of held-out text.
    pub windows: Vec<Window>,
    /// Sequences per micro-batch.
    pub micro: usize,
    /// Tokens per sequence.
    pub context: usize,
    /// Whether there is next-sentence prediction.
    pub next: bool,
}

impl Masked {
    /// Returns the number of scored positions per sequence.
    fn slots(&self) -> usize {
        self.held_out.lock().unwrap_or_else(PoisonError::into_inner).slots()
    }

    /// Returns the fields as a batch, and its number of sequences.
    fn batch<'a>(&self, fields: &'a mut [Field]) -> Result<(MaskedBatch<'a>, usize)> {
        match fields {
            [
                Field::Ints(ids),
                Field::Ints(types),
                Field::Ints(mask),
                Field::Ints(positions),
                Field::Ints(labels),
                rest @ ..,
            ] => {
                let rows = ids.len() / self.context;
                let next = match rest {
                    [Field::Ints(next)] => &mut next[..],
                    _ => &mut [],
                };
                Ok((MaskedBatch { ids, types, mask, positions, labels, next }, rows))
            }
            other => bail!("expected the fields of a batch of masked text, got {} fields", other.len()),
        }
    }
}

impl Source for Masked {
    fn allocate(&self, rows: usize) -> Result<Vec<Field>> {
        let slots = self.slots();
        let each = [self.context, self.context, self.context, slots, slots, 1];
        each.iter().take(5 + usize::from(self.next)).map(|each| Field::ints(rows, *each)).collect()
    }

    fn training_batch(&self, step: u64, fields: &mut [Field]) -> Result<()> {
        let (mut batch, rows) = self.batch(fields)?;
        let mut masking = self.training.lock().unwrap_or_else(PoisonError::into_inner);
        masking.training_batch(&self.sampler, &*self.train, step, (rows, self.micro), &mut batch)
    }

    fn describe(&self) -> String {
        self.train.to_string()
    }

    fn held_out_batch(&self, index: usize, fields: &mut [Field]) -> Result<Option<usize>> {
        let (mut batch, rows) = self.batch(fields)?;
        if index.saturating_mul(rows) >= self.windows.len() {
            return Ok(None);
        }
        let mut masking = self.held_out.lock().unwrap_or_else(PoisonError::into_inner);
        masking.held_out_batch(&*self.valid, &self.windows, index, (rows, self.micro), &mut batch).map(Some)
    }
}
