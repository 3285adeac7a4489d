//! The levels of a configuration and their stages.

use super::schedule::{DEFAULT_COOLDOWN, Decay, Schedule};
use crate::bail;
use crate::error::{At, Result};
use crate::multilevel::Scheme;
use serde::{Deserialize, Serialize};

/// One level. Sizes and scheme belong to levels 2 and below; so does `alpha`, with which a level returns to the one above.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    pub layers: Option<usize>,
    pub heads: Option<usize>,
    pub width_scheme: Option<Vec<Vec<usize>>>,
    pub depth_scheme: Option<Vec<Vec<usize>>>,
    pub alpha: Option<Alpha>,
    /// Before coalescing; not on the last level.
    pub before: Option<Stage>,
    /// After interpolation; on the last level all of its training.
    pub train: Stage,
}

impl Level {
    pub fn scheme(&self) -> Scheme {
        Scheme { width_scheme: self.width_scheme.clone(), depth_scheme: self.depth_scheme.clone(), head_size: None }
    }

    pub(crate) fn check(&self, number: usize, last: usize) -> Result<()> {
        let first = |stage: &Stage| if number == 0 { stage.check_first() } else { stage.check() };
        match number < last {
            true => self.train.check().at("train")?,
            false => first(&self.train).at("train")?,
        }
        if number == last && self.train.schedule == Course::Continue {
            bail!("train.schedule: the last level has one stage, so there is nothing to continue; use restart");
        }
        match (&self.before, number < last) {
            (Some(stage), true) if stage.schedule == Course::Continue => {
                bail!("before.schedule: it is the level's first stage, so there is nothing to continue; use restart")
            }
            (Some(stage), true) => first(stage).at("before")?,
            (None, true) => bail!("before: missing; every level but the last trains before it is coalesced"),
            (Some(_), false) => bail!("before: the last level is not coalesced; put its steps into train"),
            (None, false) => {}
        }
        let sizes = self.layers.is_some() || self.heads.is_some();
        let schemes = self.width_scheme.is_some() || self.depth_scheme.is_some();
        if number == 0 && (sizes || schemes || self.alpha.is_some()) {
            bail!("level 1 has its sizes in [model]; layers, heads, schemes and alpha belong to the levels below");
        }
        if number > 0 {
            if !sizes && !schemes {
                bail!(
                    "give layers and heads, or width_scheme and depth_scheme, so that the level is smaller than the one above"
                );
            }
            match self.alpha {
                Some(Alpha::Search(_)) => {}
                Some(Alpha::Fixed(alpha)) if (0.0..=1.0).contains(&alpha) => {}
                Some(Alpha::Fixed(alpha)) => {
                    bail!("alpha: {alpha} is outside 0..=1; 0 keeps the larger model, 1 takes the de-coalesced one")
                }
                None => bail!(
                    "alpha: missing; the paper uses 0.5 for BERT and 0.25 for GPT and DeiT, and \"search\" finds it by \
                     held-out loss"
                ),
            }
        }
        Ok(())
    }
}

/// The weight of the lower level on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected a number from 0 to 1, or \"search\"")]
pub enum Alpha {
    Fixed(f64),
    Search(Search),
}

/// The word for a line search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Search {
    Search,
}

/// Steps of training under one schedule.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub steps: u64,
    pub lr: f64,
    #[serde(default)]
    pub warmup: u64,
    #[serde(default = "cosine")]
    pub decay: Decay,
    #[serde(default = "tenth")]
    pub floor: f64,
    #[serde(default = "cooldown")]
    pub cooldown: f64,
    #[serde(default)]
    pub schedule: Course,
    #[serde(default)]
    pub optimizer: OptimizerState,
}

/// Where in its schedule a stage begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Course {
    /// At its first step.
    #[default]
    Restart,
    /// After the steps of the level's stage `before`: one schedule over both stages.
    Continue,
}

/// With which moments of AdamW a stage begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerState {
    /// Zeros.
    #[default]
    Reset,
    /// Those of the level the weights come from, mapped as gradients and their squares are.
    Transfer,
    /// Zeros, which the steps of the warm-up fill at rate zero; then the schedule begins at its full rate.
    Rewarm,
}

fn cosine() -> Decay {
    Decay::Cosine
}

fn tenth() -> f64 {
    0.1
}

fn cooldown() -> f64 {
    DEFAULT_COOLDOWN
}

impl Stage {
    /// The stage's own schedule; `before` steps of the level came earlier.
    fn schedule(&self, before: u64) -> Schedule {
        let Stage { steps, lr, warmup, decay, floor, cooldown, .. } = *self;
        let steps = match self.schedule {
            Course::Restart => steps,
            Course::Continue => steps.saturating_add(before),
        };
        Schedule { base: lr, warmup, steps, decay, floor, cooldown }
    }

    /// The learning rate of `step` of the stage, when the level trained for `before` steps earlier.
    pub fn rate(&self, step: u64, before: u64) -> f64 {
        let at = match self.schedule {
            Course::Restart => step,
            Course::Continue => step.saturating_add(before),
        };
        match self.optimizer {
            OptimizerState::Rewarm if at < self.warmup => 0.0,
            _ => self.schedule(before).rate(at),
        }
    }

    fn check(&self) -> Result<()> {
        self.schedule(0).check()
    }

    /// For a stage that begins with initial weights.
    pub(crate) fn check_first(&self) -> Result<()> {
        self.check()?;
        if self.optimizer == OptimizerState::Transfer {
            bail!(
                "optimizer: there is nothing to transfer from, since the stage begins with initial weights; use reset"
            );
        }
        if self.schedule == Course::Continue {
            bail!("schedule: there is nothing to continue, since the stage begins with initial weights; use restart");
        }
        Ok(())
    }
}
