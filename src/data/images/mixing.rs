//! Mixes pairs of images: mixup (Zhang et al., arXiv 1710.09412) blends them, CutMix (Yun et al., arXiv 1905.04899)
//! exchanges a rectangle. The target of a mixed image is `share` of its own label and `1 - share` of the other label.

use serde::{Deserialize, Serialize};

use super::augment::check_range;
use crate::data::random::Random;
use crate::error::Result;

/// Configuration of mixup and CutMix. The default does not mix.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixConfig {
    /// Mixup draws its share from Beta(mixup, mixup); 0 disables mixup.
    pub mixup: f64,
    /// CutMix draws its share from Beta(cutmix, cutmix); 0 disables CutMix.
    pub cutmix: f64,
    /// Probability of mixing at all.
    pub probability: f64,
    /// Probability of CutMix instead of mixup when both are enabled.
    pub switch: f64,
    /// Which rows use the same draw.
    pub by: MixScope,
}

impl Default for MixConfig {
    fn default() -> Self {
        MixConfig { mixup: 0.0, cutmix: 0.0, probability: 1.0, switch: 0.5, by: MixScope::Batch }
    }
}

/// The rows that use the same draw of method, share and rectangle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MixScope {
    /// All rows of a process's batch.
    #[default]
    Batch,
    /// Each pair of images.
    Pair,
}

/// How two images are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mix {
    /// Not at all.
    None,
    /// Mixup: `share` of an image plus `1 - share` of the other.
    Blend {
        /// Weight of the image itself, 0 to 1.
        share: f32,
    },
    /// CutMix: the images exchange the rectangle `left..right` x `top..bottom`.
    Cut {
        /// First column of the rectangle, in pixels.
        left: usize,
        /// Column after the last one of the rectangle.
        right: usize,
        /// First row of the rectangle, in pixels.
        top: usize,
        /// Row after the last one of the rectangle.
        bottom: usize,
    },
}

/// Outside this range, a Beta distribution degenerates to a coin flip or to a constant 1/2.
const ALPHAS: std::ops::RangeInclusive<f64> = 1e-3..=1e3;

impl MixConfig {
    pub(super) fn check(&self, at: &str) -> Result<()> {
        for (key, alpha) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            if alpha != 0.0 {
                check_range(alpha, ALPHAS, &format!("{at}.{key}"))?;
            }
        }
        check_range(self.probability, 0.0..=1.0, &format!("{at}.probability"))?;
        check_range(self.switch, 0.0..=1.0, &format!("{at}.switch"))
    }

    /// Draws how two images of `size` x `size` are mixed.
    pub fn draw(&self, size: usize, draws: &mut Random) -> Mix {
        let cut = match (self.mixup > 0.0, self.cutmix > 0.0) {
            (false, false) => return Mix::None,
            (true, true) => draws.chance(self.switch),
            (_, cut) => cut,
        };
        if !draws.chance(self.probability) {
            return Mix::None;
        }
        if !cut {
            return Mix::Blend { share: draws.beta(self.mixup) as f32 };
        }
        // A rectangle with 1 - share of the area, centred on a random pixel and clipped to the image.
        let side = (1.0 - draws.beta(self.cutmix)).sqrt() * size as f64;
        let half = (side / 2.0).round() as usize;
        let mut span = || {
            let centre = draws.below(size);
            (centre.saturating_sub(half), (centre + half).min(size))
        };
        let ((left, right), (top, bottom)) = (span(), span());
        Mix::Cut { left, right, top, bottom }
    }
}

impl Mix {
    /// Returns the share of its own content that a mixed image of `size` x `size` keeps, 0 to 1.
    pub fn share(&self, size: usize) -> f32 {
        match *self {
            Mix::None => 1.0,
            Mix::Blend { share } => share,
            Mix::Cut { left, right, top, bottom } => {
                let all = size * size;
                (all - (right - left) * (bottom - top)) as f32 / all as f32
            }
        }
    }

    /// Exchanges the rectangle of [`Mix::Cut`] between two images `[channels, size, size]`; does nothing for other
    /// variants.
    pub fn exchange(&self, one: &mut [u8], other: &mut [u8], size: usize) {
        let Mix::Cut { left, right, top, bottom } = *self else { return };
        for (one, other) in one.chunks_exact_mut(size * size).zip(other.chunks_exact_mut(size * size)) {
            for y in top..bottom {
                let row = y * size + left..y * size + right;
                one[row.clone()].swap_with_slice(&mut other[row]);
            }
        }
    }
}
