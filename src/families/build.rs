//! Builds the models of all levels from a configuration.

use super::{DataFacts, of};
use crate::bail;
use crate::config::{Config, ModelConfig, NormConfig};
use crate::error::{At, Error, Result};
use crate::hub::checkpoint;
use crate::model::Model;
use crate::multilevel::scheme::ModelShape;
use std::path::Path;

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
            bail!("{place}: the level is not smaller than the one above; give fewer layers or heads");
        }
        let scheme = config.growth()?.scheme(level.scheme(), shapes.0, shapes.1).at(&place)?;
        let grouping = scheme.resolve(shapes.0, shapes.1).at(&place)?;
        config.rules().admit(&grouping, above).at(&place)?;
        levels.push(small);
    }
    Ok(levels)
}

/// Builds level 1: with the sizes of the configuration, or of the checkpoint that `model.from` names.
///
/// # Errors
/// Those of [`build`] for level 1.
pub fn first(config: &Config, facts: DataFacts) -> Result<Box<dyn Model>> {
    let m = &config.model;
    if let Some(from) = &m.from {
        return pretrained(config, from, facts);
    }
    let width = m.heads.checked_mul(m.head_size).filter(|w| *w < 1 << 24);
    let width = width.ok_or_else(|| Error::new("model: heads x head_size must be below 2^24; use smaller numbers"))?;
    of(config)?.build(config, width, facts).at("model")
}

/// Builds the model of the checkpoint folder `from`, with the head, dropout and `init_std` of this run. Its weights are
/// loaded when the first stage begins.
///
/// # Errors
/// The folder has no readable `config.json`, is of another family, or has sizes that do not fit the data and the
/// configuration. The message names the key.
fn pretrained(config: &Config, from: &Path, facts: DataFacts) -> Result<Box<dyn Model>> {
    let base = checkpoint::load_config(from).at("model.from")?;
    let (family, table) = (of(config)?, base.table());
    if !family.has(&base.family()) {
        let there = super::FAMILIES.iter().find(|other| other.has(&base.family())).map_or("", |other| other.name());
        bail!(
            "model.from: the checkpoint in {} is a {there}, but model.family is {}; change one of them",
            from.display(),
            family.name()
        );
    }
    for ((key, given), there) in sizes(&config.model).into_iter().zip([table.layers, table.heads, table.head_size]) {
        if given != 0 && given != there {
            bail!("model.{key}: {given}, but the checkpoint in {} has {there}; leave it out", from.display());
        }
    }
    family.from_pretrained(config, &*base, facts)
}

/// Checks that a checkpoint allows as much as is wanted of it.
///
/// # Errors
/// It does not. The message ends with `remedy`.
pub(super) fn at_most(config: &Config, what: &str, wanted: usize, there: usize, remedy: &str) -> Result<()> {
    if wanted <= there {
        return Ok(());
    }
    let from = config.model.from.as_deref().unwrap_or(Path::new(""));
    bail!("{what}: {wanted}, but the checkpoint in {} has {there}; {remedy}", from.display())
}

/// Checks that a checkpoint's context and vocabulary are large enough.
///
/// # Errors
/// Those of [`at_most`].
pub(super) fn fits(config: &Config, facts: DataFacts, context: usize, vocab: usize) -> Result<()> {
    at_most(config, "model.context", config.model.context, context, "use at most that")?;
    let (what, wanted) = ("data.tokenizer, size of the vocabulary", facts.vocab.unwrap_or(0));
    at_most(config, what, wanted, vocab, "use the checkpoint's own tokenizer")
}

/// Returns the sizes of level 1 with their keys.
fn sizes(model: &ModelConfig) -> [(&'static str, usize); 3] {
    [("layers", model.layers), ("heads", model.heads), ("head_size", model.head_size)]
}

/// Checks that the sizes are given, or a checkpoint to take them from.
///
/// # Errors
/// A size is missing, or a key is given that the checkpoint determines.
pub(super) fn check_sizes(model: &ModelConfig) -> Result<()> {
    if model.from.is_none() {
        return match sizes(model).iter().find(|(_, size)| *size == 0) {
            Some((key, _)) => {
                bail!("model.{key}: must be at least 1; set it, or give a checkpoint to start from (model.from)")
            }
            None => Ok(()),
        };
    }
    if model.norm != NormConfig::default() {
        bail!("model.norm: determined by the checkpoint in model.from; leave it out");
    }
    if !model.tied {
        bail!("model.tied: determined by the checkpoint in model.from; leave it out");
    }
    Ok(())
}
