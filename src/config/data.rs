//! The section `data` of a configuration: a text, prepared data, token files, images, or labelled texts.

use crate::bail;
use crate::data::images::ImageSpec;
use crate::data::labelled::{ClassifyConfig, Column};
use crate::data::loader::prefetch::{MOST_WORKERS, usual_workers};
use crate::data::prepared::cache::DataSpec;
use crate::data::prepared::corpus::{DataSource, ShardsSpec};
use crate::data::text::documents::check_form;
use crate::data::text::{FIELD, HeldOut};
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The section `data`. It has exactly one source: `text`, `prepared`, `train` with `valid`, `images`, or `task`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// A file with plain text or JSON lines, optionally compressed (`.zst` or `.gz`).
    pub text: Option<PathBuf>,
    /// With `text` or `task`: `char`, `byte`, `bpe:N`, or the path of a tokenizer. With `train`: the path of a
    /// `tokenizer.json`.
    pub tokenizer: Option<String>,
    /// Every n-th document is held out. Default: 10.
    pub held_out_every: Option<usize>,
    /// How the first line of a document begins. Without it, the text is split into a hundred pieces.
    pub document_prefix: Option<String>,
    /// The key of the text in JSON lines. Default: `text`.
    pub field: Option<String>,
    /// A folder that `vcycle data prepare` wrote.
    pub prepared: Option<PathBuf>,
    /// Token files to train on, or folders of them.
    pub train: Option<Vec<PathBuf>>,
    /// Token files to validate on, or folders of them.
    pub valid: Option<Vec<PathBuf>>,
    /// Vocabulary size of token files that do not state it.
    pub vocab: Option<usize>,
    /// Labelled images.
    pub images: Option<ImagesConfig>,
    /// Labelled texts. Of the other keys only `tokenizer` may be set.
    pub task: Option<TaskConfig>,
}

/// Labelled texts to fine-tune and to validate on: two files with the same columns. [`ClassifyConfig`] describes the
/// columns.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// The file to train on.
    pub train: PathBuf,
    /// The file to validate on.
    pub valid: PathBuf,
    /// The column of the text.
    pub sentence: Column,
    /// The column of the second text, for pairs.
    pub second: Option<Column>,
    /// The column of the label.
    pub label: Column,
    /// Whether the first line is a header. `None`: it is if a column is given by name.
    pub header: Option<bool>,
    /// The labels in the order of their class numbers.
    pub classes: Option<Vec<String>>,
    /// Whether labels are numbers to predict.
    #[serde(default)]
    pub regression: bool,
    /// Whether to skip examples without a label instead of failing.
    #[serde(default)]
    pub skip_unlabelled: bool,
}

impl TaskConfig {
    /// Returns the columns and labels of both files.
    pub fn columns(&self) -> ClassifyConfig {
        let TaskConfig { sentence, second, label, header, classes, regression, skip_unlabelled, .. } = self.clone();
        ClassifyConfig { sentence, second, label, header, classes, regression, skip_unlabelled }
    }
}

/// Images to train and to validate on: two sets, or one set of which every n-th image is held out.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesConfig {
    /// The images to train on.
    pub train: ImageSpec,
    /// The images to validate on.
    pub valid: Option<ImageSpec>,
    /// Without `valid`: every n-th image of `train` is held out. Default: 10.
    pub held_out_every: Option<usize>,
    /// Number of threads that prepare batches ahead. `None`: half of the CPU cores.
    pub workers: Option<usize>,
}

/// Largest vocabulary: batches store token ids as `i32`.
const MAX_VOCAB: usize = i32::MAX as usize;

impl DataConfig {
    /// Returns the images.
    ///
    /// # Errors
    /// There are none, or other data is given as well; both `valid` and `held_out_every` are given; a number is out of
    /// range.
    pub fn images(&self) -> Result<&ImagesConfig> {
        let Some(images) = &self.images else {
            bail!("data.images: missing; name the images to train on, as data.images.train");
        };
        if self.text.is_some() || self.prepared.is_some() || self.train.is_some() || self.valid.is_some() {
            bail!("data: both images and text are given; keep one of them");
        }
        if let Some(workers) = images.workers.filter(|workers| !(1..=MOST_WORKERS).contains(workers)) {
            bail!(
                "data.images.workers: {workers} is not in 1..={MOST_WORKERS}; if left out, it is half of the CPU cores"
            );
        }
        match images.held_out_every {
            Some(_) if images.valid.is_some() => {
                bail!("data.images.held_out_every: cannot be combined with data.images.valid; leave one of them out")
            }
            Some(every) if every < 2 => {
                bail!("data.images.held_out_every: {every} leaves nothing to train on; give 2 or more")
            }
            _ => Ok(images),
        }
    }

