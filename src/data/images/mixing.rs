//! Two images become two mixed ones: mixup (Zhang et al., arXiv 1710.09412) adds them, cutmix (Yun et al., arXiv 1905.04899)
//! exchanges a rectangle. The target of a mixed image is `share` of its own label and the rest of the other's.

use serde::{Deserialize, Serialize};

use super::augment::check_range;
use crate::data::random::Random;
use crate::error::Result;

/// Left out: no mixing.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixConfig {
    /// Shares of mixup are from Beta(mixup, mixup); 0: none.
    pub mixup: f64,
    /// Shares of cutmix are from Beta(cutmix, cutmix); 0: none.
    pub cutmix: f64,
    /// Of mixing at all.
    pub probability: f64,
    /// Of cutmix where both are given.
    pub switch: f64,
    pub by: MixBy,
}

impl Default for MixConfig {
    fn default() -> Self {
        MixConfig { mixup: 0.0, cutmix: 0.0, probability: 1.0, switch: 0.5, by: MixBy::Batch }
    }
}

/// What has one share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MixBy {
    /// All of a process's batch.
    #[default]
    Batch,
    /// Each pair of images.
    Pair,
}

/// How two images are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mix {
    None,
    /// `share` of the one and the rest of the other.
    Blend {
        share: f32,
    },
    /// The rectangle `left..right` x `top..bottom` changes sides.
    Cut {
        left: usize,
        right: usize,
        top: usize,
        bottom: usize,
    },
}

/// Beyond these a Beta distribution is a coin, or always one half.
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

    /// Draws how images of `size` x `size` are mixed.
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
        // A rectangle of 1 - share of the area around a place anywhere; what of it lies outside is cut off.
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
    /// What a mixed image of `size` x `size` has of its own, 0 to 1.
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

    /// Exchanges the rectangle of a cut between two images `[channels, size, size]`.
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
