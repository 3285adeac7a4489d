//! Opens the data of a run, which depends on the model family, and cuts it into batches.

use super::labelled::Labelled;
use super::sources::{Masked, Patches};
use crate::bail;
use crate::config::data::ImagesConfig;
use crate::config::{Config, Family};
use crate::data::fingerprint::Fingerprint;
use crate::data::images::{ImageSampler, Images, prepare};
use crate::data::labelled::classes::{Checkpoint, Matched, Origin, list, matched};
use crate::data::loader::batch::{NextToken, Source};
use crate::data::prepared::corpus::{Corpus, SEEN};
use crate::data::tokenizer::Tokenizer;
use crate::data::tokens::masking::Masking;
use crate::data::tokens::sampler::{Sampler, check_length};
use crate::data::tokens::shard::Shard;
use crate::error::{At, Result};
use crate::hub::checkpoint::class_names;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The data of a run: its training and held-out splits.
pub enum Data {
    /// Text for GPT and for BERT's pretraining.
    Text(Box<Corpus>),
    /// Labelled images for DeiT.
    Images {
        /// Images to train on.
        train: Arc<Images>,
        /// Held-out images.
        valid: Arc<Images>,
        /// How labels map to the classes of the model.
        classes: ImageClasses,
    },
    /// Labelled texts for fine-tuning BERT.
    Labelled(Box<Labelled>),
}

/// Largest number of bytes of token files to hash: a disk reads them in seconds.
const SUMMED: usize = 1 << 30;

/// How the labels of images map to the classes of a model.
#[derive(Debug)]
pub struct ImageClasses {
    /// Number of classes.
    count: usize,
    /// Name of each class. `None`: classes only have numbers.
    names: Option<Vec<String>>,
    /// The class of each label. `None`: the label is the class.
    by_label: Option<Arc<[i32]>>,
    /// The class of each label of the held-out images, if these are labelled differently.
    held_out: Option<Arc<[i32]>>,
}

impl ImageClasses {
    /// Returns the classes of `images` themselves: each label is its own class.
    pub fn of(images: &Images) -> Self {
        ImageClasses { count: images.classes(), names: None, by_label: None, held_out: None }
    }

    /// Matches the classes of `images` with those of `checkpoint`, if given. Returns a note for the user as well.
    fn new(spec: &ImagesConfig, images: &Images, checkpoint: Option<Checkpoint<'_>>) -> Result<(Self, Option<String>)> {
        let named = images.names().to_vec();
        let origin = match spec.train.names {
            Some(_) => Origin::Given("data.images.train.names"),
            None => Origin::Folders,
        };
        let Matched { labels, names, note } = matched(named, origin, checkpoint)?;
        let mut places = HashMap::new();
        for (label, at) in labels.iter().zip(0..) {
            places.entry(label).or_insert(at);
        }
        let place = |name| places.get(name).copied();
        let by_label: Vec<i32> = images.names().iter().filter_map(place).collect();
        // Names that occur twice cannot be matched.
        let same = by_label.len() != images.classes() || by_label.iter().zip(0..).all(|(&to, from)| to == from);
        let distinct: BTreeSet<i32> = by_label.iter().copied().collect();
        let by_label = (!same && distinct.len() == by_label.len()).then(|| by_label.into());
        Ok((ImageClasses { count: labels.len(), names, by_label, held_out: None }, note))
    }

    /// Maps the labels of the held-out images to the classes of the training images, by name. Some classes may be
    /// missing there. Returns a note if the names differ.
    fn match_held_out(&mut self, train: &Images, valid: &Images) -> Result<Option<String>> {
        if train.names() == valid.names() {
            return Ok(None);
        }
        let place = |name: &String| train.names().iter().position(|known| known == name);
        let unknown: Vec<&String> = valid.names().iter().filter(|name| place(name).is_none()).collect();
        if !unknown.is_empty() {
            bail!(
                "valid has classes that train does not have: {}; train has: {}; give both the same names, or \
                 leave these out",
                list(&unknown),
                list(train.names())
            );
        }
        let class = |label: usize| self.by_label.as_ref().map_or(label as i32, |classes| classes[label]);
        self.held_out = Some(valid.names().iter().filter_map(place).map(class).collect());
        Ok(Some(format!("the held-out images have {} of {} classes", valid.classes(), train.classes())))
    }
}

