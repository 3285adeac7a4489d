//! DeiT: trained to classify images.

mod batches;
mod classes;

pub use classes::ImageClasses;

use super::{DataFacts, Dataset, Family, Note};
use crate::bail;
use crate::config::Config;
use crate::data::images::{ImageSampler, Images, PatchShape, prepare};
use crate::data::labelled::classes::Checkpoint;
use crate::data::loader::batch::Source;
use crate::data::prepared::corpus::SEEN;
use crate::error::{At, Result};
use crate::model::deit::{self, DeitConfig, Distillation};
use crate::model::{self, Model};
use batches::Patches;
use std::path::Path;
use std::sync::Arc;

/// The family `deit`.
pub struct Deit;

impl Family for Deit {
    fn name(&self) -> &'static str {
        "deit"
    }

    fn has(&self, model: &model::Family<'_>) -> bool {
        matches!(model, model::Family::Deit(_))
    }

    fn keys(&self) -> &'static [&'static str] {
        &[
            "model.image",
            "model.patch",
            "model.distilled",
            "model.drop_path",
            "augment",
            "view",
            "train.label_smoothing",
        ]
    }

    fn check(&self, config: &Config) -> Result<()> {
        let model = &config.model;
        if model.image.is_none_or(|n| n == 0 || n >= 1 << 15) || model.patch.is_none_or(|n| n == 0) {
            bail!("model: image and patch must be set to side lengths in pixels, each at least 1 and below 32768");
        }
        config.images().map(drop)
    }

    fn open(
        &self,
        config: &Config,
        checkpoint: Option<Checkpoint<'_>>,
        cache: &Path,
        note: Note<'_>,
    ) -> Result<Box<dyn Dataset>> {
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
        if classes.count() < 2 {
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
        Ok(Box::new(ImageData { train: Arc::new(train), valid: Arc::new(valid), classes }))
    }

    fn build(&self, config: &Config, width: usize, facts: DataFacts) -> Result<Box<dyn Model>> {
        let m = &config.model;
        let PatchShape { image, patch, channels, .. } = config.patches(facts.channels.unwrap_or(1));
        Ok(Box::new(deit::Deit::new(DeitConfig {
            image,
            patch,
            channels,
            classes: facts.classes.unwrap_or(1),
            width,
            heads: m.heads,
            layers: m.layers,
            ffn: 4 * width,
            eps: 1e-6,
            init_std: m.init_std,
            distillation: if m.distilled { Distillation::Head } else { Distillation::None },
            dropout: m.dropout,
            drop_path: m.drop_path,
        })?))
    }

    fn from_pretrained(&self, config: &Config, base: &dyn Model, facts: DataFacts) -> Result<Box<dyn Model>> {
        let model::Family::Deit(base) = base.family() else { bail!("the checkpoint is not a DeiT") };
        let m = &config.model;
        let channels = facts.channels.unwrap_or(base.channels);
        let here = (m.image.unwrap_or(0), m.patch.unwrap_or(0), m.distilled, channels);
        let there = (base.image, base.patch, base.distillation != Distillation::None, base.channels);
        if here != there {
            let from = m.from.as_deref().unwrap_or(Path::new(""));
            bail!(
                "model.image, patch, distilled, and channels of the images: {here:?}, but the checkpoint in {} has \
                 {there:?}; make them equal",
                from.display()
            );
        }
        let (dropout, drop_path, init_std) = (m.dropout, m.drop_path, m.init_std);
        let classes = facts.classes.unwrap_or(base.classes);
        Ok(Box::new(deit::Deit::new(DeitConfig { classes, dropout, drop_path, init_std, ..base.clone() })?))
    }
}

/// Labelled images.
pub struct ImageData {
    /// Images to train on.
    pub train: Arc<Images>,
    /// Held-out images.
    pub valid: Arc<Images>,
    /// How labels map to the classes of the model.
    pub classes: ImageClasses,
}

impl Dataset for ImageData {
    fn facts(&self) -> DataFacts {
        let (classes, channels) = (Some(self.classes.count()), Some(self.train.channels()));
        DataFacts { classes, channels, ..DataFacts::default() }
    }

    fn name(&self) -> String {
        let ImageData { train, valid, classes } = self;
        let sets = format!("{} {}, {} {}", train.sum(), train.len(), valid.sum(), valid.len());
        classes.maps().fold(sets, |sets, classes| format!("{sets}, {classes:?}"))
    }

    fn check_unchanged(&self) -> Result<()> {
        self.train.check_unchanged().and_then(|()| self.valid.check_unchanged())
    }

    fn class_names(&self) -> Option<&[String]> {
        self.classes.names()
    }

    fn source(&self, config: &Config) -> Result<Arc<dyn Source>> {
        let (augment, view) = (config.augment.clone().unwrap_or_default(), config.view.clone().unwrap_or_default());
        let shape = config.patches(self.train.channels());
        let sampler = ImageSampler::new(config.seed, [0, 1], shape, &augment, &view)?;
        let (train, valid) = (Arc::clone(&self.train), Arc::clone(&self.valid));
        let [classes, held_out_classes] = self.classes.of_splits();
        Ok(Arc::new(Patches { train, valid, sampler, classes, held_out_classes }))
    }

    fn tokens_per_example(&self, config: &Config) -> usize {
        config.patches(self.train.channels()).rows()
    }

    fn waiting(&self) -> &'static str {
        "is the disk slow, or data.images.workers too low?"
    }
}
