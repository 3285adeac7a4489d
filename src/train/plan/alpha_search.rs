//! Finds alpha without tuning, by a line search on the held-out loss along the path of interpolation.
//!
//! The loss along `(1 - alpha) M1 + alpha D(M2)` is smooth but need not be monotone, and the best alpha depends on how
//! long each model was trained. Five grid points bracket the minimum; golden-section search (Kiefer 1953) narrows the
//! bracket.

use crate::error::Result;

/// The grid that is evaluated first.
const GRID: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
/// Number of golden-section steps after the grid. Each shortens the bracket, at most 1/2 wide, by a factor of 0.618;
/// five leave 0.045.
const SECTIONS: usize = 5;
/// The longer part of the golden section of 1: (sqrt(5) - 1) / 2.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// The result of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The alpha with the lowest loss of all that were tried.
    pub alpha: f64,
    /// Every alpha that was tried, with its loss, in the order of evaluation.
    pub tried: Vec<(f64, f64)>,
}

/// Minimises `loss` over 0..=1. A NaN loss counts as infinite.
///
/// # Errors
/// The errors of `loss`.
pub fn search(mut loss: impl FnMut(f64) -> Result<f64>) -> Result<Found> {
    let mut tried = Vec::with_capacity(GRID.len() + SECTIONS + 1);
    let mut at = |alpha: f64| -> Result<f64> {
        let value = loss(alpha)?;
        let value = if value.is_nan() { f64::INFINITY } else { value };
        tried.push((alpha, value));
        Ok(value)
    };
    let mut best = (GRID[0], f64::INFINITY);
    for alpha in GRID {
        let value = at(alpha)?;
        if value < best.1 {
            best = (alpha, value);
        }
    }
    let (mut low, mut high) = ((best.0 - 0.25f64).max(0.0), (best.0 + 0.25f64).min(1.0));
    let inner = |low: f64, high: f64| (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
    let (left, right) = inner(low, high);
    let (mut left, mut right) = ((left, at(left)?), (right, at(right)?));
    for _ in 1..SECTIONS {
        if left.1 <= right.1 {
            (high, right) = (right.0, left);
            let alpha = inner(low, high).0;
            left = (alpha, at(alpha)?);
        } else {
            (low, left) = (left.0, right);
            let alpha = inner(low, high).1;
            right = (alpha, at(alpha)?);
        }
    }
    let alpha = tried.iter().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(1.0, |best| best.0);
    Ok(Found { alpha, tried })
}

#[cfg(test)]
mod tests {
    use crate::train::plan::alpha_search::*;

    #[test]
    fn finds_the_lowest_point_of_any_valley() {
        for valley in [0.0, 0.03, 0.2, 0.37, 0.5, 0.61, 0.88, 0.99, 1.0] {
            let found = search(|alpha| Ok((alpha - valley).powi(2))).expect("no error");
            assert!((found.alpha - valley).abs() <= 0.045, "{valley}: {found:?}");
            assert_eq!(found.tried.len(), GRID.len() + SECTIONS + 1);
        }
    }

    #[test]
    fn a_ridge_between_two_good_ends_is_no_trap() {
        let found = search(|alpha| Ok(1.0 - (2.0 * alpha - 1.0).powi(2) - 0.1 * alpha)).expect("no error");
        assert_eq!(found.alpha, 1.0);
    }

    #[test]
    fn what_is_not_a_number_is_never_chosen() {
        let found = search(|alpha| Ok(if alpha < 0.9 { f64::NAN } else { alpha })).expect("no error");
        assert!(found.alpha >= 0.9 && found.tried.iter().all(|t| !t.1.is_nan()));
    }
}
