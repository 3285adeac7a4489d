//! The section `data` of a configuration: a text, prepared data, or token files.

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

/// Exactly one of `text`, `prepared`, and `train` with `valid`. Every key is listed in `docs/configuration.md`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Plain text or JSON lines, also as `.zst` or `.gz`.
    pub text: Option<PathBuf>,
    /// With `text`: `char`, `byte`, `bpe:N`, or a `tokenizer.json`; with `train`: a `tokenizer.json`.
    pub tokenizer: Option<String>,
    /// Every n-th document is held out; 10 where left out.
    pub held_out_every: Option<usize>,
    /// How the first line of a document begins; without it the text is cut into a hundred pieces.
    pub document_prefix: Option<String>,
    /// The key of a JSON line's text; `text` where left out.
    pub field: Option<String>,
    /// A folder that `vcycle data prepare` wrote.
    pub prepared: Option<PathBuf>,
    /// Token files, or folders of them.
    pub train: Option<Vec<PathBuf>>,
    pub valid: Option<Vec<PathBuf>>,
    /// Tokens of the vocabulary of files that do not state it.
    pub vocab: Option<usize>,
    /// Images, and nothing else.
    pub images: Option<ImagesConfig>,
    /// Labelled texts, and nothing else but `tokenizer`.
    pub task: Option<TaskConfig>,
}

/// Labelled texts to fine-tune on and to validate on: two files of one form. See [`ClassifyConfig`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    pub train: PathBuf,
    pub valid: PathBuf,
    pub sentence: Column,
    pub second: Option<Column>,
    pub label: Column,
    pub header: Option<bool>,
    pub classes: Option<Vec<String>>,
    #[serde(default)]
    pub regression: bool,
    #[serde(default)]
    pub skip_unlabelled: bool,
}

impl TaskConfig {
    /// What is where in either file.
    pub fn columns(&self) -> ClassifyConfig {
        let TaskConfig { sentence, second, label, header, classes, regression, skip_unlabelled, .. } = self.clone();
        ClassifyConfig { sentence, second, label, header, classes, regression, skip_unlabelled }
    }
}

/// Images to train on and to validate on: two sets, or one of which every n-th is held out.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesConfig {
    pub train: ImageSpec,
    pub valid: Option<ImageSpec>,
    /// Without `valid`; 10 where left out.
    pub held_out_every: Option<usize>,
    /// Threads that make batches ahead; left out: as many as the machine has to spare.
    pub workers: Option<usize>,
}

/// Batches hold ids as `i32`.
const MAX_VOCAB: usize = i32::MAX as usize;

impl DataConfig {
    /// The images.
    ///
    /// # Errors
    /// None are given, or other data beside them; both a set to validate on and images to hold out.
    pub fn images(&self) -> Result<&ImagesConfig> {
        let Some(images) = &self.images else {
            bail!("data.images: missing; name the images to train on, as data.images.train");
        };
        if self.text.is_some() || self.prepared.is_some() || self.train.is_some() || self.valid.is_some() {
            bail!("data: images are given and text beside them; keep one");
        }
        if let Some(workers) = images.workers.filter(|workers| !(1..=MOST_WORKERS).contains(workers)) {
            bail!("data.images.workers: {workers} is not in 1..={MOST_WORKERS}; left out, it follows from the machine");
        }
        match images.held_out_every {
            Some(_) if images.valid.is_some() => {
                bail!("data.images.held_out_every: goes without data.images.valid; leave one of them out")
            }
            Some(every) if every < 2 => {
                bail!("data.images.held_out_every: {every} leaves nothing to train on; give 2 or more")
            }
            _ => Ok(images),
        }
    }

    /// Threads that make batches ahead. Text takes one, whose batches are cheap.
    pub fn workers(&self) -> usize {
        self.images.as_ref().map_or(1, |images| images.workers.unwrap_or_else(usual_workers))
    }

    /// The labelled texts.
    ///
    /// # Errors
    /// None are given, or other data beside them.
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
            bail!("data.{key}: goes not with data.task; keep one of them");
        }
        Ok(task)
    }

    /// What the text's own content decides about the keys.
    ///
    /// # Errors
    /// A key of JSON lines beside other text; a text that cannot be read.
    pub fn check_text(&self) -> Result<()> {
        match (&self.text, &self.field) {
            (Some(text), Some(_)) if !check_form(text)? => {
                bail!(
                    "data.field: it is the key of the text in JSON lines, but {} is plain text; leave it out",
                    text.display()
                )
            }
            _ => Ok(()),
        }
    }

    /// Where the data comes from.
    ///
    /// # Errors
    /// No form of data or more than one; keys that belong to another form, or are missing.
    pub fn source(&self) -> Result<DataSource> {
        if self.images.is_some() {
            bail!("data.images: a model of text trains on text; leave it out");
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
                "data: says not where the data is; give text, prepared (a folder of `vcycle data prepare`), or train and \
                 valid (token files)"
            ),
            _ => bail!("data: {} are given; keep one of them", given.join(" and ")),
        };
        if let Some((key, _, forms)) = keys.iter().find(|(_, given, forms)| *given && !forms.contains(&form)) {
            bail!("data.{key}: goes with {}, not with {form}; leave it out", forms.join(" or "));
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
