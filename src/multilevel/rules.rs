//! Rules: pairs of a coalescing operator C and a de-coalescing operator D with C(D(x)) = x, given by the weights of
//! group members.
//!
//! The table has the weights for a group of n members.
//!
//! | axis, parameter or layer | C: weight of each member | D: weight in each member |
//! |---|---|---|
//! | fan-out axis (`Out`) | 1/n | 1 |
//! | fan-in axis (`In`) | 1 | the member's share; shares sum to 1 |
//! | embedding, `paper` | 2/n | 1/2 |
//! | norm before a tied head, `exact` | 1 | the member's share |
//! | layer | 1/n | 1 |
//! | branch output, `split` | 1 | 1/n |
//! | branch output, `identity` | 1 | 1 in the first member, 0 in the others |
//! | post-LN norms, `identity` | 1, from the layer that D moved the norm to | weight 1 and bias 0, except the inner norm in the first member, and the output norm in the last identity layer that follows |

use super::scheme::{Grouping, Groups};
use crate::bail;
use crate::device::ops::philox::philox;
use crate::error::Result;
use crate::model::params::{Fan, Kind, ParamTable};
use serde::{Deserialize, Serialize};

/// How width is mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WidthRule {
    /// As in the published implementation: embeddings are scaled by 2 and 0.5, whatever the size of the groups.
    #[default]
    Paper,
    /// The de-coalesced model computes the same function. All groups must have the same size.
    Exact,
}

/// How depth is mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DepthRule {
    /// Every member is a copy, as in the paper.
    #[default]
    Copy,
    /// Every member adds 1/n of what the branch added: n finer Euler steps of the same equation. Pre-LN models only.
    Split,
    /// The first member is the layer and the others add nothing: the same function.
    Identity,
}

/// How fan-in weights are divided among the copies of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum Shares {
    /// 1/n each. Copies then get equal gradients and stay equal for ever.
    #[default]
    Equal,
    /// Positive and different for every parameter and unit, as a function of the seed, so that training makes the
    /// copies differ.
    Random {
        /// Seed of the shares.
        seed: u64,
    },
}

/// A choice of rules for the operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// How width is mapped.
    #[serde(default)]
    pub width: WidthRule,
    /// How depth is mapped.
    #[serde(default)]
    pub depth: DepthRule,
    /// How fan-in weights are divided among copies.
    #[serde(default)]
    pub shares: Shares,
}

impl Rules {
    /// Checks that the rules support a grouping of the units of the larger model, whose parameters are in `table`.
    ///
    /// # Errors
    /// A rule does not support them. The message has the reason.
    pub fn admit(&self, grouping: &Grouping, table: &ParamTable) -> Result<()> {
        if self.depth == DepthRule::Split
            && grouping.depth.is_some()
            && table.params.iter().any(|param| param.kind == Kind::InnerNorm)
        {
            bail!(
                "depth rule split needs a pre-LN model: in a post-LN model the norm after each sum undoes the \
                 division; use copy or identity"
            );
        }
        if let (WidthRule::Exact, Some(groups)) = (self.width, &grouping.width)
            && !groups.are_even()
        {
            let sizes: Vec<usize> = (0..groups.len()).map(|g| groups.members(g).len()).collect();
            bail!(
                "width rule exact needs groups of equal size, not {sizes:?}: LayerNorm's mean and variance over \
                 the copies would be weighted; use groups of equal size or the rule paper"
            );
        }
        if let (DepthRule::Identity, Some(groups)) = (self.depth, &grouping.depth)
            && (1..groups.len()).any(|g| groups.members(g)[0] < groups.members(g - 1)[0])
        {
            bail!(
                "depth rule identity needs the first layers of the groups in ascending order, since only these stay \
                 active; reorder the groups or use the rule copy"
            );
        }
        Ok(())
    }

    /// Returns the weight of a big unit in its small unit, along one axis of a parameter. `group` is the size of the
    /// group.
    pub(super) fn coalesce_width(&self, kind: Kind, fan: Fan, group: usize) -> f64 {
        match self.width_kind(kind, fan) {
            WidthKind::FanOut => 1.0 / group as f64,
            WidthKind::FanIn => 1.0,
            WidthKind::PaperEmbedding => 2.0 / group as f64,
        }
    }

