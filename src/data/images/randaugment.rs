//! RandAugment (Cubuk et al., arXiv 1909.13719): applies randomly chosen operations out of fourteen, all with one
//! magnitude.

use serde::{Deserialize, Serialize};

use super::augment::check_range;
use super::source::luma;
use crate::data::random::Random;
use crate::error::Result;

/// Configuration of RandAugment.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// Number of operations for each image, 1 to 14, drawn with replacement.
    pub operations: usize,
    /// Strength of the operations, from 0 (only autocontrast and equalize have an effect) to 10.
    pub magnitude: f64,
    /// Standard deviation of the normal noise added to the magnitude of each operation; the sum is clamped to 0 to 10.
    pub deviation: f64,
}

impl Default for RandAugment {
    fn default() -> Self {
        RandAugment { operations: 2, magnitude: 9.0, deviation: 0.0 }
    }
}

impl RandAugment {
    pub(super) fn check(&self, at: &str) -> Result<()> {
        check_range(self.operations, 1..=14, &format!("{at}.operations"))?;
        check_range(self.magnitude, 0.0..=10.0, &format!("{at}.magnitude"))?;
        check_range(self.deviation, 0.0..=10.0, &format!("{at}.deviation"))
    }

    /// Applies `operations` random operations to an image `[channels, size, size]`, in place. `work` is scratch memory.
    pub(super) fn change(&self, pixels: &mut [u8], size: usize, draws: &mut Random, work: &mut Vec<u8>) {
        for _ in 0..self.operations {
            let operation = Operation::ALL[draws.below(Operation::ALL.len())];
            let own = if self.deviation > 0.0 { self.deviation * draws.normal() } else { 0.0 };
            let strength = (self.magnitude + own).clamp(0.0, 10.0) / 10.0;
            let sign = if draws.chance(0.5) { -1.0 } else { 1.0 };
            operation.apply(sign * strength, pixels, size, work);
        }
    }
}

/// An operation of RandAugment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Leaves the image as it is.
    Identity,
    /// Stretches each channel so that its darkest pixel becomes 0 and its brightest 255. Ignores the strength.
    AutoContrast,
    /// Equalizes the histogram of each channel. Ignores the strength.
    Equalize,
    /// Rotates about the centre by up to 30 degrees in either direction.
    Rotate,
    /// Clears up to 4 of the low bits of each value.
    Posterize,
    /// Inverts the values at or above a threshold, which falls from 256 to 0 as the strength rises.
    Solarize,
    /// Scales the saturation by a factor of 0.1 (nearly grey) to 1.9.
    Colour,
    /// Scales the difference from the mean luma by a factor of 0.1 to 1.9.
    Contrast,
    /// Scales all values by a factor of 0.1 to 1.9.
    Brightness,
    /// Scales the difference from the smoothed image by a factor of 0.1 (blurred) to 1.9 (sharpened).
    Sharpness,
    /// Shears horizontally by up to 0.3 pixels per row of distance from the centre.
    ShearX,
    /// Shears vertically by up to 0.3 pixels per column of distance from the centre.
    ShearY,
    /// Shifts horizontally by up to 150/331 of the side length.
    TranslateX,
    /// Shifts vertically by up to 150/331 of the side length.
    TranslateY,
}

/// Largest rotation, in degrees.
const TURN: f64 = 30.0;
/// Largest shear, in pixels per pixel of distance from the centre.
const SHEAR: f64 = 0.3;
/// Largest translation, as a fraction of the side length.
const TRANSLATE: f64 = 150.0 / 331.0;
/// Largest deviation from 1 of the factors for colour, contrast, brightness and sharpness. A factor of 1 changes
/// nothing.
const ENHANCE: f64 = 0.9;

impl Operation {
    /// All operations.
    pub const ALL: [Operation; 14] = {
        use Operation::*;
        [
            Identity,
            AutoContrast,
            Equalize,
            Rotate,
            Posterize,
            Solarize,
            Colour,
            Contrast,
            Brightness,
            Sharpness,
            ShearX,
            ShearY,
            TranslateX,
            TranslateY,
        ]
    };

