//! Computes the perplexity of a text.

use super::Forward;
use crate::data::tokens::sampler::{check_length, overlapping_batch};
use crate::data::tokens::shard::Shard;
use crate::device::Device;
use crate::error::Result;
use crate::memory;

/// The mean loss per token. Each token is predicted from at most `context` tokens before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Number of scored tokens.
    pub tokens: usize,
    /// Mean loss in nats per token.
    pub loss: f64,
}

impl Perplexity {
    /// Returns the perplexity per token.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// Returns the perplexity per word of a text with this number of words: exp(total loss of all scored tokens /
    /// words). Unlike the perplexity per token, it can be compared between models with different tokenizers.
    pub fn per_word(&self, words: usize) -> f64 {
        (self.loss * self.tokens as f64 / words as f64).exp()
    }
}

/// Scores a whole shard in windows of `context` tokens, `batch` windows at a time.
///
/// Each window begins `stride` tokens after the previous one and scores only the tokens that the previous one did not.
/// With a stride of `context`, windows do not overlap. With a smaller stride, tokens are predicted from more context,
/// at `context / stride` times the cost.
///
/// # Errors
/// The shard is shorter than a window or has tokens outside the model's vocabulary; the stride is 0 or larger than the
/// context; errors of the device.
pub fn perplexity(
    device: &mut dyn Device,
    model: &mut Forward<'_>,
    shard: &Shard,
    (batch, context): (usize, usize),
    stride: usize,
) -> Result<Perplexity> {
    check_length(shard, context)?;
    let positions = batch.saturating_mul(context);
    let (mut ids, mut labels) = (memory::zeros(positions)?, memory::zeros(positions)?);
    let (mut total, mut tokens) = (0.0, 0);
    for index in 0.. {
        let scored = overlapping_batch(shard, index, (batch, context, stride), &mut ids, &mut labels)?;
        if scored == 0 {
            break;
        }
        total += model.loss(device, &ids, &labels, [batch, context])? * scored as f64;
        tokens += scored;
    }
    Ok(Perplexity { tokens, loss: total / tokens.max(1) as f64 })
}
