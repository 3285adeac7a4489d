//! What a run reads, wherever it comes from: both sides as [`Tokens`], and the tokenizer where there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::{DataSpec, Dataset, grouped, open, prepare};
use super::folder::{open_folder, read_facts};
use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokens::Tokens;
use crate::error::{At, Result};

/// Where data comes from.
#[derive(Debug, Clone)]
pub enum DataSource {
    /// A text, prepared once and kept in a cache.
    Text(DataSpec),
    /// A folder that `vcycle data prepare`, or the cache, holds.
    Prepared(PathBuf),
    /// Token files as they are.
    Shards(ShardsSpec),
}

/// Token files, see [`Tokens::open`].
#[derive(Debug, Clone)]
pub struct ShardsSpec {
    pub train: Vec<PathBuf>,
    pub valid: Vec<PathBuf>,
    /// A `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// Where left out: the tokenizer's, or what the files state.
    pub vocab: Option<usize>,
}

/// Added to a note about data that is on both sides.
pub const SEEN: &str = "the held-out loss then does not measure generalization";
/// Tokens of a file that [`Corpus::name`] looks at.
const SAMPLED: usize = 4096;

/// See the module. Shared, so that other threads may read ahead.
pub struct Corpus {
    pub train: Arc<Tokens>,
    pub valid: Arc<Tokens>,
    pub tokenizer: Option<Tokenizer>,
    /// Every token id is below this.
    pub vocab_size: usize,
}

impl From<Dataset> for Corpus {
    fn from(data: Dataset) -> Self {
        let vocab_size = data.tokenizer.vocab_size();
        Self::new([data.train.into(), data.valid.into()], Some(data.tokenizer), vocab_size)
    }
}

impl Corpus {
    /// A name that other data would not have, by what is read of it: lengths, vocabulary, and some thousand tokens.
    pub fn name(&self) -> String {
        let mut print = Fingerprint::default();
        print.add(&(self.vocab_size as u64).to_le_bytes());
        for shard in [&self.train, &self.valid].into_iter().flat_map(|side| (**side).as_ref()) {
            print.add(&(shard.len() as u64).to_le_bytes());
            let stride = shard.len().div_ceil(SAMPLED).max(1);
            let sample: Vec<u8> = (0..shard.len()).step_by(stride).flat_map(|i| shard.token(i).to_le_bytes()).collect();
            print.add(&sample);
        }
        print.hex()
    }

    fn new([train, valid]: [Tokens; 2], tokenizer: Option<Tokenizer>, vocab_size: usize) -> Self {
        Corpus { train: Arc::new(train), valid: Arc::new(valid), tokenizer, vocab_size }
    }

    /// The same data for a masked model: the vocabulary has `[MASK]` and its like, after all others where they are new.
    ///
    /// # Errors
    /// When there is no tokenizer; see [`Tokenizer::with_special_tokens`].
    pub fn with_special_tokens(self) -> Result<Corpus> {
        let Some(tokenizer) = self.tokenizer else {
            bail!(
                "data.tokenizer: missing; a masked model needs the tokenizer.json of its token files, for the ids of [MASK] \
                 and its like"
            );
        };
        let tokenizer = tokenizer.with_special_tokens().at("data.tokenizer")?;
        let vocab_size = self.vocab_size.max(tokenizer.vocab_size());
        Ok(Corpus { tokenizer: Some(tokenizer), vocab_size, ..self })
    }

    /// Opens the data, preparing a text in `cache` first where that was not done before.
    ///
    /// # Errors
    /// See [`prepare`], [`open_folder`], [`Tokens::open`]; a vocabulary that nothing states, or that others exceed.
    pub fn open(source: &DataSource, cache: &Path, note: &mut dyn FnMut(&str)) -> Result<Corpus> {
        let (place, corpus) = match source {
            DataSource::Text(spec) => return Ok(prepare(spec, cache, note)?.into()),
            DataSource::Prepared(dir) => {
                let corpus = match read_facts(dir).at("data.prepared")? {
                    Some(facts) => {
                        let (sides, tokenizer) = open_folder(dir, &facts)?;
                        Self::new(sides, Some(tokenizer), facts.vocab_size)
                    }
                    None => open(dir)?.into(),
                };
                (dir.display().to_string(), corpus)
            }
            DataSource::Shards(spec) => ("token files".to_owned(), Self::shards(spec, note)?),
        };
        let (train, valid) = (grouped(corpus.train.len() as u64), grouped(corpus.valid.len() as u64));
        note(&format!("using {place}: {train} training tokens, {valid} held out"));
        Ok(corpus)
    }

    fn shards(spec: &ShardsSpec, note: &mut dyn FnMut(&str)) -> Result<Corpus> {
        let tokenizer = spec.tokenizer.as_deref().map(Tokenizer::load).transpose().at("data.tokenizer")?;
        tokenizer.iter().flat_map(Tokenizer::notes).for_each(|text| note(text));
        let known = tokenizer.as_ref().map(Tokenizer::vocab_size);
        if let (Some(known), Some(vocab)) = (known, spec.vocab)
            && known > vocab
        {
            bail!("data.vocab is {vocab}, but data.tokenizer has {known} tokens; raise it to {known} or more");
        }
        let limit = spec.vocab.or(known);
        let open = |paths: &[PathBuf], key: &str| Tokens::open(paths, limit).at(key);
        let sides = [open(&spec.train, "data.train")?, open(&spec.valid, "data.valid")?];
        if let Some(path) = sides[0].shared_with(&sides[1]) {
            note(&format!("data.train and data.valid both have {}; {SEEN}", path.display()));
        }
        let untold = sides.iter().find_map(Tokens::without_vocabulary);
        let vocab_size = match (limit, untold) {
            (Some(limit), _) => limit,
            (None, Some(path)) => bail!(
                "{} does not say how large its vocabulary is; set data.vocab, or data.tokenizer to the tokenizer.json it \
                 was made with",
                path.display()
            ),
            (None, None) => sides.iter().filter_map(Tokens::stated_vocabulary).max().unwrap_or_default(),
        };
        Ok(Self::new(sides, tokenizer, vocab_size))
    }
}
