//! The V-cycle of Zou, Han and Deng (ICLR 2024, arXiv 2404.07999): coalesce, train small, de-coalesce, interpolate. A layer of
//! the smaller model becomes neighbouring layers of the larger one.

use super::{Method, Transition, Visit};

/// The method `vcycle`.
#[derive(Debug)]
pub struct VCycle;

impl Method for VCycle {
    fn name(&self) -> &'static str {
        "vcycle"
    }
}

/// Returns the stages of a V-cycle: down through all levels and up again. The smallest level is visited once.
///
/// Source: arXiv 2404.07999, Algorithm 1.
pub(super) fn plan(levels: usize) -> Vec<Visit> {
    let down = (0..levels).map(|level| Visit {
        level,
        transition: if level == 0 { Transition::Initialise } else { Transition::Coalesce },
        last: level + 1 == levels,
    });
    let up = (0..levels.saturating_sub(1)).rev().map(|level| Visit {
        level,
        transition: Transition::Interpolate,
        last: true,
    });
    down.chain(up).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multilevel::methods::Transition;

    #[test]
    fn three_levels() {
        let stages: Vec<(usize, Transition, bool)> = plan(3).iter().map(|l| (l.level, l.transition, l.last)).collect();
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
        assert_eq!(plan(1), [Visit { level: 0, transition: Transition::Initialise, last: true }]);
    }
}
