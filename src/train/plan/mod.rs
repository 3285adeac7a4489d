//! The order in which a V-cycle visits its levels.

pub mod alpha_search;
pub(crate) mod transition;

/// How a leg begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// With initial weights.
    Initialise,
    /// Coalesced from the level above.
    Coalesce,
    /// De-coalesced from the level below and interpolated with what this level was.
    Interpolate,
}

/// One visit of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedStage {
    /// From 0, the target.
    pub level: usize,
    pub enter: Transition,
    /// The last visit of this level.
    pub last: bool,
}

/// Down through all levels and up again; the smallest is visited once. Source: arXiv 2404.07999, Algorithm 1.
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
        let legs: Vec<(usize, Transition, bool)> = v_cycle(3).iter().map(|l| (l.level, l.enter, l.last)).collect();
        assert_eq!(
            legs,
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
