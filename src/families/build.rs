//! Builds the models of all levels from a configuration.

use super::dataset::DataFacts;
use crate::config::{Config, Family, NormConfig};
use crate::data::images::PatchShape;
use crate::error::{At, Error, Result};
use crate::model::Model;
use crate::model::bert::{Bert, BertConfig, BertHead, Norm};
use crate::model::deit::{Deit, DeitConfig, Distillation};
use crate::model::gpt::{Gpt, GptConfig};
use crate::multilevel::scheme::ModelShape;

/// The models of all levels, level 1 first. Each is smaller than the one above and its scheme maps the one above to it.
pub type Levels = Vec<Box<dyn Model>>;

/// Builds the models of all levels. This checks all sizes of a configuration before anything is written.
///
/// # Errors
/// Sizes that are too large; a level that is not smaller than the one above; schemes that do not fit the sizes or that
/// the rules do not support. The message names the key.
pub fn build(config: &Config, facts: impl Into<DataFacts>) -> Result<Levels> {
    let mut levels: Levels = vec![first(config, facts.into())?];
    for (i, level) in config.levels.iter().enumerate().skip(1) {
        let place = format!("levels[{i}]");
        let above = levels[i - 1].table();
        let (layers, heads) = level.scheme().small();
        let layers = level.layers.or(layers).unwrap_or(above.layers);
        let heads = level.heads.or(heads).unwrap_or(above.heads);
        let small = levels[i - 1].resized(layers, heads).at(&place)?;
        let shapes = (ModelShape::of(above), ModelShape::of(small.table()));
        if shapes.0 == shapes.1 {
            crate::bail!("{place}: the level is not smaller than the one above; give fewer layers or heads");
        }
        let grouping = level.scheme().resolve(shapes.0, shapes.1).at(&place)?;
        config.rules().admit(&grouping, above).at(&place)?;
        levels.push(small);
    }
    Ok(levels)
}

/// Builds level 1.
fn first(config: &Config, facts: DataFacts) -> Result<Box<dyn Model>> {
    let m = &config.model;
    if let Some(from) = &m.from {
        return super::from_pretrained::model(config, from, facts);
    }
    let width = m.heads.checked_mul(m.head_size).filter(|w| *w < 1 << 24);
    let width = width.ok_or_else(|| Error::new("model: heads x head_size must be below 2^24; use smaller numbers"))?;
    let (layers, heads, ffn, init_std) = (m.layers, m.heads, 4 * width, m.init_std);
    let model: Result<Box<dyn Model>> = match m.family {
        Family::Gpt => boxed(Gpt::new(GptConfig {
            vocab: facts.vocab,
            context: m.context,
            width,
            heads,
            layers,
            ffn,
            eps: 1e-5,
            init_std,
            dropout_embedding: m.dropout,
            dropout_attention: m.dropout,
            dropout_residual: m.dropout,
            bos: None,
            eos: None,
            tied: m.tied,
        })),
        Family::Bert => boxed(Bert::new(BertConfig {
            vocab: facts.vocab,
            context: m.context,
            types: 2,
            width,
            heads,
            layers,
            ffn,
            eps: 1e-12,
            init_std,
            dropout_hidden: m.dropout,
            dropout_attention: m.dropout,
            pad: facts.pad,
            norm: match m.norm {
                NormConfig::Post => Norm::Post,
                NormConfig::Pre => Norm::Pre,
            },
            head: bert_head(config, facts),
        })),
        Family::Deit => {
            let PatchShape { image, patch, channels, .. } = config.patches(facts.channels);
            boxed(Deit::new(DeitConfig {
                image,
                patch,
                channels,
                classes: facts.classes,
                width,
                heads,
                layers,
                ffn,
                eps: 1e-6,
                init_std,
                distillation: if m.distilled { Distillation::Head } else { Distillation::None },
                dropout: m.dropout,
                drop_path: m.drop_path,
            }))
        }
    };
    model.at("model")
}

/// Returns the head that a run trains a BERT with.
pub(crate) fn bert_head(config: &Config, facts: DataFacts) -> BertHead {
    match (config.data.task.is_some(), config.masking().next_sentence) {
        (true, _) => BertHead::Classify { labels: facts.classes },
        (false, true) => BertHead::Pretraining,
        (false, false) => BertHead::Masked,
    }
}

/// Boxes a model as a trait object.
fn boxed<M: Model + 'static>(model: Result<M>) -> Result<Box<dyn Model>> {
    model.map(|model| Box::new(model) as Box<dyn Model>)
}
