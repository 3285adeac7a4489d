//! How training images are changed: the section `augment` of a configuration, crops, shifts and flips.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::mixing::MixConfig;
use super::randaugment::RandAugment;
use super::view::Crop;
use crate::bail;
use crate::data::random::Random;
use crate::error::Result;

/// Changes in the order in which they are made; left out, none is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// A random part of the image, resized, instead of its centre.
    pub resized_crop: Option<ResizedCrop>,
    /// Shifts by up to so many pixels along both axes, of an image that was resized already; black comes in.
    pub padding: usize,
    /// The probability of left and right changing sides.
    pub flip: f64,
    pub randaugment: Option<RandAugment>,
    pub mixing: MixConfig,
    /// So many rows of a batch are of one image, each changed in its own way (Hoffer et al., arXiv 1901.09335).
    pub repeats: usize,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        let mixing = MixConfig::default();
        AugmentConfig { resized_crop: None, padding: 0, flip: 0.0, randaugment: None, mixing, repeats: 1 }
    }
}

/// A part of random area and shape at a random place (Szegedy et al., arXiv 1409.4842).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResizedCrop {
    /// Smallest and largest share of the image's area.
    pub area: [f64; 2],
    /// Smallest and largest width over height; its logarithm is uniform.
    pub ratio: [f64; 2],
}

impl Default for ResizedCrop {
    fn default() -> Self {
        ResizedCrop { area: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

/// Attempts to draw a part that lies within the image.
const ATTEMPTS: usize = 10;

impl ResizedCrop {
    fn check(&self, at: &str) -> Result<()> {
        for (key, [low, high], range) in [("area", self.area, 1e-4..=1.0), ("ratio", self.ratio, 0.01..=100.0)] {
            let at = format!("{at}.{key}");
            check_range(low, range.clone(), &at)?;
            check_range(high, range, &at)?;
            if low > high {
                bail!("{at}: from {low} to {high}; give the smaller number first");
            }
        }
        Ok(())
    }

    /// Draws a part of an image of `height` x `width`. Where ten attempts do not fit it is the largest centre part of an
    /// allowed shape.
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
    /// Checks every number for images of `size` x `size`; `at` is the key of this section.
    ///
    /// # Errors
    /// Names the key of a number that makes no sense, and says which do.
    pub fn check(&self, size: usize, at: &str) -> Result<()> {
        if let Some(crop) = &self.resized_crop {
            crop.check(&format!("{at}.resized_crop"))?;
        }
        if self.padding >= size {
            bail!("{at}.padding: {} would shift an image of {size} pixels out of sight; use a few", self.padding);
        }
        check_range(self.flip, 0.0..=1.0, &format!("{at}.flip"))?;
        if let Some(randaugment) = &self.randaugment {
            randaugment.check(&format!("{at}.randaugment"))?;
        }
        self.mixing.check(&format!("{at}.mixing"))?;
        if self.repeats == 0 {
            bail!("{at}.repeats: 0 leaves no row; 1 repeats nothing");
        }
        Ok(())
    }

    /// Which part of an image of `height` x `width` is seen; without a crop the centre square with this share of a side.
    pub(super) fn crop(&self, size: [usize; 2], centre: f64, draws: &mut Random) -> Crop {
        self.resized_crop.map_or_else(|| Crop::centre(size, centre), |crop| crop.draw(size, draws))
    }

    /// All that happens to one resized image, `[channels, size, size]`; `work` is memory to use.
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

/// Refuses a number outside of `range`, or none at all, under its key.
pub(super) fn check_range<T: PartialOrd + Debug>(number: T, range: RangeInclusive<T>, at: &str) -> Result<()> {
    if !range.contains(&number) {
        bail!("{at}: {number:?} is not in {:?}..={:?}", range.start(), range.end());
    }
    Ok(())
}

/// Swaps left and right of an image `[channels, size, size]`.
pub fn flip(pixels: &mut [u8], size: usize) {
    pixels.chunks_exact_mut(size).for_each(<[u8]>::reverse);
}

/// Moves an image `[channels, size, size]` right and down, by less than its size; black comes in.
pub fn shift(pixels: &mut [u8], size: usize, [right, down]: [isize; 2], work: &mut Vec<u8>) {
    work.clear();
    work.extend_from_slice(pixels);
    pixels.fill(0);
    // Where a moved row begins, where it came from, and how much of it stays.
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