    /// Returns the weight of a small unit in one of its big units, whose share is `share`.
    pub(super) fn decoalesce_width(&self, kind: Kind, fan: Fan, share: f64) -> f64 {
        match self.width_kind(kind, fan) {
            WidthKind::FanOut => 1.0,
            WidthKind::FanIn => share,
            WidthKind::PaperEmbedding => 0.5,
        }
    }

    /// Whether the weights are divided into shares along this axis.
    pub(super) fn has_shares(&self, kind: Kind, fan: Fan) -> bool {
        self.width_kind(kind, fan) == WidthKind::FanIn
    }

    /// Returns how an axis of a parameter is mapped.
    fn width_kind(&self, kind: Kind, fan: Fan) -> WidthKind {
        match (self.width, kind, fan) {
            (WidthRule::Paper, Kind::Embedding, Fan::Out) => WidthKind::PaperEmbedding,
            (WidthRule::Exact, Kind::HeadNorm, _) | (_, _, Fan::In) => WidthKind::FanIn,
            _ => WidthKind::FanOut,
        }
    }

    /// Returns the weight of a big layer in its small layer. `group` is the size of the group.
    pub(super) fn coalesce_depth(&self, kind: Kind, group: usize) -> f64 {
        match (self.depth, kind) {
            (DepthRule::Split | DepthRule::Identity, Kind::BranchOutput) => 1.0,
            _ => 1.0 / group as f64,
        }
    }

    /// Returns the weight of a small layer in `layer`, one of its big layers.
    pub(super) fn decoalesce_depth(&self, kind: Kind, groups: &Groups, layer: usize) -> f64 {
        let members = groups.members(groups.group_of(layer));
        match (self.depth, kind) {
            (DepthRule::Split, Kind::BranchOutput) => 1.0 / members.len() as f64,
            (DepthRule::Identity, Kind::BranchOutput) => f64::from(u8::from(members[0] == layer)),
            _ => 1.0,
        }
    }

    /// Whether a parameter is a post-LN norm that the rule `identity` moves to another layer.
    pub(super) fn moves_norm(&self, kind: Kind) -> bool {
        self.depth == DepthRule::Identity && matches!(kind, Kind::InnerNorm | Kind::OutputNorm)
    }

    /// Returns the big layer that receives this norm of the small layer `group`, for post-LN models and the rule
    /// `identity`. The inner norm stays in the active layer. The output norm moves to the last identity layer that
    /// follows: each of these layers normalises its input once more, so the norms before the last one must only
    /// normalise (weight 1, bias 0).
    pub(super) fn norm_home(kind: Kind, groups: &Groups, group: usize) -> usize {
        let active = groups.members(group)[0];
        let next = if group + 1 < groups.len() { groups.members(group + 1)[0] } else { groups.big() };
        if kind == Kind::InnerNorm { active } else { next - 1 }
    }

    /// Returns the shares of the `n` members of unit `unit` of parameter `param`. They are positive and sum to 1.
    pub(super) fn shares(&self, param: u32, unit: u32, n: usize) -> Vec<f64> {
        match self.shares {
            Shares::Equal => vec![1.0 / n as f64; n],
            Shares::Random { seed } => {
                let key = [seed as u32, (seed >> 32) as u32];
                // Between 1/2 and 3/2 before normalisation, so that no member dominates or vanishes.
                let draw =
                    |i: usize| 0.5 + f64::from(philox(key, [unit, param, i as u32, u32::MAX - 1])[0]) / 4_294_967_296.0;
                let parts: Vec<f64> = (0..n).map(draw).collect();
                let total: f64 = parts.iter().sum();
                parts.iter().map(|p| p / total).collect()
            }
        }
    }
}

/// How an axis is mapped: the rows of the table above.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WidthKind {
    /// C averages, D copies.
    FanOut,
    /// C sums, D divides into shares.
    FanIn,
    /// C sums with weights 2/n, D multiplies by 1/2.
    PaperEmbedding,
}
