//! What the V-cycle saves: the FLOPs and seconds until it reaches the best held-out loss of the baseline, the `scratch`
//! run.

use serde::Serialize;
use std::fmt;

/// One evaluation of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// FLOPs so far, of all levels, the optimizer and the multi-level operators.
    pub flops: u64,
    /// Seconds of training so far, without evaluation.
    pub seconds: f64,
    /// Mean held-out loss.
    pub loss: f64,
}

/// The evaluations that decide what the V-cycle saves. Only evaluations at level 1 count.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Savings {
    /// The best evaluation of the baseline.
    pub scratch: Point,
    /// The best evaluation of the V-cycle.
    pub vcycle_best: Point,
    /// The first evaluation of the V-cycle that is no worse than the best one of the baseline.
    pub vcycle_reached: Option<Point>,
}

/// Returns the index of the lowest loss; the first one of equal losses.
pub fn best(points: &[Point]) -> Option<usize> {
    (0..points.len()).min_by(|&a, &b| points[a].loss.total_cmp(&points[b].loss))
}

/// Returns the index of the first point whose loss is at most `loss`.
pub fn reached(points: &[Point], loss: f64) -> Option<usize> {
    points.iter().position(|p| p.loss <= loss)
}

/// Returns the fractions of FLOPs and of seconds that `used` saves compared with `full`; negative if it took more.
pub fn saved(used: &Point, full: &Point) -> (f64, f64) {
    let fraction = |used: f64, full: f64| 1.0 - used / full.max(f64::MIN_POSITIVE);
    (fraction(used.flops as f64, full.flops as f64), fraction(used.seconds, full.seconds))
}

impl Savings {
    /// Compares the evaluations of the V-cycle with those of the baseline. Returns `None` if one of them was never
    /// evaluated, or the baseline never improved on its initial weights.
    pub fn of(vcycle: &[Point], scratch: &[Point]) -> Option<Self> {
        let scratch = scratch[best(scratch)?];
        if scratch.flops == 0 {
            return None;
        }
        let vcycle_reached = reached(vcycle, scratch.loss).map(|at| vcycle[at]);
        Some(Savings { scratch, vcycle_best: vcycle[best(vcycle)?], vcycle_reached })
    }

    /// Returns the fractions of FLOPs and seconds saved; negative if the V-cycle took more. `None` if it never reaches
    /// the baseline's best loss.
    pub fn fractions(&self) -> Option<(f64, f64)> {
        self.vcycle_reached.map(|reached| saved(&reached, &self.scratch))
    }

    /// Returns the result in a line.
    pub fn sentence(&self) -> String {
        match self.fractions() {
            Some((flops, seconds)) => format!(
                "saved: {:.1} % of the FLOPs and {:.1} % of the seconds to reach the baseline's best loss",
                100.0 * flops,
                100.0 * seconds
            ),
            None => format!(
                "saved: nothing; the V-cycle's best loss is {:.4} above the baseline's best loss",
                self.vcycle_best.loss - self.scratch.loss
            ),
        }
    }
}

impl fmt::Display for Savings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, p: &Point| {
            writeln!(f, "  {name:<44} {:>9.4}  {:>10.3e}  {:>8.1}", p.loss, p.flops as f64, p.seconds)
        };
        writeln!(f, "  {:<44} {:>9}  {:>10}  {:>8}", "", "held-out", "FLOPs", "seconds")?;
        row(f, "baseline (scratch) at its best", &self.scratch)?;
        if let Some(reached) = &self.vcycle_reached {
            row(f, "V-cycle on reaching the baseline's best loss", reached)?;
        }
        row(f, "V-cycle at its best", &self.vcycle_best)?;
        f.write_str(&self.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a curve of FLOPs, seconds (not proportional to the FLOPs) and losses.
    fn curve(points: &[(u64, f64, f64)]) -> Vec<Point> {
        points.iter().map(|&(flops, seconds, loss)| Point { flops, seconds, loss }).collect()
    }

    #[test]
    fn the_first_point_as_good_counts() {
        let scratch = curve(&[(100, 30.0, 4.0), (200, 32.0, 3.0), (300, 80.0, 3.1)]);
        let vcycle = curve(&[(50, 20.0, 3.5), (150, 40.0, 3.0), (180, 44.0, 2.9), (190, 45.0, 2.95)]);
        let savings = Savings::of(&vcycle, &scratch).expect("both have points");
        assert_eq!(savings.scratch, scratch[1]);
        assert_eq!((savings.vcycle_reached, savings.vcycle_best), (Some(vcycle[1]), vcycle[2]));
        // 150 of 200 FLOPs, 40 s instead of 32 s.
        assert_eq!(savings.fractions(), Some((0.25, -0.25)));
    }

    #[test]
    fn nothing_is_saved_against_a_run_that_learnt_nothing() {
        let scratch = curve(&[(0, 0.0, 5.0), (100, 7.0, 5.5)]);
        assert_eq!(Savings::of(&curve(&[(0, 0.0, 5.0), (50, 3.0, 4.0)]), &scratch), None);
    }

    #[test]
    fn a_run_that_never_gets_there_saves_nothing_and_says_so() {
        let savings = Savings::of(&curve(&[(50, 9.0, 3.5)]), &curve(&[(100, 2.0, 3.0)])).expect("both have points");
        assert_eq!(savings.fractions(), None);
        assert!(savings.to_string().contains("0.5000 above"));
    }
}
