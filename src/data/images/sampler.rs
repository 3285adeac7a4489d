//! Assembles training and validation batches of image patches.
//!
//! A batch consists of `patches` `[batch, specials + patches, channels * patch * patch]` and of `labels`, `others` and
//! `share`, all `[batch]`. The first `specials` rows of an image, where a model puts its class and distillation tokens,
//! are zeros. Its patches follow in row-major order over the image; the elements of a patch are in the order (channel,
//! y, x). The target of an image is `share * label + (1 - share) * other`, with both labels one-hot. Nothing here keeps
//! state: every row of a batch is a function of the seed, the step, the rank and the row number.
//!
//! Training visits all images in a new order each epoch. Mixup and CutMix mix neighbouring rows: 0 and 1, 2 and 3, and
//! so on; the last row of an odd batch is not mixed. Validation visits the images in order.

use std::cell::RefCell;

use super::augment::{AugmentConfig, check_range};
use super::mixing::{Mix, MixScope};
use super::shard::{Images, MAX_SIDE};
use super::view::{Crop, Resizer, ViewConfig};
use crate::bail;
use crate::data::random::{IMAGE_STAGES, Random, shuffled};
use crate::data::tokens::sampler::IGNORED;
use crate::error::Result;

/// The input shape that a model expects for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchShape {
    /// Side length of the image in pixels.
    pub image: usize,
    /// Side length of a patch in pixels.
    pub patch: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// Number of rows before the patches: 1 for a class token, 2 with a distillation token.
    pub specials: usize,
}

impl PatchShape {
    /// Returns the number of rows of an image: special rows and patches.
    pub fn rows(&self) -> usize {
        self.specials + (self.image / self.patch).pow(2)
    }

    /// Returns the number of elements in a row.
    pub fn width(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    /// Returns the number of elements in an image, over all its rows.
    pub fn elements(&self) -> usize {
        self.rows() * self.width()
    }

    /// Returns the number of pixel values in an image, over all channels.
    fn pixels(&self) -> usize {
        self.channels * self.image * self.image
    }
}

/// The output buffers of a batch, or of some of its rows.
#[derive(Debug)]
pub struct ImageBatch<'a> {
    /// `[rows, specials + patches, channels * patch * patch]`
    pub patches: &'a mut [f32],
    /// The class of each image, `[rows]`.
    pub labels: &'a mut [i32],
    /// The class of the image that each is mixed with, `[rows]`; its own class without mixing.
    pub others: &'a mut [i32],
    /// The weight of `labels` in the target, `[rows]`; `others` has the rest.
    pub share: &'a mut [f32],
}

impl<'a> ImageBatch<'a> {
    /// Splits the buffers into parts of `rows` rows, the last one shorter, for example one for each thread. For
    /// training batches `rows` must be even, since [`ImageSampler::training_rows`] does not split pairs.
    pub fn parts(self, rows: usize) -> impl Iterator<Item = ImageBatch<'a>> {
        let rows = rows.max(1);
        let elements = self.patches.len() / self.labels.len().max(1);
        let patches = self.patches.chunks_mut((rows * elements).max(1));
        let targets = self.labels.chunks_mut(rows).zip(self.others.chunks_mut(rows)).zip(self.share.chunks_mut(rows));
        patches.zip(targets).map(|(patches, ((labels, others), share))| ImageBatch { patches, labels, others, share })
    }
}

/// Draws training images without replacement and augments them. Also makes validation batches.
#[derive(Clone, Debug)]
pub struct ImageSampler {
    seed: u64,
    rank: usize,
    world: usize,
    shape: PatchShape,
    augment: AugmentConfig,
    centre: f64,
    /// Scale and shift for the pixels of each channel.
    factors: Vec<[f32; 2]>,
}

/// Purpose of the random numbers of a row: the third number that seeds [`Random::new`].
const ROW: u64 = 1;
/// Purpose of the random numbers that mix a pair of rows.
const MIXING: u64 = 2;