    /// Applies the operation to an image `[channels, size, size]` with 1 or 3 channels, in place. `strength` is in -1
    /// to 1; the sign matters for operations with two directions. `work` is scratch memory.
    pub fn apply(self, strength: f64, pixels: &mut [u8], size: usize, work: &mut Vec<u8>) {
        let plain = strength.abs();
        let factor = 1.0 + ENHANCE * strength;
        match self {
            Operation::Identity => {}
            Operation::AutoContrast => pixels.chunks_exact_mut(size * size).for_each(autocontrast),
            Operation::Equalize => pixels.chunks_exact_mut(size * size).for_each(equalize),
            Operation::Posterize => posterize(pixels, 8 - (4.0 * plain).round() as u32),
            Operation::Solarize => solarize(pixels, 256 - (256.0 * plain).round() as u32),
            Operation::Colour => colour(pixels, size, factor as f32),
            Operation::Contrast => contrast(pixels, size, factor as f32),
            Operation::Brightness => pixels.iter_mut().for_each(|v| *v = between(0.0, *v, factor as f32)),
            Operation::Sharpness => sharpness(pixels, size, factor as f32, work),
            Operation::Rotate => {
                let (sin, cos) = (TURN * strength).to_radians().sin_cos();
                warp(pixels, size, [cos, sin, 0.0, -sin, cos, 0.0], work);
            }
            Operation::ShearX => warp(pixels, size, [1.0, SHEAR * strength, 0.0, 0.0, 1.0, 0.0], work),
            Operation::ShearY => warp(pixels, size, [1.0, 0.0, 0.0, SHEAR * strength, 1.0, 0.0], work),
            Operation::TranslateX => {
                warp(pixels, size, [1.0, 0.0, TRANSLATE * strength * size as f64, 0.0, 1.0, 0.0], work);
            }
            Operation::TranslateY => {
                warp(pixels, size, [1.0, 0.0, 0.0, 0.0, 1.0, TRANSLATE * strength * size as f64], work);
            }
        }
    }
}

/// Interpolates from `from` (factor 0) to the pixel (factor 1), or extrapolates beyond it, and rounds.
fn between(from: f32, pixel: u8, factor: f32) -> u8 {
    rounded(from + factor * (f32::from(pixel) - from))
}

/// Rounds to the nearest pixel value; the cast saturates. `f32::round` would be a function call when compiled for a
/// generic CPU.
fn rounded(value: f32) -> u8 {
    (value + 0.5) as u8
}

/// Stretches one channel so that its darkest pixel becomes 0 and its brightest 255.
fn autocontrast(plane: &mut [u8]) {
    let (low, high) = plane.iter().fold((u8::MAX, 0), |(low, high), &v| (low.min(v), high.max(v)));
    if low < high {
        let scale = 255.0 / f32::from(high - low);
        plane.iter_mut().for_each(|v| *v = rounded(f32::from(*v - low) * scale));
    }
}

/// Equalizes the histogram of one channel. Like `ImageOps.equalize` of Pillow, it leaves the pixels of the brightest
/// value out when it computes the step.
fn equalize(plane: &mut [u8]) {
    let mut counts = [0usize; 256];
    plane.iter().for_each(|&v| counts[usize::from(v)] += 1);
    let brightest = counts.iter().rev().find(|&&count| count > 0).copied().unwrap_or_default();
    let step = (plane.len() - brightest) / 255;
    if step == 0 {
        return;
    }
    let mut below = step / 2;
    let table = counts.map(|count| {
        let value = (below / step).min(255) as u8;
        below += count;
        value
    });
    plane.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
}

/// Keeps the upper `bits` bits of each value, 1 to 8.
fn posterize(pixels: &mut [u8], bits: u32) {
    let mask = !((1u32 << (8 - bits)) - 1) as u8;
    pixels.iter_mut().for_each(|v| *v &= mask);
}

