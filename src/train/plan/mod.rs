//! The plan of a V-cycle: the order in which it trains its levels, and how each stage begins.
//!
//! [`v_cycle`] builds the plan. The private module `transition` carries out what begins a stage: initial weights,
//! coalescing, or interpolation. [`alpha_search`] finds the interpolation weight by a line search.

pub mod alpha_search;
pub(crate) mod transition;

/// How a stage begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// With initial weights, or those of the checkpoint that `model.from` names.
    Initialise,
    /// With weights coalesced from the level above.
    Coalesce,
    /// With the level's own earlier weights, interpolated with the de-coalesced weights of the level below.
    Interpolate,
}

/// A stage of the plan: one visit of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedStage {
    /// The level, counted from 0, which is the target model.
    pub level: usize,
    /// How the stage begins.
    pub enter: Transition,
    /// Whether this is the last visit of the level.
    pub last: bool,
}

/// Returns the stages of a V-cycle: down through all levels and up again. The smallest level is visited once.
///
/// Source: arXiv 2404.07999, Algorithm 1.
pub fn v_cycle(levels: usize) -> Vec<PlannedStage> {
    let down = (0..levels).map(|level| PlannedStage {
        level,
        enter: if level == 0 { Transition::Initialise } else { Transition::Coalesce },
        last: level + 1 == levels,
    });
    let up = (0..levels.saturating_sub(1)).rev().map(|level| PlannedStage {
        level,
        enter: Transition::Interpolate,
        last: true,
    });
    down.chain(up).collect()
}

#[cfg(test)]
mod tests {
    use crate::train::plan::*;

    #[test]
    fn three_levels() {
        let stages: Vec<(usize, Transition, bool)> = v_cycle(3).iter().map(|l| (l.level, l.enter, l.last)).collect();
        assert_eq!(
            stages,
            [
                (0, Transition::Initialise, false),
                (1, Transition::Coalesce, false),
                (2, Transition::Coalesce, true),
                (1, Transition::Interpolate, true),
                (0, Transition::Interpolate, true)
            ]
        );
    }

    #[test]
    fn one_level_is_plain_training() {
        assert_eq!(v_cycle(1), [PlannedStage { level: 0, enter: Transition::Initialise, last: true }]);
    }
}