/// Scratch memory of a thread. It grows with the first images and is then reused.
#[derive(Default)]
struct Scratch {
    images: [Vec<u8>; 2],
    work: Vec<u8>,
    resizer: Resizer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl ImageSampler {
    /// Creates the sampler of process `rank`, counted from 0, out of `world` processes that train together.
    ///
    /// # Errors
    /// A value of `shape`, `augment` or `view` is out of range; the message names its key.
    pub fn new(
        seed: u64,
        [rank, world]: [usize; 2],
        shape: PatchShape,
        augment: &AugmentConfig,
        view: &ViewConfig,
    ) -> Result<Self> {
        if rank >= world {
            bail!("rank {rank} is not below the number of processes {world}; count ranks from zero");
        }
        let PatchShape { image, patch, channels, specials } = shape;
        check_range(image, 1..=MAX_SIDE, "image")?;
        check_range(specials, 0..=MAX_SIDE, "specials")?;
        if patch == 0 || !image.is_multiple_of(patch) {
            bail!(
                "an image of {image} pixels cannot be split into patches of {patch}; use an image size that is a \
                 multiple of the patch size"
            );
        }
        if !matches!(channels, 1 | 3) {
            bail!("images have 1 or 3 channels, not {channels}");
        }
        augment.check(image, "augment")?;
        let factors = view.factors(channels, "view")?;
        Ok(ImageSampler { seed, rank, world, shape, augment: augment.clone(), centre: view.centre, factors })
    }

    /// Returns the shape of the images in a batch.
    pub fn shape(&self) -> PatchShape {
        self.shape
    }

    /// Returns which of `count` images is in row `row` of this process's batch of `batch` rows at `step`.
    ///
    /// The batches of all processes, step by step, go through the order of each epoch. The `repeats` rows of an image
    /// are never neighbours, unless the batch has no other image.
    pub fn index(&self, step: u64, row: usize, batch: usize, count: usize) -> usize {
        let images = (batch / self.augment.repeats).max(1);
        let before = u128::from(step) * self.world as u128 + self.rank as u128;
        let position = before.wrapping_mul(images as u128).wrapping_add((row % images) as u128);
        let count_wide = count.max(1) as u128;
        let (epoch, at) = ((position / count_wide) as u64, (position % count_wide) as usize);
        shuffled(self.seed, epoch, at, count.max(1), IMAGE_STAGES)
    }

    /// Fills the training batch of `step`, with one row for each label in `out`. It allocates nothing from the second
    /// batch on.
    ///
    /// # Errors
    /// The sizes of the buffers do not match, there are no images, the images have a different number of channels than
    /// the model, or the batch size is not a multiple of `augment.repeats`.
    pub fn training_batch(&self, images: &Images, step: u64, out: ImageBatch<'_>) -> Result<()> {
        let batch = out.labels.len();
        self.training_rows(images, step, batch, 0, out)
    }

    /// Fills the rows from `first` on of a training batch of `batch` rows, with the same values as
    /// [`ImageSampler::training_batch`]. Several threads may fill parts of one batch.
    ///
    /// # Errors
    /// Fails like [`ImageSampler::training_batch`], and when the part splits a pair of rows: `first` is odd, or the end
    /// of the part is odd and not the end of the batch.
    pub fn training_rows(
        &self,
        images: &Images,
        step: u64,
        batch: usize,
        first: usize,
        out: ImageBatch<'_>,
    ) -> Result<()> {
        self.check(images, &out)?;
        let (rows, repeats) = (out.labels.len(), self.augment.repeats);
        if images.is_empty() {
            bail!("{}: no images to train on", images.path().display());
        }
        if !batch.is_multiple_of(repeats) {
            bail!("augment.repeats: {repeats} does not divide a batch of {batch}; change one of them");
        }
        let end = first.saturating_add(rows);
        if end > batch || !first.is_multiple_of(2) || (end < batch && !end.is_multiple_of(2)) {
            bail!(
                "rows {first}..{end} of a batch of {batch} split a pair or exceed the batch; begin and end at even rows"
            );
        }
        SCRATCH.with_borrow_mut(|scratch| {
            for (pair, out) in out.parts(2).enumerate() {
                self.pair(images, step, batch, first + 2 * pair, out, scratch);
            }
        });
        Ok(())
    }

    /// Fills two neighbouring rows, or the last row of an odd batch.
    fn pair(&self, images: &Images, step: u64, batch: usize, row: usize, out: ImageBatch<'_>, scratch: &mut Scratch) {
        let Scratch { images: [one, other], work, resizer } = scratch;
        let size = self.shape.image;
        work.reserve(self.shape.pixels().saturating_sub(work.len()));
        for ((i, label), pixels) in out.labels.iter_mut().enumerate().zip([&mut *one, &mut *other]) {
            let row = row + i;
            let (sample, number) = images.sample(self.index(step, row, batch, images.len()));
            *label = number;
            let mut draws = Random::new(self.seed, [step, self.global(batch, row), ROW]);
            let crop = self.augment.crop(images.size(), self.centre, &mut draws);
            pixels.resize(self.shape.pixels(), 0);
            resizer.resize(sample, images.size(), crop, size, pixels);
            self.augment.change(pixels, size, &mut draws, work);
        }
        let mix = match out.labels.len() {
            2 => self.mix(step, batch, row),
            _ => Mix::None,
        };
        if out.labels.len() == 2 {
            mix.exchange(one, other, size);
        }
        let share = mix.share(size);
        out.share.fill(share);
        out.others.copy_from_slice(out.labels);
        out.others.reverse();
        if mix == Mix::None {
            out.others.copy_from_slice(out.labels);
        }
        let blend = if matches!(mix, Mix::Blend { .. }) { share } else { 1.0 };
        let sides = [(&*one, &*other), (&*other, &*one)];
        for (out, (own, other)) in out.patches.chunks_exact_mut(self.shape.elements()).zip(sides) {
            self.write(own, (blend < 1.0).then_some((other, blend)), out);
        }
    }

    /// Draws how rows `row` and `row + 1` are mixed.
    fn mix(&self, step: u64, batch: usize, row: usize) -> Mix {
        let of = match self.augment.mixing.by {
            MixScope::Batch => 0,
            MixScope::Pair => row,
        };
        self.augment.mixing.draw(self.shape.image, &mut Random::new(self.seed, [step, self.global(batch, of), MIXING]))
    }

    /// Returns the number of a row among the rows of all processes.
    fn global(&self, batch: usize, row: usize) -> u64 {
        (self.rank as u64).wrapping_mul(batch as u64).wrapping_add(row as u64)
    }

    /// Fills validation batch `index`, with one row for each label in `out`, and returns the number of rows that hold
    /// an image (0 past the end). Row `r` has image `index * batch + r`. Rows past the last image have label -100 and
    /// zero patches.
    ///
    /// # Errors
    /// The sizes of the buffers do not match, or the images have a different number of channels than the model.
    pub fn validation_batch(&self, images: &Images, index: usize, out: ImageBatch<'_>) -> Result<usize> {
        let first = index.saturating_mul(out.labels.len());
        self.validation_rows(images, first, out)
    }

    /// Does the same as [`ImageSampler::validation_batch`] from image `first` on, so that threads can share a batch.
    ///
    /// # Errors
    /// Fails like [`ImageSampler::validation_batch`].
    pub fn validation_rows(&self, images: &Images, first: usize, out: ImageBatch<'_>) -> Result<usize> {
        self.check(images, &out)?;
        let scored = images.len().saturating_sub(first).min(out.labels.len());
        out.patches.fill(0.0);
        out.labels.fill(IGNORED);
        out.share.fill(1.0);
        let crop = Crop::centre(images.size(), self.centre);
        SCRATCH.with_borrow_mut(|Scratch { images: [pixels, _], resizer, .. }| {
            pixels.resize(self.shape.pixels(), 0);
            let rows = out.labels.iter_mut().zip(out.patches.chunks_exact_mut(self.shape.elements()));
            for (row, (label, patches)) in rows.take(scored).enumerate() {
                let (sample, number) = images.sample(first + row);
                *label = number;
                resizer.resize(sample, images.size(), crop, self.shape.image, pixels);
                self.write(pixels, None, patches);
            }
        });
        out.others.copy_from_slice(out.labels);
        Ok(scored)
    }

    fn check(&self, images: &Images, out: &ImageBatch<'_>) -> Result<()> {
        let rows = out.labels.len();
        let needed = rows.checked_mul(self.shape.elements());
        if needed != Some(out.patches.len()) || out.others.len() != rows || out.share.len() != rows {
            bail!(
                "buffer sizes do not match: {} patch elements, {rows} labels, {} others, {} shares; each label needs \
                 {} x {} patch elements, one other and one share",
                out.patches.len(),
                out.others.len(),
                out.share.len(),
                self.shape.rows(),
                self.shape.width()
            );
        }
        if images.channels() != self.shape.channels {
            bail!(
                "{}: the images have {} channels, but the model expects {}; prepare them with channels = {}",
                images.path().display(),
                images.channels(),
                self.shape.channels,
                self.shape.channels
            );
        }
        Ok(())
    }

    /// Writes an image `[channels, image, image]` as patches. `blend` is an image to blend it with and its own share.
    fn write(&self, pixels: &[u8], blend: Option<(&Vec<u8>, f32)>, out: &mut [f32]) {
        let PatchShape { image, patch, specials, .. } = self.shape;
        let (special, patches) = out.split_at_mut(specials * self.shape.width());
        special.fill(0.0);
        let across = image / patch;
        for (number, out) in patches.chunks_exact_mut(self.shape.width()).enumerate() {
            let corner = number / across * patch * image + number % across * patch;
            for (line, out) in out.chunks_exact_mut(patch).enumerate() {
                let (channel, y) = (line / patch, line % patch);
                let start = channel * image * image + corner + y * image;
                let [scale, shift] = self.factors[channel];
                let own = &pixels[start..start + patch];
                match blend {
                    None => out.iter_mut().zip(own).for_each(|(out, &v)| *out = f32::from(v) * scale + shift),
                    Some((other, share)) => {
                        let both = own.iter().zip(&other[start..start + patch]);
                        for (out, (&own, &other)) in out.iter_mut().zip(both) {
                            *out = (share * f32::from(own) + (1.0 - share) * f32::from(other)) * scale + shift;
                        }
                    }
                }
            }
        }
    }
}
