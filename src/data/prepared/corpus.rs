//! Opens the data of a run, whatever its source: the training and the held-out split as [`Tokens`], and the tokenizer
//! if there is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::{DataSpec, Dataset, grouped, open, prepare};
use super::folder::open_folder;
use super::manifest::Manifest;
use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokens::Tokens;
use crate::error::{At, Result};

/// Where data comes from.
#[derive(Debug, Clone)]
pub enum DataSource {
    /// A text, which is prepared once and cached (`data.text`).
    Text(DataSpec),
    /// A folder written by `vcycle data prepare`, or one of the cache (`data.prepared`).
    Prepared(PathBuf),
    /// Token files (`data.train` and `data.valid`).
    Shards(ShardsSpec),
}

/// Token files, see [`Tokens::open`].
#[derive(Debug, Clone)]
pub struct ShardsSpec {
    /// Token files of the training split.
    pub train: Vec<PathBuf>,
    /// Token files of the held-out split.
    pub valid: Vec<PathBuf>,
    /// The path of the tokenizer of these files.
    pub tokenizer: Option<PathBuf>,
    /// The vocabulary size. The default is that of the tokenizer, or else what the files state.
    pub vocab: Option<usize>,
}

/// The second half of a warning about data that is in both splits.
pub const SEEN: &str = "the held-out loss then does not measure generalization";
/// The number of tokens of a file that [`Corpus::name`] samples.
const SAMPLED: usize = 4096;

/// The data of a run. The splits are shared, so that other threads may prefetch from them.
pub struct Corpus {
    /// The training split.
    pub train: Arc<Tokens>,
    /// The held-out split.
    pub valid: Arc<Tokens>,
    /// The tokenizer of the tokens, if known.
    pub tokenizer: Option<Tokenizer>,
    /// The vocabulary size. Every token id is below it.
    pub vocab_size: usize,
}

impl From<Dataset> for Corpus {
    fn from(data: Dataset) -> Self {
        let vocab_size = data.tokenizer.vocab_size();
        Self::new([data.train.into(), data.valid.into()], Some(data.tokenizer), vocab_size)
    }
}

impl Corpus {
    /// Returns a name that identifies the data: a hash of the vocabulary size, the lengths of all files, and up to 4096
    /// tokens of each.
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

    /// Returns the same data for a masked model: with the special tokens that such a model needs, such as `[MASK]`. New
    /// ones get the ids after all others.
    ///
    /// # Errors
    /// Fails if there is no tokenizer, and on errors of [`Tokenizer::with_special_tokens`].
    pub fn with_special_tokens(self) -> Result<Corpus> {
        let Some(tokenizer) = self.tokenizer else {
            bail!(
                "data.tokenizer: missing; a masked model needs the tokenizer.json of its token files, for the ids of \
                 special tokens such as [MASK]"
            );
        };
        let tokenizer = tokenizer.with_special_tokens().at("data.tokenizer")?;
        let vocab_size = self.vocab_size.max(tokenizer.vocab_size());
        Ok(Corpus { tokenizer: Some(tokenizer), vocab_size, ..self })
    }

    /// Opens the data. A text that is not in `cache` yet is prepared first. `note` gets progress messages and warnings.
    ///
    /// # Errors
    /// Fails on errors of [`prepare`], [`open_folder`] and [`Tokens::open`], and if the vocabulary size is unknown or
    /// smaller than that of the tokenizer or a file.
    pub fn open(source: &DataSource, cache: &Path, note: &mut dyn FnMut(&str)) -> Result<Corpus> {
        let (place, corpus) = match source {
            DataSource::Text(spec) => return Ok(prepare(spec, cache, note)?.into()),
            DataSource::Prepared(dir) => {
                let corpus = match Manifest::read(dir).at("data.prepared")? {
                    Manifest::Folder(facts) => {
                        let (sides, tokenizer) = open_folder(dir, &facts)?;
                        Self::new(sides, Some(tokenizer), facts.vocab_size)
                    }
                    Manifest::Cache(_) => open(dir)?.into(),
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
        let unstated = sides.iter().find_map(Tokens::without_vocabulary);
        let vocab_size = match (limit, unstated) {
            (Some(limit), _) => limit,
            (None, Some(path)) => bail!(
                "{} does not say how large its vocabulary is; set data.vocab, or data.tokenizer to the tokenizer.json \
                 it was made with",
                path.display()
            ),
            (None, None) => sides.iter().filter_map(Tokens::stated_vocabulary).max().unwrap_or_default(),
        };
        Ok(Self::new(sides, tokenizer, vocab_size))
    }
}
