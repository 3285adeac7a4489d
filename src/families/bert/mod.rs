//! BERT: trained to predict masked tokens, or fine-tuned on labelled texts.

mod labelled;
mod masked;

use super::build::{at_most, fits};
use super::text::{self, Text};
use super::{DataFacts, Dataset, Family, Note};
use crate::bail;
use crate::config::{Config, NormConfig};
use crate::data::labelled::classes::Checkpoint;
use crate::data::prepared::corpus::Corpus;
use crate::error::Result;
use crate::model::bert::{self, BertConfig, BertHead, Norm};
use crate::model::{self, BatchShape, Model};
use labelled::Labelled;
use masked::MaskedText;
use std::path::Path;

/// The family `bert`.
pub struct Bert;

impl Family for Bert {
    fn name(&self) -> &'static str {
        "bert"
    }

    fn has(&self, model: &model::Family<'_>) -> bool {
        matches!(model, model::Family::Bert(_))
    }

    fn keys(&self) -> &'static [&'static str] {
        &["model.context", "model.norm", "masking", "data.task"]
    }

    fn check(&self, config: &Config) -> Result<()> {
        text::check_context(config)?;
        if config.data.task.is_some() {
            if config.masking.is_some() {
                bail!("masking: cannot be combined with data.task: labelled texts are not masked; remove one of them");
            }
            config.data.task()?;
            return match (&config.data.tokenizer, &config.model.from) {
                (None, None) => bail!(
                    "data.tokenizer: missing; give char, byte, bpe:N, or the path of a tokenizer, or start from a \
                     checkpoint (model.from)"
                ),
                _ => Ok(()),
            };
        }
        config.masking.map_or(Ok(()), |masking| masking.check())?;
        config.data_source().map(drop)
    }

    fn shape(&self, config: &Config) -> BatchShape {
        let (batch, time) = (config.train.batch / config.train.accumulate, config.model.context);
        let scored = if config.data.task.is_none() { config.masking().slots(time) } else { 0 };
        BatchShape { batch, time, scored }
    }

    fn open(
        &self,
        config: &Config,
        checkpoint: Option<Checkpoint<'_>>,
        cache: &Path,
        note: Note<'_>,
    ) -> Result<Box<dyn Dataset>> {
        if config.data.task.is_some() {
            return Ok(Box::new(Labelled::open(config, checkpoint, note)?));
        }
        let data = Corpus::open(&config.data_source()?, cache, note)?.with_special_tokens()?;
        Ok(Box::new(MaskedText(Text::new(data))))
    }

    fn build(&self, config: &Config, width: usize, facts: DataFacts) -> Result<Box<dyn Model>> {
        let m = &config.model;
        Ok(Box::new(bert::Bert::new(BertConfig {
            vocab: facts.vocab.unwrap_or(1),
            context: m.context,
            types: 2,
            width,
            heads: m.heads,
            layers: m.layers,
            ffn: 4 * width,
            eps: 1e-12,
            init_std: m.init_std,
            dropout_hidden: m.dropout,
            dropout_attention: m.dropout,
            pad: facts.pad,
            norm: match m.norm {
                NormConfig::Post => Norm::Post,
                NormConfig::Pre => Norm::Pre,
            },
            head: head(config, facts),
        })?))
    }

    fn from_pretrained(&self, config: &Config, base: &dyn Model, facts: DataFacts) -> Result<Box<dyn Model>> {
        let model::Family::Bert(base) = base.family() else { bail!("the checkpoint is not a BERT") };
        fits(config, facts, base.context, base.vocab)?;
        let pairs = config.masking().next_sentence || config.data.task.as_ref().is_some_and(|t| t.second.is_some());
        at_most(config, "token types", if pairs { 2 } else { 1 }, base.types, "train on single texts")?;
        let (dropout, init_std) = (config.model.dropout, config.model.init_std);
        Ok(Box::new(bert::Bert::new(BertConfig {
            dropout_hidden: dropout,
            dropout_attention: dropout,
            init_std,
            pad: facts.pad,
            head: head(config, facts),
            ..base.clone()
        })?))
    }
}

/// Returns the head that a configuration trains.
fn head(config: &Config, facts: DataFacts) -> BertHead {
    match (config.data.task.is_some(), config.masking().next_sentence) {
        (true, _) => BertHead::Classify { labels: facts.classes.unwrap_or(1) },
        (false, true) => BertHead::Pretraining,
        (false, false) => BertHead::Masked,
    }
}
