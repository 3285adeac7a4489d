//! What differs between model families outside of their forward code: configuration keys, data, the model of level 1,
//! starting from a checkpoint. One folder or file each; the forward code is in [`crate::model`].
//!
//! To add a family, implement [`Family`] and add a line to [`FAMILIES`]: `model.family = "..."` then selects it.

pub mod bert;
mod build;
pub mod deit;
mod gpt;
mod text;

pub use build::{Levels, build, first};

use crate::bail;
use crate::config::Config;
use crate::data::labelled::classes::Checkpoint;
use crate::data::loader::batch::Source;
use crate::data::tokenizer::Tokenizer;
use crate::device::Device;
use crate::error::{At, Result};
use crate::files::read_text;
use crate::hub::checkpoint::class_names;
use crate::model::store::Store;
use crate::model::{self, BatchShape, Model};
use crate::runlog::Sample;
use std::path::Path;
use std::sync::Arc;

/// All families, by the name that `model.family` selects them with.
pub const FAMILIES: &[&dyn Family] = &[&gpt::Gpt, &bert::Bert, &deit::Deit];

/// Receives notes and warnings for the user.
pub type Note<'a> = &'a mut dyn FnMut(&str);

/// A family of models.
pub trait Family: Sync {
    /// Returns its name in configurations.
    fn name(&self) -> &'static str;

    /// Returns whether a model belongs to the family.
    fn has(&self, model: &model::Family<'_>) -> bool;

    /// Returns which of the keys that only some families have apply to this one.
    fn keys(&self) -> &'static [&'static str];

    /// Checks the keys that the family needs.
    ///
    /// # Errors
    /// A key is missing or invalid. The message names it.
    fn check(&self, config: &Config) -> Result<()>;

    /// Returns the shape of a micro-batch.
    fn shape(&self, config: &Config) -> BatchShape {
        BatchShape { batch: config.train.batch / config.train.accumulate, time: config.model.context, scored: 0 }
    }

    /// Opens the data that a configuration names. Data that is not in `cache` yet is prepared there first. Classes are
    /// matched with those of `checkpoint`.
    ///
    /// # Errors
    /// Data that cannot be read, does not fit together, or is too short for the model.
    fn open(
        &self,
        config: &Config,
        checkpoint: Option<Checkpoint<'_>>,
        cache: &Path,
        note: Note<'_>,
    ) -> Result<Box<dyn Dataset>>;

    /// Builds level 1 with the sizes of the configuration. `width` is heads x head size.
    ///
    /// # Errors
    /// Sizes that do not fit together.
    fn build(&self, config: &Config, width: usize, facts: DataFacts) -> Result<Box<dyn Model>>;

    /// Builds level 1 with the sizes of the checkpoint model `base`, and with the head, dropout and `init_std` of this run.
    ///
    /// # Errors
    /// Data or keys that do not fit the checkpoint.
    #[allow(clippy::wrong_self_convention, reason = "the field's name for it")]
    fn from_pretrained(&self, config: &Config, base: &dyn Model, facts: DataFacts) -> Result<Box<dyn Model>>;
}

/// The data of a run: its training and held-out splits.
pub trait Dataset {
    /// Returns what a model must know about this data.
    fn facts(&self) -> DataFacts;

    /// Returns a name that is unique to this data.
    fn name(&self) -> String;

    /// Returns a hash of the tokens of a text, or `None` for other data. Of a very large text, only a sample is hashed.
    fn tokens_sum(&self) -> Option<String> {
        None
    }

    /// Checks that memory-mapped files have not changed since they were opened.
    ///
    /// # Errors
    /// A file was written to.
    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the tokenizer, if the data has one.
    fn tokenizer(&self) -> Option<&Tokenizer> {
        None
    }

    /// Returns the names of the classes, if they have any, to be written to checkpoints.
    fn class_names(&self) -> Option<&[String]> {
        None
    }

    /// Returns the batches of this data.
    ///
    /// # Errors
    /// Invalid settings of masking or augmentation, reported by key; data that is too short.
    fn source(&self, config: &Config) -> Result<Arc<dyn Source>>;

    /// Returns the tokens of an example; for images, patches and special tokens.
    fn tokens_per_example(&self, config: &Config) -> usize {
        config.model.context
    }