    /// Returns the number of threads that prepare batches ahead: one for text, whose batches are cheap.
    pub fn workers(&self) -> usize {
        self.images.as_ref().map_or(1, |images| images.workers.unwrap_or_else(usual_workers))
    }

    /// Returns the labelled texts.
    ///
    /// # Errors
    /// There are none, or other data is given as well.
    pub fn task(&self) -> Result<&TaskConfig> {
        let Some(task) = &self.task else {
            bail!("data.task: missing; name the files of labelled texts");
        };
        let others = [
            ("text", self.text.is_some()),
            ("held_out_every", self.held_out_every.is_some()),
            ("document_prefix", self.document_prefix.is_some()),
            ("field", self.field.is_some()),
            ("prepared", self.prepared.is_some()),
            ("train", self.train.is_some()),
            ("valid", self.valid.is_some()),
            ("vocab", self.vocab.is_some()),
            ("images", self.images.is_some()),
        ];
        if let Some((key, _)) = others.iter().find(|(_, given)| *given) {
            bail!("data.{key}: cannot be combined with data.task; keep one of them");
        }
        Ok(task)
    }

    /// Checks the keys that depend on the content of the text.
    ///
    /// # Errors
    /// `field` is set but the text is not JSON lines; the text cannot be read.
    pub fn check_text(&self) -> Result<()> {
        match (&self.text, &self.field) {
            (Some(text), Some(_)) if !check_form(text)? => {
                bail!("data.field: only applies to JSON lines, but {} is plain text; leave it out", text.display())
            }
            _ => Ok(()),
        }
    }

    /// Returns where the text comes from.
    ///
    /// # Errors
    /// There is no source or more than one; a key does not apply to the source, or is missing.
    pub fn source(&self) -> Result<DataSource> {
        if self.images.is_some() {
            bail!("data.images: this model family trains on text; leave it out");
        }
        let shards = self.train.is_some() || self.valid.is_some();
        let forms = [("data.text", self.text.is_some()), ("data.prepared", self.prepared.is_some())];
        let given: Vec<&str> = forms.into_iter().chain([("data.train", shards)]).filter(|f| f.1).map(|f| f.0).collect();
        let keys = [
            ("tokenizer", self.tokenizer.is_some(), &["data.text", "data.train"][..]),
            ("held_out_every", self.held_out_every.is_some(), &["data.text"]),
            ("document_prefix", self.document_prefix.is_some(), &["data.text"]),
            ("field", self.field.is_some(), &["data.text"]),
            ("vocab", self.vocab.is_some(), &["data.train"]),
        ];
        let form = match given[..] {
            [form] => form,
            [] => bail!(
                "data: no data source; set data.text, data.prepared (a folder of `vcycle data prepare`), or data.train \
                 and data.valid (token files)"
            ),
            _ => bail!("data: {} are given; keep one of them", given.join(" and ")),
        };
        if let Some((key, _, forms)) = keys.iter().find(|(_, given, forms)| *given && !forms.contains(&form)) {
            bail!("data.{key}: only applies to {}, not to {form}; leave it out", forms.join(" or "));
        }
        if let Some(text) = &self.text {
            let Some(tokenizer) = &self.tokenizer else {
                bail!("data.tokenizer: missing; give char, byte, bpe:N, or the path of a tokenizer.json");
            };
            return Ok(DataSource::Text(DataSpec {
                text: text.clone(),
                tokenizer: tokenizer.clone(),
                held_out: HeldOut { prefix: self.document_prefix.clone(), every: self.held_out_every.unwrap_or(10) },
                field: self.field.clone().unwrap_or_else(|| FIELD.to_owned()),
            }));
        }
        if let Some(dir) = &self.prepared {
            return Ok(DataSource::Prepared(dir.clone()));
        }
        if let Some(vocab) = self.vocab.filter(|vocab| !(1..=MAX_VOCAB).contains(vocab)) {
            bail!("data.vocab: {vocab} is not in 1..={MAX_VOCAB}");
        }
        match (&self.train, &self.valid) {
            (Some(train), Some(valid)) => Ok(DataSource::Shards(ShardsSpec {
                train: train.clone(),
                valid: valid.clone(),
                tokenizer: self.tokenizer.as_ref().map(PathBuf::from),
                vocab: self.vocab,
            })),
            (Some(_), _) => bail!("data.valid: missing; name the token files to validate on"),
            (None, _) => bail!("data.train: missing; name the token files to train on"),
        }
    }
}
