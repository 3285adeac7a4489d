//! Batches of images.

use crate::bail;
use crate::data::images::{ImageBatch, ImageSampler, Images};
use crate::data::loader::batch::{Field, Source};
use crate::error::Result;
use std::sync::Arc;

/// Number of images that a worker prepares at a time. It is even, because neighbouring images are mixed, and small, so
/// that the images are still in the CPU cache when the worker copies them into the batch.
const CHUNK: usize = 8;

/// Batches of images. The fields are patches, labels, the labels of the images mixed in, and the shares of the first
/// labels.
pub struct Patches {
    /// Images to train on.
    pub train: Arc<Images>,
    /// Held-out images.
    pub valid: Arc<Images>,
    /// Draws, augments and cuts images into patches.
    pub sampler: ImageSampler,
    /// The class of each label of the training images. `None`: the label is the class.
    pub classes: Option<Arc<[i32]>>,
    /// The class of each label of the held-out images. `None`: the label is the class.
    pub held_out_classes: Option<Arc<[i32]>>,
}

impl Patches {
    /// Replaces labels by classes.
    fn renumber(classes: Option<&[i32]>, fields: &mut [Field]) {
        let Some(classes) = classes else { return };
        // There are two fields of labels: the images' own, and those of the images mixed in. The label of an empty row
        // is negative.
        for field in fields {
            let Field::Ints(labels) = field else { continue };
            for label in labels {
                if let Some(&class) = usize::try_from(*label).ok().and_then(|label| classes.get(label)) {
                    *label = class;
                }
            }
        }
    }
}

/// Returns the fields as a batch of images.
fn images(fields: &mut [Field]) -> Result<ImageBatch<'_>> {
    match fields {
        [Field::Floats(patches), Field::Ints(labels), Field::Ints(others), Field::Floats(share)] => {
            Ok(ImageBatch { patches, labels, others, share })
        }
        other => bail!("expected the 4 fields of a batch of images, got {} fields", other.len()),
    }
}

impl Source for Patches {
    fn allocate(&self, rows: usize) -> Result<Vec<Field>> {
        let elements = self.sampler.shape().elements();
        Ok(vec![Field::floats(rows, elements)?, Field::ints(rows, 1)?, Field::ints(rows, 1)?, Field::floats(rows, 1)?])
    }

    fn training_batch(&self, step: u64, fields: &mut [Field]) -> Result<()> {
        self.sampler.training_batch(&self.train, step, images(fields)?)?;
        Self::renumber(self.classes.as_deref(), fields);
        Ok(())
    }

    fn chunk_rows(&self) -> Option<usize> {
        Some(CHUNK)
    }

    fn training_rows(&self, step: u64, batch: usize, first: usize, fields: &mut [Field]) -> Result<()> {
        self.sampler.training_rows(&self.train, step, batch, first, images(fields)?)?;
        Self::renumber(self.classes.as_deref(), fields);
        Ok(())
    }

    fn describe(&self) -> String {
        self.train.path().display().to_string()
    }

    fn held_out_batch(&self, index: usize, fields: &mut [Field]) -> Result<Option<usize>> {
        let scored = self.sampler.validation_batch(&self.valid, index, images(fields)?)?;
        Self::renumber(self.held_out_classes.as_deref(), fields);
        Ok((scored > 0).then_some(scored))
    }
}
