//! Generates text with a model, token by token.

use super::Forward;
use crate::bail;
use crate::device::Device;
use crate::device::ops::philox::philox;
use crate::error::Result;

/// How the next token is sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Softmax temperature. 0: always the most likely token.
    pub temperature: f64,
    /// Sample from the k most likely tokens only. 0: from all.
    pub top_k: usize,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Sample ids below this only: the vocabulary of a model may be padded beyond that of its tokenizer.
    pub vocabulary: usize,
}

impl Sampling {
    /// Checks the values.
    ///
    /// # Errors
    /// The temperature is negative or not finite.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            bail!("a temperature of {} is not possible; use 0 or more", self.temperature);
        }
        Ok(())
    }
}

/// Sequences are padded to a multiple of this, so that the tape plans few different lengths.
const STEP: usize = 64;

/// Continues `prompt` by `count` tokens and passes each to `each` at once. The model sees the last `context` tokens.
///
/// # Errors
/// The prompt or the vocabulary is empty; the temperature is negative or not finite; errors of the device and of
/// `each`.
pub fn generate(
    device: &mut dyn Device,
    model: &mut Forward<'_>,
    prompt: &[u32],
    count: usize,
    sampling: Sampling,
    mut each: impl FnMut(u32) -> Result<()>,
) -> Result<()> {
    if prompt.is_empty() {
        bail!("the prompt is empty; give at least one token of text");
    }
    sampling.check()?;
    if sampling.vocabulary == 0 {
        bail!("the vocabulary is empty, so there is no token to sample; use the tokenizer's size");
    }
    let context = model.gpt.config.context;
    let mut tokens: Vec<i32> = prompt.iter().map(|&t| t as i32).collect();
    let mut window = Vec::with_capacity(context.min(prompt.len().saturating_add(count)));
    for number in 0..count {
        let seen = &tokens[tokens.len().saturating_sub(context)..];
        window.clear();
        window.extend_from_slice(seen);
        let last = window.len() - 1;
        window.resize(window.len().next_multiple_of(STEP).min(context), 0);
        let logits = model.next(device, &window, last)?;
        let next = draw(&logits, sampling, number as u64);
        tokens.push(next as i32);
        each(next)?;
    }
    Ok(())
}

/// Samples a token from logits, as a function of the seed and the token's number.
fn draw(logits: &[f32], sampling: Sampling, number: u64) -> u32 {
    let mut order: Vec<u32> = (0..logits.len().min(sampling.vocabulary) as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    if sampling.temperature == 0.0 {
        return order[0];
    }
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k);
    }
    let largest = f64::from(logits[order[0] as usize]);
    let weight = |token: u32| ((f64::from(logits[token as usize]) - largest) / sampling.temperature).exp();
    let total: f64 = order.iter().map(|&t| weight(t)).sum();
    let key = [sampling.seed as u32, (sampling.seed >> 32) as u32];
    let word = philox(key, [number as u32, (number >> 32) as u32, 0, u32::MAX - 2])[0];
    let mut left = f64::from(word) / 4_294_967_296.0 * total;
    for &token in &order {
        left -= weight(token);
        if left < 0.0 {
            return token;
        }
    }
    order[order.len() - 1]
}
