//! Which images go into which batch, and as which numbers.
//!
//! A batch is `patches` `[batch, specials + patches, channels * patch * patch]`, `labels`, `others` and `share`, all `[batch]`. The
//! first `specials` rows of an image, where a model puts its class and distillation tokens, are zeros. Then come its patches,
//! row by row over the image; the elements of one are in the order (channel, y, x). The target of an image is `share` of its
//! label and `1 - share` of the other one. Nothing here keeps state: a batch follows from its numbers alone, and a row of it too.
//!
//! Training goes through all images in a new order each epoch. Mixed are neighbours: rows 0 and 1, 2 and 3, and so on; the last
//! row of an odd batch stays as it is. Validation takes the images in their order.

use std::cell::RefCell;

use super::augment::{AugmentConfig, check_range};
use super::mixing::{Mix, MixBy};
use super::shard::{Images, MAX_SIDE};
use super::view::{Crop, Resizer, ViewConfig};
use crate::bail;
use crate::data::random::{IMAGE_STAGES, Random, shuffled};
use crate::data::tokens::sampler::IGNORED;
use crate::error::Result;

/// What a model wants of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchShape {
    /// Pixels of a side of the image.
    pub image: usize,
    /// Pixels of a side of a patch.
    pub patch: usize,
    pub channels: usize,
    /// Rows before the patches: 1 for a class token, 2 with a distillation token.
    pub specials: usize,
}

impl PatchShape {
    /// Rows of an image: special ones and patches.
    pub fn rows(&self) -> usize {
        self.specials + (self.image / self.patch).pow(2)
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.channels * self.patch * self.patch
    }

    /// Elements of an image.
    pub fn elements(&self) -> usize {
        self.rows() * self.width()
    }

    /// Pixels of an image, all channels.
    fn pixels(&self) -> usize {
        self.channels * self.image * self.image
    }
}

/// The buffers of a batch, or of some rows of it.
#[derive(Debug)]
pub struct ImageBatch<'a> {
    /// `[rows, specials + patches, channels * patch * patch]`
    pub patches: &'a mut [f32],
    /// `[rows]`
    pub labels: &'a mut [i32],
    /// `[rows]`
    pub others: &'a mut [i32],
    /// `[rows]`
    pub share: &'a mut [f32],
}

impl<'a> ImageBatch<'a> {
    /// The buffers in parts of `rows` rows, the last one shorter: one for each thread, say. `rows` must be even where rows
    /// are mixed.
    pub fn parts(self, rows: usize) -> impl Iterator<Item = ImageBatch<'a>> {
        let rows = rows.max(1);
        let elements = self.patches.len() / self.labels.len().max(1);
        let patches = self.patches.chunks_mut((rows * elements).max(1));
        let targets = self.labels.chunks_mut(rows).zip(self.others.chunks_mut(rows)).zip(self.share.chunks_mut(rows));
        patches.zip(targets).map(|(patches, ((labels, others), share))| ImageBatch { patches, labels, others, share })
    }
}

/// Draws training images without replacement, and changes them.
#[derive(Clone, Debug)]
pub struct ImageSampler {
    seed: u64,
    rank: usize,
    world: usize,
    shape: PatchShape,
    augment: AugmentConfig,
    centre: f64,
    /// Scale and shift of each channel's pixels.
    factors: Vec<[f32; 2]>,
}

/// What numbers are drawn for; the third word of [`Random::new`].
const ROW: u64 = 1;
const MIXING: u64 = 2;

