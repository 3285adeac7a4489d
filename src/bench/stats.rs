//! Statistics of repeated measurements.

/// Median, minimum and spread of measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The minimum.
    pub best: f64,
    /// The interquartile range divided by the median.
    pub spread: f64,
    /// Number of measurements.
    pub runs: usize,
}

impl Summary {
    /// Summarizes measurements; `None` if there are none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let best = *sorted.first()?;
        let median = quantile(&sorted, 0.5);
        let between = quantile(&sorted, 0.75) - quantile(&sorted, 0.25);
        let spread = if median > 0.0 { between / median } else { 0.0 };
        Some(Summary { median, best, spread, runs: sorted.len() })
    }
}

/// Returns the quantile `part` of sorted numbers, linearly interpolated between the two nearest.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = part * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn median_best_and_spread() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[3.0]), Some(Summary { median: 3.0, best: 3.0, spread: 0.0, runs: 1 }));
        // Quartiles 2 and 4 around 3, in any order; an outlier changes neither.
        let odd = Summary { median: 3.0, best: 1.0, spread: 2.0 / 3.0, runs: 5 };
        assert_eq!(Summary::of(&[5.0, 1.0, 4.0, 2.0, 3.0]), Some(odd));
        assert_eq!(Summary::of(&[500.0, 1.0, 4.0, 2.0, 3.0]), Some(odd));
        // Between two: median 2.5, quartiles 1.75 and 3.25.
        assert_eq!(Summary::of(&[4.0, 2.0, 1.0, 3.0]), Some(Summary { median: 2.5, best: 1.0, spread: 0.6, runs: 4 }));
    }
}
