//! Text, which GPT and BERT are trained on.

use super::DataFacts;
use crate::bail;
use crate::config::Config;
use crate::data::fingerprint::Fingerprint;
use crate::data::prepared::corpus::Corpus;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokens::shard::Shard;
use crate::device::Device;
use crate::error::Result;
use crate::eval::Forward;
use crate::eval::generate::{Sampling, generate};
use crate::model::gpt::{Gpt, GptConfig};
use crate::model::store::Store;
use crate::runlog::Sample;

/// Largest number of bytes of token files to hash: a disk reads them in seconds.
const SUMMED: usize = 1 << 30;

/// What datasets of text have in common.
pub(super) struct Text {
    pub corpus: Corpus,
    /// [`Corpus::name`] when the data was opened. A checkpoint must not get the name of a file that is being rewritten.
    name: String,
}

impl Text {
    pub fn new(corpus: Corpus) -> Self {
        Text { name: corpus.name(), corpus }
    }

    pub fn facts(&self) -> DataFacts {
        let special = self.corpus.tokenizer.as_ref().and_then(|t| t.special_tokens().ok());
        DataFacts { pad: special.map_or(0, |special| special.pad), ..self.corpus.vocab_size.into() }
    }

    pub fn name(&self) -> String {
        self.name.clone()
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        [&self.corpus.train, &self.corpus.valid].into_iter().flat_map(|split| (**split).as_ref())
    }

    pub fn tokens_sum(&self) -> String {
        let mut print = Fingerprint::default();
        let most = SUMMED / self.shards().count().max(1);
        self.shards().for_each(|shard| shard.add_to(&mut print, most));
        print.hex()
    }

    pub fn check_unchanged(&self) -> Result<()> {
        self.shards().try_for_each(Shard::check_unchanged)
    }

    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.corpus.tokenizer.as_ref()
    }
}

/// Checks that the length of sequences is given.
///
/// # Errors
/// It is not.
pub(super) fn check_context(config: &Config) -> Result<()> {
    if config.model.context == 0 {
        bail!("model.context: must be at least 1; set it to the tokens of a sequence");
    }
    Ok(())
}

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
