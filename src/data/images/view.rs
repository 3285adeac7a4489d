//! Crops and resizes a stored image to the square that a model sees, and defines how pixels are normalised.

use serde::{Deserialize, Serialize};

use super::augment::check_range;
use crate::bail;
use crate::error::Result;

/// Normalisation and centre crop of every image, in training and in validation.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ViewConfig {
    /// Mean to subtract from pixel values in 0 to 1: one number, or one for each channel.
    pub mean: Vec<f64>,
    /// Standard deviation to divide by afterwards: one number, or one for each channel.
    pub std: Vec<f64>,
    /// Side of the centre crop, as a fraction of the image's shorter side. Not used where augmentation crops the image.
    pub centre: f64,
}

impl Default for ViewConfig {
    fn default() -> Self {
        ViewConfig { mean: vec![0.0], std: vec![1.0], centre: 1.0 }
    }
}

impl ViewConfig {
    /// Returns `[scale, shift]` for each of `channels`: a pixel `v`, 0 to 255, becomes `v * scale + shift`. `at` is the
    /// key of this section.
    ///
    /// # Errors
    /// A number is out of range, or there is neither one number nor one per channel; the message names the key.
    pub(super) fn factors(&self, channels: usize, at: &str) -> Result<Vec<[f32; 2]>> {
        check_range(self.centre, 0.01..=1.0, &format!("{at}.centre"))?;
        for (key, numbers) in [("mean", &self.mean), ("std", &self.std)] {
            if numbers.len() != 1 && numbers.len() != channels {
                bail!(
                    "{at}.{key}: {} numbers for {channels} channels; give one number, or one per channel",
                    numbers.len()
                );
            }
            let range = if key == "std" { 1e-3..=1e3 } else { -1e3..=1e3 };
            numbers.iter().try_for_each(|&number| check_range(number, range.clone(), &format!("{at}.{key}")))?;
        }
        let of = |numbers: &[f64], channel: usize| numbers[channel % numbers.len()];
        let factor = |channel| {
            let (mean, std) = (of(&self.mean, channel), of(&self.std, channel));
            [(1.0 / (255.0 * std)) as f32, (-mean / std) as f32]
        };
        Ok((0..channels).map(factor).collect())
    }
}

/// A rectangle of an image, in whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

impl Crop {
    /// Returns the centre square of an image of `height` x `width`. Its side is `share` of the shorter side.
    pub fn centre([height, width]: [usize; 2], share: f64) -> Self {
        let shorter = height.min(width);
        let side = ((shorter as f64 * share).round() as usize).clamp(1, shorter);
        Crop { left: (width - side) / 2, top: (height - side) / 2, width: side, height: side }
    }
}

/// Resizes crops bilinearly with antialiasing. Each output pixel is a weighted mean of input pixels; the weights form a
/// triangle, whose width is twice the ratio of input to output size, and at least two input pixels. Reuses its buffers.
#[derive(Default)]
pub struct Resizer {
    columns: Taps,
    rows: Taps,
    middle: Vec<f32>,
    row: Vec<f32>,
}

/// The filter taps along one axis: for each output pixel, the first input pixel and the weights from there on.
#[derive(Default)]
struct Taps {
    /// Input and output length.
    lengths: [usize; 2],
    width: usize,
    first: Vec<usize>,
    weights: Vec<f32>,
}

/// Reserves capacity for `count` elements in total.
fn reserve<T>(vector: &mut Vec<T>, count: usize) {
    vector.reserve(count.saturating_sub(vector.len()));
}

impl Taps {
    /// Returns half the width of the triangle, in input pixels.
    fn reach(from: usize, to: usize) -> f64 {
        (from as f64 / to as f64).max(1.0)
    }

    /// Returns the largest number of input pixels that a triangle touches.
    fn width(from: usize, to: usize) -> usize {
        ((2.0 * Self::reach(from, to)).ceil() as usize + 2).min(from)
    }

    /// Reserves memory for any crop of up to `from` input pixels.
    fn reserve(&mut self, from: usize, to: usize) {
        reserve(&mut self.first, to);
        reserve(&mut self.weights, to * Self::width(from, to));
    }

    /// Computes the taps for `from` input and `to` output pixels.
    fn fit(&mut self, from: usize, to: usize) {
        if self.lengths == [from, to] {
            return;
        }
        let reach = Self::reach(from, to);
        self.lengths = [from, to];
        self.width = Self::width(from, to);
        self.first.clear();
        self.weights.clear();
        for i in 0..to {
            let centre = (i as f64 + 0.5) * from as f64 / to as f64;
            let first = ((centre - reach - 0.5).max(0.0) as usize).min(from - self.width);
            let weight = |old: usize| (1.0 - (old as f64 + 0.5 - centre).abs() / reach).max(0.0);
            let sum: f64 = (first..first + self.width).map(weight).sum();
            self.first.push(first);
            self.weights.extend((first..first + self.width).map(|old| (weight(old) / sum) as f32));
        }
    }

    fn taps(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.first.iter().copied().zip(self.weights.chunks_exact(self.width))
    }
}

impl Resizer {
    /// Resizes the `crop` of `pixels` `[channels, height, width]` into `out` `[channels, size, size]`. A crop of `size`
    /// x `size` is copied.
    pub fn resize(&mut self, pixels: &[u8], [height, width]: [usize; 2], crop: Crop, size: usize, out: &mut [u8]) {
        // Reserve for the largest crop, so that later crops of such images do not allocate.
        self.columns.reserve(width, size);
        self.rows.reserve(height, size);
        reserve(&mut self.middle, height * size);
        reserve(&mut self.row, size);
        let planes = pixels.chunks_exact(height * width).zip(out.chunks_exact_mut(size * size));
        let line = |y: usize| {
            let start = (crop.top + y) * width + crop.left;
            start..start + crop.width
        };
        if [crop.width, crop.height] == [size; 2] {
            for (plane, out) in planes {
                for (y, out) in out.chunks_exact_mut(size).enumerate() {
                    out.copy_from_slice(&plane[line(y)]);
                }
            }
            return;
        }
        self.columns.fit(crop.width, size);
        self.rows.fit(crop.height, size);
        self.middle.resize(crop.height * size, 0.0);
        self.row.resize(size, 0.0);
        for (plane, out) in planes {
            for (y, middle) in self.middle.chunks_exact_mut(size).enumerate() {
                let line = &plane[line(y)];
                for (sum, (first, weights)) in middle.iter_mut().zip(self.columns.taps()) {
                    let old = &line[first..][..weights.len()];
                    *sum = old.iter().zip(weights).map(|(&pixel, weight)| f32::from(pixel) * weight).sum();
                }
            }
            for (out, (first, weights)) in out.chunks_exact_mut(size).zip(self.rows.taps()) {
                self.row.fill(0.5);
                for (middle, weight) in self.middle[first * size..].chunks_exact(size).zip(weights) {
                    self.row.iter_mut().zip(middle).for_each(|(sum, old)| *sum += weight * old);
                }
                out.iter_mut().zip(&self.row).for_each(|(pixel, &sum)| *pixel = sum as u8);
            }
        }
    }
}