/// Memory that a thread works in; it grows with the first images and then stays.
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
    /// For process `rank`, from zero, of `world` that train together.
    ///
    /// # Errors
    /// When a number of `shape`, `augment` or `view` makes no sense; names the key.
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
                "an image of {image} pixels is not made of patches of {patch}; use a size that is a multiple of the patch's"
            );
        }
        if !matches!(channels, 1 | 3) {
            bail!("images have 1 or 3 channels, not {channels}");
        }
        augment.check(image, "augment")?;
        let factors = view.factors(channels, "view")?;
        Ok(ImageSampler { seed, rank, world, shape, augment: augment.clone(), centre: view.centre, factors })
    }

    pub fn shape(&self) -> PatchShape {
        self.shape
    }

    /// Which of `count` images row `row` of this process's batch of `batch` rows is at `step`.
    ///
    /// The batches of all processes, step after step, go through each epoch's order. Of `repeats` rows of one image no two
    /// are neighbours, unless it is the batch's only one.
    pub fn index(&self, step: u64, row: usize, batch: usize, count: usize) -> usize {
        let images = (batch / self.augment.repeats).max(1);
        let before = u128::from(step) * self.world as u128 + self.rank as u128;
        let position = before.wrapping_mul(images as u128).wrapping_add((row % images) as u128);
        let count_wide = count.max(1) as u128;
        let (epoch, at) = ((position / count_wide) as u64, (position % count_wide) as usize);
        shuffled(self.seed, epoch, at, count.max(1), IMAGE_STAGES)
    }

    /// Fills the training batch of `step`; as many rows as there are labels. From the second batch on it allocates nothing.
    ///
    /// # Errors
    /// When a buffer has another size than the others, the images are none or have other channels than the model, or a batch is
    /// no multiple of `augment.repeats`.
    pub fn training_batch(&self, images: &Images, step: u64, out: ImageBatch<'_>) -> Result<()> {
        let batch = out.labels.len();
        self.training_rows(images, step, batch, 0, out)
    }

    /// Fills the rows from `first` on of a training batch of `batch` rows: what [`ImageSampler::training_batch`] writes there.
    /// Several threads may do so for parts of one batch.
    ///
    /// # Errors
    /// As [`ImageSampler::training_batch`]; when mixed rows are parted: `first` is odd, or the part's end.
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
            bail!("{}: there is no image in it to train on", images.path().display());
        }
        if !batch.is_multiple_of(repeats) {
            bail!("augment.repeats: {repeats} does not divide a batch of {batch}; change one of them");
        }
        let end = first.saturating_add(rows);
        if end > batch || !first.is_multiple_of(2) || (end < batch && !end.is_multiple_of(2)) {
            bail!("rows {first}..{end} of a batch of {batch} part a pair or leave it; begin and end at even rows");
        }
        SCRATCH.with_borrow_mut(|scratch| {
            for (pair, out) in out.parts(2).enumerate() {
                self.pair(images, step, batch, first + 2 * pair, out, scratch);
            }
        });
        Ok(())
    }

    /// Fills two neighbours, or the last row of an odd batch.
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

    /// How the rows `row` and `row + 1` are mixed.
    fn mix(&self, step: u64, batch: usize, row: usize) -> Mix {
        let of = match self.augment.mixing.by {
            MixBy::Batch => 0,
            MixBy::Pair => row,
        };
        self.augment.mixing.draw(self.shape.image, &mut Random::new(self.seed, [step, self.global(batch, of), MIXING]))
    }

    /// A row's number among those of all processes.
    fn global(&self, batch: usize, row: usize) -> u64 {
        (self.rank as u64).wrapping_mul(batch as u64).wrapping_add(row as u64)
    }

    /// Fills the `index`-th validation batch, as many rows as there are labels, and returns how many hold an image: 0 past the
    /// end. Row `r` has image `index * batch + r`. Rows past the end have label -100 and zeros.
    ///
    /// # Errors
    /// When a buffer has another size than the others, or the images have other channels than the model.
    pub fn validation_batch(&self, images: &Images, index: usize, out: ImageBatch<'_>) -> Result<usize> {
        let first = index.saturating_mul(out.labels.len());
        self.validation_rows(images, first, out)
    }

    /// As [`ImageSampler::validation_batch`], from image `first` on: for threads that share a batch.
    ///
    /// # Errors
    /// As [`ImageSampler::validation_batch`].
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
                "buffers of {} patch elements, {rows} labels, {} others and {} shares are of no batch; size them as {} x {} \
                 for each label, and one",
                out.patches.len(),
                out.others.len(),
                out.share.len(),
                self.shape.rows(),
                self.shape.width()
            );
        }
        if images.channels() != self.shape.channels {
            bail!(
                "{}: images of {} channels, and the model wants {}; prepare them with channels = {}",
                images.path().display(),
                images.channels(),
                self.shape.channels,
                self.shape.channels
            );
        }
        Ok(())
    }

    /// Writes an image, `[channels, image, image]`, as patches. `blend`: another image and the share of this one.
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
