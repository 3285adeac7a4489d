//! Batches of masked text and of images, as the trainer takes them.

use crate::bail;
use crate::data::images::{ImageBatch, ImageSampler, Images};
use crate::data::loader::batch::{Field, Source};
use crate::data::tokens::Tokens;
use crate::data::tokens::masking::{MaskedBatch, Masking};
use crate::data::tokens::sampler::Sampler;
use crate::data::tokens::windows::Window;
use crate::error::Result;
use std::sync::{Arc, Mutex, PoisonError};

/// Text with holes: ids, token types, mask, scored positions, labels, and what next-sentence prediction has to tell.
pub struct Masked {
    pub train: Arc<Tokens>,
    pub valid: Arc<Tokens>,
    pub sampler: Sampler,
    /// Of the thread that reads ahead.
    pub training: Mutex<Masking>,
    /// Of evaluations.
    pub held_out: Mutex<Masking>,
    pub windows: Vec<Window>,
    /// Sequences of a micro-batch.
    pub micro: usize,
    pub context: usize,
    /// Next-sentence prediction.
    pub next: bool,
}

impl Masked {
    fn slots(&self) -> usize {
        self.held_out.lock().unwrap_or_else(PoisonError::into_inner).slots()
    }

    /// The fields as a batch, and its number of sequences.
    fn batch<'a>(&self, fields: &'a mut [Field]) -> Result<(MaskedBatch<'a>, usize)> {
        match fields {
            [
                Field::Ints(ids),
                Field::Ints(types),
                Field::Ints(mask),
                Field::Ints(positions),
                Field::Ints(labels),
                rest @ ..,
            ] => {
                let rows = ids.len() / self.context;
                let next = match rest {
                    [Field::Ints(next)] => &mut next[..],
                    _ => &mut [],
                };
                Ok((MaskedBatch { ids, types, mask, positions, labels, next }, rows))
            }
            other => bail!("{} fields are given where masked text is filled", other.len()),
        }
    }
}

impl Source for Masked {
    fn room(&self, rows: usize) -> Result<Vec<Field>> {
        let slots = self.slots();
        let each = [self.context, self.context, self.context, slots, slots, 1];
        each.iter().take(5 + usize::from(self.next)).map(|each| Field::ints(rows, *each)).collect()
    }

    fn training_batch(&self, step: u64, fields: &mut [Field]) -> Result<()> {
        let (mut batch, rows) = self.batch(fields)?;
        let mut masking = self.training.lock().unwrap_or_else(PoisonError::into_inner);
        masking.training_batch(&self.sampler, &*self.train, step, (rows, self.micro), &mut batch)
    }

    fn reads(&self) -> String {
        self.train.to_string()
    }

    fn held_out_batch(&self, index: usize, fields: &mut [Field]) -> Result<Option<usize>> {
        let (mut batch, rows) = self.batch(fields)?;
        if index.saturating_mul(rows) >= self.windows.len() {
            return Ok(None);
        }
        let mut masking = self.held_out.lock().unwrap_or_else(PoisonError::into_inner);
        masking.held_out_batch(&*self.valid, &self.windows, index, (rows, self.micro), &mut batch).map(Some)
    }
}

/// Images that a worker makes at a time, even because neighbours are mixed: few, so that they are still in its cache when it
/// copies them into their batch.
const GRAIN: usize = 8;

/// Images: patches, labels, other labels, shares.
pub struct Patches {
    pub train: Arc<Images>,
    pub valid: Arc<Images>,
    pub sampler: ImageSampler,
    /// The class of each label, where that is not the label itself.
    pub classes: Option<Arc<[i32]>>,
    /// The same of the held-out images.
    pub held_out_classes: Option<Arc<[i32]>>,
}

impl Patches {
    /// Puts classes in the place of labels.
    fn renumber(classes: Option<&[i32]>, fields: &mut [Field]) {
        let Some(classes) = classes else { return };
        // The labels, and the others of mixed images; of a row without an image it is below zero.
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

fn images(fields: &mut [Field]) -> Result<ImageBatch<'_>> {
    match fields {
        [Field::Floats(patches), Field::Ints(labels), Field::Ints(others), Field::Floats(share)] => {
            Ok(ImageBatch { patches, labels, others, share })
        }
        other => bail!("{} fields are given where images are filled", other.len()),
    }
}

impl Source for Patches {
    fn room(&self, rows: usize) -> Result<Vec<Field>> {
        let elements = self.sampler.shape().elements();
        Ok(vec![Field::floats(rows, elements)?, Field::ints(rows, 1)?, Field::ints(rows, 1)?, Field::floats(rows, 1)?])
    }

    fn training_batch(&self, step: u64, fields: &mut [Field]) -> Result<()> {
        self.sampler.training_batch(&self.train, step, images(fields)?)?;
        Self::renumber(self.classes.as_deref(), fields);
        Ok(())
    }

    fn grain(&self) -> Option<usize> {
        Some(GRAIN)
    }

    fn training_rows(&self, step: u64, batch: usize, first: usize, fields: &mut [Field]) -> Result<()> {
        self.sampler.training_rows(&self.train, step, batch, first, images(fields)?)?;
        Self::renumber(self.classes.as_deref(), fields);
        Ok(())
    }

    fn reads(&self) -> String {
        self.train.path().display().to_string()
    }

    fn held_out_batch(&self, index: usize, fields: &mut [Field]) -> Result<Option<usize>> {
        let scored = self.sampler.validation_batch(&self.valid, index, images(fields)?)?;
        Self::renumber(self.held_out_classes.as_deref(), fields);
        Ok((scored > 0).then_some(scored))
    }
}
