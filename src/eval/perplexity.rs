//! Perplexity of a text.

use super::Forward;
use crate::data::tokens::sampler::{check_length, overlapping_batch};
use crate::data::tokens::shard::Shard;
use crate::device::Device;
use crate::error::Result;
use crate::memory;

/// Mean loss per token, each token seen with at most `context` before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    pub tokens: usize,
    /// Nats per token.
    pub loss: f64,
}

impl Perplexity {
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }

    /// Of a text with so many words: the loss of all scored tokens together, over the number of words, exponentiated. Unlike
    /// that per token it compares models with different tokenizers.
    pub fn per_word(&self, words: usize) -> f64 {
        (self.loss * self.tokens as f64 / words as f64).exp()
    }
}

/// Scores a whole shard in windows of `context` tokens, `batch` at a time. Each begins `stride` tokens after the one before
/// and scores what that one did not: with a stride of `context` windows do not overlap, with smaller ones tokens see more
/// of what is before them, and `context / stride` times as much is computed.
///
/// # Errors
/// A shard shorter than a window, or with tokens that the model does not have; a stride of 0 or beyond the context; errors
/// of the device.
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