    /// Returns what to look at when training waits for this data.
    fn waiting(&self) -> &'static str {
        "is the disk slow?"
    }

    /// Returns a text that the model generates, for the report. `None` for models that generate none.
    ///
    /// # Errors
    /// Out of memory; errors of the device.
    fn sample(&self, device: &mut dyn Device, model: &dyn Model, params: &Store, seed: u64) -> Result<Option<Sample>> {
        let _ = (device, model, params, seed);
        Ok(None)
    }
}

/// What a model must know about the data it is trained on. Before the data is open, nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataFacts {
    /// Vocabulary size of text.
    pub vocab: Option<usize>,
    /// Id of the padding token.
    pub pad: u32,
    /// Number of classes of labelled data; 1 if the labels are numbers.
    pub classes: Option<usize>,
    /// Number of image channels.
    pub channels: Option<usize>,
}

impl From<usize> for DataFacts {
    /// Returns the facts of text with a vocabulary of this size.
    fn from(vocab: usize) -> Self {
        DataFacts { vocab: Some(vocab), ..DataFacts::default() }
    }
}

/// Returns whether a configuration has a key.
type IsGiven = fn(&Config) -> bool;

/// The keys of a configuration that apply to some families only, and whether they are given.
const FAMILY_KEYS: &[(&str, IsGiven)] = &[
    ("model.context", |c| c.model.context != 0),
    ("model.image", |c| c.model.image.is_some()),
    ("model.patch", |c| c.model.patch.is_some()),
    ("model.distilled", |c| c.model.distilled),
    ("model.drop_path", |c| c.model.drop_path != 0.0),
    ("model.norm", |c| c.model.norm != Default::default()),
    ("model.tied", |c| !c.model.tied),
    ("masking", |c| c.masking.is_some()),
    ("data.task", |c| c.data.task.is_some()),
    ("augment", |c| c.augment.is_some()),
    ("view", |c| c.view.is_some()),
    ("train.label_smoothing", |c| c.train.label_smoothing != 0.0),
];

/// Returns the family of a configuration.
///
/// # Errors
/// It is unknown.
pub fn of(config: &Config) -> Result<&'static dyn Family> {
    let name = config.model.family.as_str();
    match FAMILIES.iter().find(|family| family.name() == name) {
        Some(family) => Ok(*family),
        None => {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.name()).collect();
            bail!("model.family: {name:?} is unknown; use one of {}", known.join(", "))
        }
    }
}

/// Reads a configuration file, applies changes as [`Config::read`] does, and checks it with its family.
///
/// # Errors
/// Those of [`Config::read`]; keys that do not apply to the family, or that it needs.
pub fn read(path: &Path, changes: &[String]) -> Result<Config> {
    let text = read_text(path, 1 << 20)?;
    parse(&text, changes).at(path.display())
}

/// Does the same as [`read`] with a text.
///
/// # Errors
/// Those of [`read`].
pub fn parse(text: &str, changes: &[String]) -> Result<Config> {
    let config = Config::parse(text, changes)?;
    build::check_sizes(&config.model)?;
    let family = of(&config)?;
    if let Some((key, _)) = FAMILY_KEYS.iter().find(|(key, given)| given(&config) && !family.keys().contains(key)) {
        bail!("{key}: does not apply to this model family; leave it out");
    }
    family.check(&config)?;
    Ok(config)
}

/// Returns the shape of a micro-batch.
///
/// # Errors
/// The family is unknown.
pub fn shape(config: &Config) -> Result<BatchShape> {
    Ok(of(config)?.shape(config))
}

/// Opens the data of a configuration, with the classes of `model.from`.
///
/// # Errors
/// Those of [`Family::open`].
pub fn open(config: &Config, cache: &Path, note: Note<'_>) -> Result<Box<dyn Dataset>> {
    let names = match &config.model.from {
        Some(from) => class_names(from).at("model.from")?,
        None => None,
    };
    open_for(config, names.as_deref().map(|names| Checkpoint { names, fixed: false }), cache, note)
}

/// Does the same as [`open`] with the classes of `checkpoint`.
///
/// # Errors
/// Those of [`Family::open`].
pub fn open_for(
    config: &Config,
    checkpoint: Option<Checkpoint<'_>>,
    cache: &Path,
    note: Note<'_>,
) -> Result<Box<dyn Dataset>> {
    config.data.check_text()?;
    of(config)?.open(config, checkpoint, cache, note)
}