/// What a model must know about the data it is trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataFacts {
    /// Vocabulary size; 1 for images.
    pub vocab: usize,
    /// Id of the padding token.
    pub pad: u32,
    /// Number of classes; 1 for text without labels.
    pub classes: usize,
    /// Number of image channels; 1 for text.
    pub channels: usize,
}

impl From<usize> for DataFacts {
    /// Returns the facts of text with a vocabulary of this size. `DataFacts::from(1)` is a placeholder for data that is not
    /// open yet.
    fn from(vocab: usize) -> Self {
        DataFacts { vocab, pad: 0, classes: 1, channels: 1 }
    }
}

impl Data {
    /// Opens the data that a configuration names. Data that is not in `cache` yet is prepared there first. `note`
    /// receives notes and warnings for the user.
    ///
    /// # Errors
    /// Those of [`Corpus::open`], [`Labelled::open`] and [`prepare`]; data that is too short for the model; training
    /// and held-out images that do not match.
    pub fn open(config: &Config, cache: &Path, note: &mut dyn FnMut(&str)) -> Result<Data> {
        let names = match &config.model.from {
            Some(from) => class_names(from).at("model.from")?,
            None => None,
        };
        Self::open_for(config, names.as_deref().map(|names| Checkpoint { names, fixed: false }), cache, note)
    }

    /// Like [`Data::open`], but with the classes of `checkpoint` instead of those of `model.from`.
    ///
    /// # Errors
    /// Those of [`Data::open`].
    pub fn open_for(
        config: &Config,
        checkpoint: Option<Checkpoint<'_>>,
        cache: &Path,
        note: &mut dyn FnMut(&str),
    ) -> Result<Data> {
        config.data.check_text()?;
        match config.model.family {
            Family::Gpt => {
                let data = Corpus::open(&config.data_source()?, cache, note)?;
                check_length(&*data.train, config.model.context)?;
                check_length(&*data.valid, config.model.context)?;
                Ok(Data::Text(Box::new(data)))
            }
            Family::Bert if config.data.task.is_some() => {
                Ok(Data::Labelled(Box::new(Labelled::open(config, checkpoint, note)?)))
            }
            Family::Bert => {
                let data = Corpus::open(&config.data_source()?, cache, note)?.with_special_tokens()?;
                Ok(Data::Text(Box::new(data)))
            }
            Family::Deit => {
                let spec = config.images()?;
                let mut open = |spec, key: &str| prepare(spec, cache, note).at(key);
                let (train, valid) = match &spec.valid {
                    Some(valid) => (open(&spec.train, "data.images.train")?, open(valid, "data.images.valid")?),
                    None => {
                        let every = spec.held_out_every.unwrap_or(10);
                        let all = open(&spec.train, "data.images.train")?;
                        let valid = open(&spec.train, "data.images.train")?;
                        (all.training_split(every)?, valid.every(every)?)
                    }
                };
                if train.channels() != valid.channels() {
                    bail!(
                        "data.images: train has {} channels and valid {}; set channels of both",
                        train.channels(),
                        valid.channels()
                    );
                }
                let (mut classes, text) = ImageClasses::new(spec, &train, checkpoint).at("data.images")?;
                text.iter().for_each(|text| note(text));
                if classes.count < 2 {
                    bail!(
                        "data.images.train: all images have the class {}; give images of two or more classes (in a \
                         table, the label is the last column, or the first one with label = \"first\")",
                        train.names()[0]
                    );
                }
                let text = classes.match_held_out(&train, &valid).at("data.images")?;
                text.iter().for_each(|text| note(text));
                if spec.valid.as_ref().is_some_and(|valid| valid.files == spec.train.files) {
                    note(&format!("data.images.train and data.images.valid are the same; {SEEN}"));
                }
                note(&format!("using {} images to train on, {} held out", train.len(), valid.len()));
                Ok(Data::Images { train: Arc::new(train), valid: Arc::new(valid), classes })
            }
        }
    }

    /// Returns what a model must know about this data.
    pub fn facts(&self) -> DataFacts {
        match self {
            Data::Text(corpus) => {
                let special = corpus.tokenizer.as_ref().and_then(|t| t.special_tokens().ok());
                DataFacts { pad: special.map_or(0, |special| special.pad), ..corpus.vocab_size.into() }
            }
            Data::Images { train, classes, .. } => {
                DataFacts { classes: classes.count, channels: train.channels(), ..DataFacts::from(1) }
            }
            Data::Labelled(labelled) => labelled.facts(),
        }
    }

