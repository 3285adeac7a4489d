//! Builds level 1 with the sizes of the checkpoint that `model.from` names. Its weights are loaded when the first stage
//! begins.

use super::build::bert_head;
use super::dataset::DataFacts;
use crate::bail;
use crate::config::{Config, Family, ModelConfig, NormConfig};
use crate::error::{At, Result};
use crate::hub::checkpoint;
use crate::model;
use crate::model::Model;
use crate::model::bert::{Bert, BertConfig};
use crate::model::deit::{Deit, DeitConfig, Distillation};
use crate::model::gpt::{Gpt, GptConfig};
use std::path::Path;

impl ModelConfig {
    /// Returns the sizes with their keys.
    fn sizes(&self) -> [(&'static str, usize); 3] {
        [("layers", self.layers), ("heads", self.heads), ("head_size", self.head_size)]
    }

    /// Checks that the sizes are given, or a checkpoint to take them from.
    ///
    /// # Errors
    /// A size is missing, or a key is given that the checkpoint determines.
    pub(crate) fn check_sizes(&self) -> Result<()> {
        if self.from.is_none() {
            return match self.sizes().iter().find(|(_, size)| *size == 0) {
                Some((key, _)) => {
                    bail!("model.{key}: must be at least 1; set it, or give a checkpoint to start from (model.from)")
                }
                None => Ok(()),
            };
        }
        if self.norm != NormConfig::default() {
            bail!("model.norm: determined by the checkpoint in model.from; leave it out");
        }
        if !self.tied {
            bail!("model.tied: determined by the checkpoint in model.from; leave it out");
        }
        Ok(())
    }
}

/// Builds the model of the checkpoint folder `from`, with the head, dropout and `init_std` of this run.
///
/// # Errors
/// The folder has no readable `config.json`, is of another family, or has sizes that do not fit the data and the
/// configuration. The message names the key.
pub fn model(config: &Config, from: &Path, facts: DataFacts) -> Result<Box<dyn Model>> {
    let base = checkpoint::load_config(from).at("model.from")?;
    let (m, table) = (&config.model, base.table());
    let family = match base.family() {
        model::Family::Gpt(_) => Family::Gpt,
        model::Family::Bert(_) => Family::Bert,
        model::Family::Deit(_) => Family::Deit,
    };
    if m.family != family {
        let [there, here] = [family, m.family].map(|family| format!("{family:?}").to_lowercase());
        bail!(
            "model.from: the checkpoint in {} is a {there}, but model.family is {here}; change one of them",
            from.display()
        );
    }
    for ((key, given), there) in m.sizes().into_iter().zip([table.layers, table.heads, table.head_size]) {
        if given != 0 && given != there {
            bail!("model.{key}: {given}, but the checkpoint in {} has {there}; leave it out", from.display());
        }
    }
    let most = |what: &str, wanted: usize, there: usize, remedy: &str| match wanted > there {
        true => bail!("{what}: {wanted}, but the checkpoint in {} has {there}; {remedy}", from.display()),
        false => Ok(()),
    };
    let fits = |context, vocab| {
        most("model.context", m.context, context, "use at most that")?;
        most("data.tokenizer, size of the vocabulary", facts.vocab, vocab, "use the checkpoint's own tokenizer")
    };
    Ok(match (m.family, base.family()) {
        (Family::Gpt, model::Family::Gpt(c)) => {
            fits(c.context, c.vocab)?;
            Box::new(Gpt::new(GptConfig {
                dropout_embedding: m.dropout,
                dropout_attention: m.dropout,
                dropout_residual: m.dropout,
                init_std: m.init_std,
                ..c.clone()
            })?)
        }
        (Family::Bert, model::Family::Bert(c)) => {
            fits(c.context, c.vocab)?;
            let pairs = config.masking().next_sentence || config.data.task.as_ref().is_some_and(|t| t.second.is_some());
            most("token types", if pairs { 2 } else { 1 }, c.types, "train on single texts")?;
            Box::new(Bert::new(BertConfig {
                dropout_hidden: m.dropout,
                dropout_attention: m.dropout,
                init_std: m.init_std,
                pad: facts.pad,
                head: bert_head(config, facts),
                ..c.clone()
            })?)
        }
        (Family::Deit, model::Family::Deit(c)) => {
            // The placeholder facts mean that the data is not open yet, so the number of channels is unknown.
            let channels = if facts == DataFacts::from(1) { c.channels } else { facts.channels };
            let here = (m.image.unwrap_or(0), m.patch.unwrap_or(0), m.distilled, channels);
            let there = (c.image, c.patch, c.distillation != Distillation::None, c.channels);
            if here != there {
                bail!(
                    "model.image, patch, distilled, and channels of the images: {here:?}, but the checkpoint in {} has \
                     {there:?}; make them equal",
                    from.display()
                );
            }
            let (dropout, drop_path, init_std) = (m.dropout, m.drop_path, m.init_std);
            Box::new(Deit::new(DeitConfig { classes: facts.classes, dropout, drop_path, init_std, ..c.clone() })?)
        }
        _ => unreachable!("both are of the same family"),
    })
}
