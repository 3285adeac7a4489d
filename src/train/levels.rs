//! The models of all levels, from a configuration.

use super::config::{Config, Family};
use crate::error::{At, Error, Result};
use crate::model::Model;
use crate::model::gpt::{Gpt, GptConfig};
use crate::multilevel::scheme::ModelShape;

/// Level 1 first, each no larger than the one above and reachable from it by its scheme.
pub type Levels = Vec<Box<dyn Model>>;

/// Finds everything that can be wrong with a configuration's sizes, before anything is written.
///
/// # Errors
/// Sizes beyond reason; a level that is no smaller than the one above; schemes that do not fit or that the rules do not
/// admit. By key.
pub fn build(config: &Config, vocab: usize) -> Result<Levels> {
    let mut levels: Levels = vec![Box::new(first(config, vocab)?)];
    for (i, level) in config.levels.iter().enumerate().skip(1) {
        let place = format!("levels[{i}]");
        let above = levels[i - 1].table();
        let (layers, heads) = level.scheme().small();
        let layers = level.layers.or(layers).unwrap_or(above.layers);
        let heads = level.heads.or(heads).unwrap_or(above.heads);
        let small = levels[i - 1].resized(layers, heads).at(&place)?;
        let shapes = (ModelShape::of(above), ModelShape::of(small.table()));
        if shapes.0 == shapes.1 {
            crate::bail!("{place}: the level is no smaller than the one above; give fewer layers or heads");
        }
        let grouping = level.scheme().resolve(shapes.0, shapes.1).at(&place)?;
        config.rules().admit(&grouping, above).at(&place)?;
        levels.push(small);
    }
    Ok(levels)
}

/// Level 1.
fn first(config: &Config, vocab: usize) -> Result<Gpt> {
    let m = &config.model;
    let Family::Gpt = m.family;
    let width = m.heads.checked_mul(m.head_size).filter(|w| *w < 1 << 24);
    let width = width.ok_or_else(|| Error::new("model: heads x head_size is beyond reason; use smaller numbers"))?;
    Gpt::new(GptConfig {
        vocab,
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
        tied: true,
    })
    .at("model")
}
