//! Augmentation of training images: the section `augment` of a configuration, random resized crops, shifts and flips.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::mixing::MixConfig;
use super::randaugment::RandAugment;
use super::view::Crop;
use crate::bail;
use crate::data::random::Random;
use crate::error::Result;

/// Augmentations, in the order in which they are applied. By default none is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// A random part of the image, resized, instead of the centre crop.
    pub resized_crop: Option<ResizedCrop>,
    /// Largest random shift along each axis, in pixels of the resized image. Pixels shifted in are black.
    pub padding: usize,
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// RandAugment.
    pub randaugment: Option<RandAugment>,
    /// Mixup and CutMix.
    pub mixing: MixConfig,
    /// Number of rows of a batch that show the same image, each augmented independently (Hoffer et al., arXiv
    /// 1901.09335).
    pub repeats: usize,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        let mixing = MixConfig::default();
        AugmentConfig { resized_crop: None, padding: 0, flip: 0.0, randaugment: None, mixing, repeats: 1 }
    }
}

/// A crop of random area, aspect ratio and position (Szegedy et al., arXiv 1409.4842).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResizedCrop {
    /// Smallest and largest fraction of the image's area.
    pub area: [f64; 2],
    /// Smallest and largest aspect ratio, width / height; its logarithm is drawn uniformly.
    pub ratio: [f64; 2],
}

impl Default for ResizedCrop {
    fn default() -> Self {
        ResizedCrop { area: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

/// Number of attempts to draw a crop that fits into the image.
const ATTEMPTS: usize = 10;

impl ResizedCrop {
    fn check(&self, at: &str) -> Result<()> {
        for (key, [low, high], range) in [("area", self.area, 1e-4..=1.0), ("ratio", self.ratio, 0.01..=100.0)] {
            let at = format!("{at}.{key}");
            check_range(low, range.clone(), &at)?;
            check_range(high, range, &at)?;
            if low > high {
                bail!("{at}: the range from {low} to {high} is empty; give the smaller number first");
            }
        }
        Ok(())
    }

    /// Draws a crop of an image of `height` x `width`. If none of ten attempts fits, returns the largest centre crop
    /// with an aspect ratio in range.
    pub fn draw(&self, [height, width]: [usize; 2], draws: &mut Random) -> Crop {
        for _ in 0..ATTEMPTS {
            let area = (height * width) as f64 * draws.between(self.area[0], self.area[1]);
            let ratio = draws.between(self.ratio[0].ln(), self.ratio[1].ln()).exp();
            let [w, h] = [area * ratio, area / ratio].map(|square| square.sqrt().round() as usize);
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                return Crop {
                    left: draws.below(width - w + 1),
                    top: draws.below(height - h + 1),
                    width: w,
                    height: h,
                };
            }
        }
        let ratio = (width as f64 / height as f64).clamp(self.ratio[0], self.ratio[1]);
        let w = ((height as f64 * ratio).round() as usize).clamp(1, width);
        let h = ((width as f64 / ratio).round() as usize).clamp(1, height);
        Crop { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
    }
}

impl AugmentConfig {
    /// Checks every value for images of `size` x `size`; `at` is the key of this section.
    ///
    /// # Errors
    /// A value is out of range; the message names its key and the valid range.
    pub fn check(&self, size: usize, at: &str) -> Result<()> {
        if let Some(crop) = &self.resized_crop {
            crop.check(&format!("{at}.resized_crop"))?;
        }
        if self.padding >= size {
            bail!("{at}.padding: {} must be below the image size of {size} pixels", self.padding);
        }
        check_range(self.flip, 0.0..=1.0, &format!("{at}.flip"))?;
        if let Some(randaugment) = &self.randaugment {
            randaugment.check(&format!("{at}.randaugment"))?;
        }
        self.mixing.check(&format!("{at}.mixing"))?;
        if self.repeats == 0 {
            bail!("{at}.repeats: 0 is not valid; use 1 for no repetition");
        }
        Ok(())
    }

    /// Returns the crop for an image of `size` `[height, width]`: a random one, or without `resized_crop` the centre
    /// square whose side is the fraction `centre` of the shorter side.
    pub(super) fn crop(&self, size: [usize; 2], centre: f64, draws: &mut Random) -> Crop {
        self.resized_crop.map_or_else(|| Crop::centre(size, centre), |crop| crop.draw(size, draws))
    }

    /// Shifts, flips and applies RandAugment to a resized image `[channels, size, size]`, in place. `work` is scratch
    /// memory.
    pub(super) fn change(&self, pixels: &mut [u8], size: usize, draws: &mut Random, work: &mut Vec<u8>) {
        if self.padding > 0 {
            let offset = |draws: &mut Random| draws.below(2 * self.padding + 1) as isize - self.padding as isize;
            let offsets = [offset(draws), offset(draws)];
            shift(pixels, size, offsets, work);
        }
        if draws.chance(self.flip) {
            flip(pixels, size);
        }
        if let Some(randaugment) = &self.randaugment {
            randaugment.change(pixels, size, draws, work);
        }
    }
}

/// Fails if `number` is not in `range`, as NaN never is. The message begins with the key `at`.
pub(super) fn check_range<T: PartialOrd + Debug>(number: T, range: RangeInclusive<T>, at: &str) -> Result<()> {
    if !range.contains(&number) {
        bail!("{at}: {number:?} is not in {:?}..={:?}", range.start(), range.end());
    }
    Ok(())
}

/// Flips an image `[channels, size, size]` horizontally.
pub fn flip(pixels: &mut [u8], size: usize) {
    pixels.chunks_exact_mut(size).for_each(<[u8]>::reverse);
}

/// Shifts an image `[channels, size, size]` by `[right, down]` pixels, each less than `size`. Pixels shifted in are
/// black.
pub fn shift(pixels: &mut [u8], size: usize, [right, down]: [isize; 2], work: &mut Vec<u8>) {
    work.clear();
    work.extend_from_slice(pixels);
    pixels.fill(0);
    // Start of a shifted row in the output and in the input, and the number of pixels that remain.
    let (to, from, kept) = (right.max(0) as usize, (-right).max(0) as usize, size.saturating_sub(right.unsigned_abs()));
    for (out, old) in pixels.chunks_exact_mut(size * size).zip(work.chunks_exact(size * size)) {
        for (y, out) in out.chunks_exact_mut(size).enumerate() {
            let source = y as isize - down;
            if (0..size as isize).contains(&source) {
                let old = &old[source as usize * size..][..size];
                out[to..to + kept].copy_from_slice(&old[from..from + kept]);
            }
        }
    }
}