    /// Returns a name that is unique to this data.
    pub fn name(&self) -> String {
        match self {
            Data::Text(corpus) => corpus.name(),
            Data::Images { train, valid, classes } => {
                let sets = format!("{} {}, {} {}", train.sum(), train.len(), valid.sum(), valid.len());
                {
                    let maps = [&classes.by_label, &classes.held_out].into_iter().flatten();
                    maps.fold(sets, |sets, classes| format!("{sets}, {classes:?}"))
                }
            }
            Data::Labelled(labelled) => labelled.name(),
        }
    }

    /// Returns a hash of the tokens of a text, or `None` for other data. Of a very large text, only a sample is hashed.
    pub fn tokens_sum(&self) -> Option<String> {
        let Data::Text(corpus) = self else { return None };
        let mut print = Fingerprint::default();
        let shards = || [&corpus.train, &corpus.valid].into_iter().flat_map(|split| (**split).as_ref());
        let most = SUMMED / shards().count().max(1);
        shards().for_each(|shard| shard.add_to(&mut print, most));
        Some(print.hex())
    }

    /// Checks that the memory-mapped files have not changed since they were opened. Labelled texts are in memory, so
    /// there is nothing to check.
    ///
    /// # Errors
    /// A file was written to.
    pub fn check_unchanged(&self) -> Result<()> {
        match self {
            Data::Text(corpus) => {
                let mut shards = [&corpus.train, &corpus.valid].into_iter().flat_map(|split| (**split).as_ref());
                shards.try_for_each(Shard::check_unchanged)
            }
            Data::Images { train, valid, .. } => train.check_unchanged().and_then(|()| valid.check_unchanged()),
            Data::Labelled(_) => Ok(()),
        }
    }

    /// Returns the tokenizer, if the data has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        match self {
            Data::Text(corpus) => corpus.tokenizer.as_ref(),
            Data::Images { .. } => None,
            Data::Labelled(labelled) => Some(&labelled.tokenizer),
        }
    }

    /// Returns the names of the classes, if they have any, to be written to checkpoints.
    pub fn class_names(&self) -> Option<&[String]> {
        match self {
            Data::Text(_) => None,
            Data::Images { classes, .. } => classes.names.as_deref(),
            Data::Labelled(labelled) => labelled.train.names(),
        }
    }

    /// Returns the batches of this data for a configuration.
    ///
    /// # Errors
    /// Invalid settings of masking or augmentation, reported by key; data that is too short.
    pub fn source(&self, config: &Config) -> Result<Arc<dyn Source>> {
        let sampler = Sampler { seed: config.seed, rank: 0, world: 1 };
        let context = config.model.context;
        match self {
            Data::Text(corpus) => {
                let (train, valid) = (Arc::clone(&corpus.train), Arc::clone(&corpus.valid));
                if config.model.family == Family::Gpt {
                    return Ok(Arc::new(NextToken { train, valid, sampler, context }));
                }
                let Some(tokenizer) = &corpus.tokenizer else {
                    bail!("data.tokenizer: missing; a masked model needs one")
                };
                let masking = Masking::new(config.masking(), tokenizer, context)?;
                let windows = masking.held_out(&*valid)?;
                let micro = config.train.batch / config.train.accumulate;
                let next = config.masking().next_sentence;
                let [training, held_out] = [masking.clone(), masking].map(Mutex::new);
                Ok(Arc::new(Masked { train, valid, sampler, training, held_out, windows, micro, context, next }))
            }
            Data::Images { train, valid, classes } => {
                let (augment, view) =
                    (config.augment.clone().unwrap_or_default(), config.view.clone().unwrap_or_default());
                let shape = config.patches(train.channels());
                let sampler = ImageSampler::new(config.seed, [0, 1], shape, &augment, &view)?;
                let (train, valid) = (Arc::clone(train), Arc::clone(valid));
                let held_out_classes = classes.held_out.clone().or_else(|| classes.by_label.clone());
                Ok(Arc::new(Patches { train, valid, sampler, classes: classes.by_label.clone(), held_out_classes }))
            }
            Data::Labelled(labelled) => Ok(Arc::new(labelled.source(config))),
        }
    }
}
