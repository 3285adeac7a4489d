//! Rules: pairs of a coalescing C and a de-coalescing D with C(D(x)) = x, as weights on groups.
//!
//! | | coalesce: weight of a member | de-coalesce: weight in a member |
//! |---|---|---|
//! | produces (`Out`) | 1/n | 1 |
//! | consumes (`In`) | 1 | its share; shares sum to 1 |
//! | embedding, `paper` | 2/n | 1/2 |
//! | norm before a tied head, `exact` | 1 | its share |
//! | layer | 1/n | 1 |
//! | branch output, `split` | 1 | 1/n |
//! | branch output, `identity` | 1 | 1 in the first member, 0 in the others |
//! | norms of post-LN, `identity` | 1, from where they were put | (1, 0), but the inner one in the first member, and the one at the end in the last identity layer after it |

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
    /// What the published implementation does: embeddings x 2 and x 0.5, whatever the size of the groups.
    #[default]
    Paper,
    /// The de-coalesced model computes the same function. Groups of one size only.
    Exact,
}

/// How depth is mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DepthRule {
    /// Every member is a copy (the paper).
    #[default]
    Copy,
    /// Every member adds its part of what the branch added: finer Euler steps of the same equation. Pre-LN models.
    Split,
    /// The first member is the layer, the others add nothing: the same function.
    Identity,
}

/// How the weights of what consumes are divided among copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind", deny_unknown_fields)]
pub enum Shares {
    /// 1/n each: copies get equal gradients for ever.
    #[default]
    Equal,
    /// Positive, different for every parameter and unit, a function of the seed: copies part in training.
    Random { seed: u64 },
}

/// A choice of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    #[serde(default)]
    pub width: WidthRule,
    #[serde(default)]
    pub depth: DepthRule,
    #[serde(default)]
    pub shares: Shares,
}

impl Rules {
    /// # Errors
    /// A scheme, or a model, that a rule does not admit, with the reason.
    pub fn admit(&self, grouping: &Grouping, table: &ParamTable) -> Result<()> {
        if self.depth == DepthRule::Split
            && grouping.depth.is_some()
            && table.params.iter().any(|param| param.kind == Kind::InnerNorm)
        {
            bail!(
                "depth rule split needs norms before the branches: here the norm after each sum would undo the division; use copy \
                 or identity"
            );
        }
        if let (WidthRule::Exact, Some(groups)) = (self.width, &grouping.width)
            && !groups.are_even()
        {
            let sizes: Vec<usize> = (0..groups.len()).map(|g| groups.members(g).len()).collect();
            bail!(
                "width rule exact needs groups of one size, not {sizes:?}: LayerNorm's mean and variance over copies would \
                 become weighted ones; use even groups or the rule paper"
            );
        }
        if let (DepthRule::Identity, Some(groups)) = (self.depth, &grouping.depth)
            && (1..groups.len()).any(|g| groups.members(g)[0] < groups.members(g - 1)[0])
        {
            bail!(
                "depth rule identity needs the first layers of the groups in ascending order, since only these stay active; \
                 reorder the groups or use the rule copy"
            );
        }
        Ok(())
    }

    /// Weight of a big unit in the sum that makes its small unit, along one axis of a parameter.
    pub(super) fn coalesce_width(&self, kind: Kind, side: Fan, group: usize) -> f64 {
        match self.width_kind(kind, side) {
            WidthKind::Produces => 1.0 / group as f64,
            WidthKind::Consumes => 1.0,
            WidthKind::PaperEmbedding => 2.0 / group as f64,
        }
    }

    /// Weight of a small unit in one of its big units; `share` is that unit's.
    pub(super) fn decoalesce_width(&self, kind: Kind, side: Fan, share: f64) -> f64 {
        match self.width_kind(kind, side) {
            WidthKind::Produces => 1.0,
            WidthKind::Consumes => share,
            WidthKind::PaperEmbedding => 0.5,
        }
    }

    /// Whether the members of a group take shares along this axis.
    pub(super) fn has_shares(&self, kind: Kind, side: Fan) -> bool {
        self.width_kind(kind, side) == WidthKind::Consumes
    }

    fn width_kind(&self, kind: Kind, side: Fan) -> WidthKind {
        match (self.width, kind, side) {
            (WidthRule::Paper, Kind::Embedding, Fan::Out) => WidthKind::PaperEmbedding,
            (WidthRule::Exact, Kind::HeadNorm, _) | (_, _, Fan::In) => WidthKind::Consumes,
            _ => WidthKind::Produces,
        }
    }

    /// Weight of a big layer in the sum that makes its small layer.
    pub(super) fn coalesce_depth(&self, kind: Kind, group: usize) -> f64 {
        match (self.depth, kind) {
            (DepthRule::Split | DepthRule::Identity, Kind::BranchOutput) => 1.0,
            _ => 1.0 / group as f64,
        }
    }

    /// Weight of a small layer in big layer `layer` of its group.
    pub(super) fn decoalesce_depth(&self, kind: Kind, groups: &Groups, layer: usize) -> f64 {
        let members = groups.members(groups.group_of(layer));
        match (self.depth, kind) {
            (DepthRule::Split, Kind::BranchOutput) => 1.0 / members.len() as f64,
            (DepthRule::Identity, Kind::BranchOutput) => f64::from(u8::from(members[0] == layer)),
            _ => 1.0,
        }
    }

    /// Whether a parameter is a norm that identity layers do without or hand on.
    pub(super) fn moves_norm(&self, kind: Kind) -> bool {
        self.depth == DepthRule::Identity && matches!(kind, Kind::InnerNorm | Kind::OutputNorm)
    }

    /// Post-LN, `identity`: the big layer that has this norm of the small layer `group`. An inner norm stays in the active
    /// layer. A norm at a layer's end is that of the last of the identity layers that follow, since each normalises once
    /// more what reaches it: all before it do nothing but that.
    pub(super) fn norm_home(kind: Kind, groups: &Groups, group: usize) -> usize {
        let active = groups.members(group)[0];
        let next = if group + 1 < groups.len() { groups.members(group + 1)[0] } else { groups.big() };
        if kind == Kind::InnerNorm { active } else { next - 1 }
    }

    /// Shares of the `n` members of unit `unit` of a parameter: positive, with sum 1.
    pub(super) fn shares(&self, param: u32, unit: u32, n: usize) -> Vec<f64> {
        match self.shares {
            Shares::Equal => vec![1.0 / n as f64; n],
            Shares::Random { seed } => {
                let key = [seed as u32, (seed >> 32) as u32];
                // Between 1/2 and 3/2 before the division: no member dominates, none vanishes.
                let draw =
                    |i: usize| 0.5 + f64::from(philox(key, [unit, param, i as u32, u32::MAX - 1])[0]) / 4_294_967_296.0;
                let parts: Vec<f64> = (0..n).map(draw).collect();
                let total: f64 = parts.iter().sum();
                parts.iter().map(|p| p / total).collect()
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WidthKind {
    Produces,
    Consumes,
    PaperEmbedding,
}
