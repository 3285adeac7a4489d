//! Batches of a run, by the family of its model.

use super::config::{Config, Family};
use crate::data::batch::{Source, NextToken};
use crate::data::corpus::Corpus;
use crate::data::sampler::Sampler;
use std::sync::Arc;

/// What a configuration's model is trained on.
pub fn source(config: &Config, data: &Corpus) -> Arc<dyn Source> {
    let sampler = Sampler { seed: config.seed, rank: 0, world: 1 };
    let (train, valid) = (Arc::clone(&data.train), Arc::clone(&data.valid));
    match config.model.family {
        Family::Gpt => Arc::new(NextToken { train, valid, sampler, context: config.model.context }),
    }
}