/// Inverts the values that are at least `threshold`, 0 to 256.
fn solarize(pixels: &mut [u8], threshold: u32) {
    pixels.iter_mut().filter(|v| u32::from(**v) >= threshold).for_each(|v| *v = 255 - *v);
}

/// Blends with the grey version of the image by `factor`. Grey images do not change.
fn colour(pixels: &mut [u8], size: usize, factor: f32) {
    let plane = size * size;
    if pixels.len() < 3 * plane {
        return;
    }
    let (red, rest) = pixels.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        let grey = f32::from(luma(*r, *g, *b));
        [r, g, b].into_iter().for_each(|v| *v = between(grey, *v, factor));
    }
}

/// Blends with a uniform image of the mean luma by `factor`.
fn contrast(pixels: &mut [u8], size: usize, factor: f32) {
    let plane = size * size;
    let brightness = |i: usize| match pixels.len() / plane {
        3 => luma(pixels[i], pixels[plane + i], pixels[2 * plane + i]),
        _ => pixels[i],
    };
    let sum: u64 = (0..plane).map(|i| u64::from(brightness(i))).sum();
    let mean = (sum as f64 / plane as f64).round() as f32;
    pixels.iter_mut().for_each(|v| *v = between(mean, *v, factor));
}

/// Blends with the image smoothed by the kernel (1 1 1, 1 5 1, 1 1 1) / 13 by `factor`. The border pixels do not
/// change.
fn sharpness(pixels: &mut [u8], size: usize, factor: f32, work: &mut Vec<u8>) {
    work.clear();
    work.extend_from_slice(pixels);
    for (out, old) in pixels.chunks_exact_mut(size * size).zip(work.chunks_exact(size * size)) {
        for y in 1..size.saturating_sub(1) {
            for x in 1..size - 1 {
                let at = y * size + x;
                let sum: u32 = [at - size, at, at + size]
                    .into_iter()
                    .flat_map(|middle| &old[middle - 1..=middle + 1])
                    .map(|&v| u32::from(v))
                    .sum();
                let smooth = (sum + 4 * u32::from(old[at])) as f32 / 13.0;
                out[at] = between(f32::from(rounded(smooth)), old[at], factor);
            }
        }
    }
}

/// Applies an affine warp with bilinear interpolation: the pixel at (x, y) comes from (a x + b y + c, d x + e y + f),
/// both relative to the centre. Pixels outside the image are black.
fn warp(pixels: &mut [u8], size: usize, [a, b, c, d, e, f]: [f64; 6], work: &mut Vec<u8>) {
    work.clear();
    work.extend_from_slice(pixels);
    let (plane, centre) = (size * size, (size as f64 - 1.0) / 2.0);
    for y in 0..size {
        for x in 0..size {
            let (dx, dy) = (x as f64 - centre, y as f64 - centre);
            let from = [a * dx + b * dy + c + centre, d * dx + e * dy + f + centre];
            let [[(left, l), (right, r)], [(top, t), (bottom, b)]] = from.map(|from| neighbours(from, size));
            for (out, old) in pixels.chunks_exact_mut(plane).zip(work.chunks_exact(plane)) {
                let line = |row: usize| l * f32::from(old[row * size + left]) + r * f32::from(old[row * size + right]);
                out[y * size + x] = rounded(t * line(top) + b * line(bottom));
            }
        }
    }
}

/// Returns the two pixels next to `place` along one axis with their interpolation weights. A pixel outside of `0..size`
/// has weight 0.
fn neighbours(place: f64, size: usize) -> [(usize, f32); 2] {
    // The floor of `place`, except that a negative integer gives one less; both pixels are outside then.
    let below = place as isize - isize::from(place < 0.0);
    let share = (place - below as f64) as f32;
    [(below, 1.0 - share), (below + 1, share)].map(|(at, share)| {
        let inside = (0..size as isize).contains(&at);
        if inside { (at as usize, share) } else { (0, 0.0) }
    })
}
