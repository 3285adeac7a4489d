//! GPT: trained to predict the next token of a text.

use super::build::fits;
use super::text::{self, Text};
use super::{DataFacts, Dataset, Family, Note};
use crate::bail;
use crate::config::Config;
use crate::data::labelled::classes::Checkpoint;
use crate::data::loader::batch::{NextToken, Source};
use crate::data::prepared::corpus::Corpus;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokens::sampler::{Sampler, check_length};
use crate::device::Device;
use crate::error::Result;
use crate::model::gpt::{self, GptConfig};
use crate::model::store::Store;
use crate::model::{self, Model};
use crate::runlog::Sample;
use std::path::Path;
use std::sync::Arc;

/// The family `gpt`.
pub struct Gpt;

impl Family for Gpt {
    fn name(&self) -> &'static str {
        "gpt"
    }

    fn has(&self, model: &model::Family<'_>) -> bool {
        matches!(model, model::Family::Gpt(_))
    }

    fn keys(&self) -> &'static [&'static str] {
        &["model.context", "model.tied"]
    }

    fn check(&self, config: &Config) -> Result<()> {
        text::check_context(config)?;
        config.data_source().map(drop)
    }

    fn open(
        &self,
        config: &Config,
        _: Option<Checkpoint<'_>>,
        cache: &Path,
        note: Note<'_>,
    ) -> Result<Box<dyn Dataset>> {
        let data = Corpus::open(&config.data_source()?, cache, note)?;
        check_length(&*data.train, config.model.context)?;
        check_length(&*data.valid, config.model.context)?;
        Ok(Box::new(GptText(Text::new(data))))
    }

    fn build(&self, config: &Config, width: usize, facts: DataFacts) -> Result<Box<dyn Model>> {
        let m = &config.model;
        Ok(Box::new(gpt::Gpt::new(GptConfig {
            vocab: facts.vocab.unwrap_or(1),
            context: m.context,
            width,
            heads: m.heads,
            layers: m.layers,
            ffn: 4 * width,
            eps: 1e-5,
            init_std: m.init_std,
            dropout_embedding: m.dropout,
            dropout_attention: m.dropout,
            dropout_residual: m.dropout,
            bos: None,
            eos: None,
            tied: m.tied,
        })?))
    }

    fn from_pretrained(&self, config: &Config, base: &dyn Model, facts: DataFacts) -> Result<Box<dyn Model>> {
        let model::Family::Gpt(base) = base.family() else { bail!("the checkpoint is not a GPT") };
        fits(config, facts, base.context, base.vocab)?;
        let (dropout, init_std) = (config.model.dropout, config.model.init_std);
        Ok(Box::new(gpt::Gpt::new(GptConfig {
            dropout_embedding: dropout,
            dropout_attention: dropout,
            dropout_residual: dropout,
            init_std,
            ..base.clone()
        })?))
    }
}

/// Text in windows of tokens, each with the next token as its label.
struct GptText(Text);

impl Dataset for GptText {
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
        let Corpus { train, valid, .. } = &self.0.corpus;
        let sampler = Sampler { seed: config.seed, rank: 0, world: 1 };
        let (train, valid) = (Arc::clone(train), Arc::clone(valid));
        Ok(Arc::new(NextToken { train, valid, sampler, context: config.model.context }))
    }

    fn sample(&self, device: &mut dyn Device, model: &dyn Model, params: &Store, seed: u64) -> Result<Option<Sample>> {
        match model.family() {
            model::Family::Gpt(config) => text::sample(device, config, params, &self.0.corpus, seed),
            _ => Ok(None),
        }
    }
}
