//! The levels of a configuration and the stages they are trained in.

use super::schedule::{DEFAULT_COOLDOWN, Decay, Schedule};
use crate::bail;
use crate::error::{At, Result};
use crate::multilevel::Scheme;
use serde::{Deserialize, Serialize};

/// A level. Sizes, schemes and `alpha` are only set on levels 2 and below.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// Number of layers. `None`: as `depth_scheme` says, or as the level above.
    pub layers: Option<usize>,
    /// Number of heads. `None`: as `width_scheme` says, or as the level above.
    pub heads: Option<usize>,
    /// Groups of heads of the level above. See [`Scheme::width_scheme`].
    pub width_scheme: Option<Vec<Vec<usize>>>,
    /// Groups of layers of the level above. See [`Scheme::depth_scheme`].
    pub depth_scheme: Option<Vec<Vec<usize>>>,
    /// The weight of this level when it is interpolated into the one above.
    pub alpha: Option<Alpha>,
    /// The stage before the level is coalesced. Not on the last level.
    pub before: Option<Stage>,
    /// The stage after interpolation; on the last level, its only stage.
    pub train: Stage,
}

impl Level {
    /// Returns the scheme that maps the level above to this one.
    pub fn scheme(&self) -> Scheme {
        Scheme { width_scheme: self.width_scheme.clone(), depth_scheme: self.depth_scheme.clone(), head_size: None }
    }

    /// Checks level `number` (counted from 0); `last` is the number of the last level.
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
                    "give layers and heads, or width_scheme and depth_scheme, so that the level is smaller than the \
                     one above"
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

/// The weight of the lower level in an interpolation.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected a number from 0 to 1, or \"search\"")]
pub enum Alpha {
    /// This value, from 0 to 1.
    Fixed(f64),
    /// The value with the lowest held-out loss, found by a line search.
    Search(Search),
}

/// The word `search`, as a value of `alpha`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Search {
    /// Search for alpha instead of setting it: [`Alpha::Search`].
    Search,
}

/// A stage: training steps with one learning-rate schedule. See [`Schedule`] for the fields.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Number of steps.
    pub steps: u64,
    /// The highest learning rate.
    pub lr: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// The form of the decay after warm-up.
    #[serde(default = "cosine")]
    pub decay: Decay,
    /// The final learning rate as a fraction of `lr`.
    #[serde(default = "tenth")]
    pub floor: f64,
    /// The fraction of the steps in which `wsd` decays.
    #[serde(default = "cooldown")]
    pub cooldown: f64,
    /// Where in its schedule the stage begins.
    #[serde(default)]
    pub schedule: Course,
    /// The optimizer state that the stage begins with.
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

/// The optimizer state that a stage begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerState {
    /// Zeros.
    #[default]
    Reset,
    /// The moments of the level that the weights come from, mapped like gradients and their squares.
    Transfer,
    /// Zeros. The warm-up steps run at learning rate zero and only fill the moments; then the schedule starts at its
    /// full rate.
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
    /// Returns the schedule of the stage. The level was trained for `before` steps in an earlier stage.
    fn schedule(&self, before: u64) -> Schedule {
        let Stage { steps, lr, warmup, decay, floor, cooldown, .. } = *self;
        let steps = match self.schedule {
            Course::Restart => steps,
            Course::Continue => steps.saturating_add(before),
        };
        Schedule { base: lr, warmup, steps, decay, floor, cooldown }
    }

    /// Returns the learning rate of `step`, counted from 0 in the stage. The level was trained for `before` steps
    /// earlier.
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

    /// Checks the values of the schedule.
    fn check(&self) -> Result<()> {
        self.schedule(0).check()
    }

    /// Checks a stage that begins with initial weights.
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
