//! Generates a text sample with a trained model, for the report.

use crate::data::prepared::corpus::Corpus;
use crate::device::Device;
use crate::error::Result;
use crate::eval::Forward;
use crate::eval::generate::{Sampling, generate};
use crate::model::gpt::{Gpt, GptConfig};
use crate::model::store::Store;
use crate::runlog::Sample;

/// Tokens of the prompt.
const PROMPT: usize = 24;
/// Tokens to generate.
const TOKENS: usize = 120;

/// Continues the first held-out tokens with the model. Returns `None` without a tokenizer, or if the model drew an id
/// for which the tokenizer has no token.
///
/// # Errors
/// Out of memory; errors of the device.
pub fn sample(
    device: &mut dyn Device,
    config: &GptConfig,
    params: &Store,
    data: &Corpus,
    seed: u64,
) -> Result<Option<Sample>> {
    let Some(tokenizer) = &data.tokenizer else { return Ok(None) };
    let gpt = Gpt::new(config.clone())?;
    let mut prompt = vec![0; PROMPT.min(data.valid.len()).min(config.context)];
    let [first, ..] = (*data.valid).as_ref() else { return Ok(None) };
    prompt.truncate(first.len());
    first.read(0, &mut prompt)?;
    let prompt: Vec<u32> = prompt.into_iter().map(|id| id as u32).collect();
    let mut forward = Forward::new(device, &gpt, params, (1, config.context))?;
    let vocabulary = tokenizer.vocab_size().min(data.vocab_size);
    let sampling = Sampling { temperature: 0.7, top_k: 40, seed, vocabulary };
    let mut tokens = Vec::with_capacity(TOKENS);
    generate(device, &mut forward, &prompt, TOKENS, sampling, |token| {
        tokens.push(token);
        Ok(())
    })?;
    forward.free(device);
    let text = |tokens: &[u32]| tokenizer.decode(tokens);
    Ok(text(&prompt).and_then(|prompt| Ok(Sample { prompt, text: text(&tokens)? })).ok())
}
