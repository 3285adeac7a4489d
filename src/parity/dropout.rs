use super::harness::{ALIGNED, EPS, Gap, Harness};
use super::{Size, Stem};
use crate::device::ops::{Dropout, Mask, Op, Operation, StepState};

pub const STEMS: &[Stem] = &[Stem { name: Dropout::NAME, cases, sample }];

fn mask(harness: &mut Harness, p: f32, site: u32, step: u32) -> Mask {
    Mask { p, site, state: harness.state(&StepState { step, ..StepState::with_seed(0x1234_5678_9abc_def0) }) }
}

fn cases(harness: &mut Harness) {
    for (rows, width) in [(1, 1), (1, 7), (3, 5), (7, 64), (5, 129), (33, 1000), (1, 8), (3, 2056)] {
        // Units of one element, of neighbours, of a row, and of two rows and one element.
        for (p, unit) in [(0.0, 1), (0.1, 1), (0.5, 1), (0.97, 1), (0.5, 3), (0.4, width), (0.6, 2 * width + 1)] {
            for (residual, in_place, gap) in [
                (None, false, Gap::None),
                (Some(Gap::None), false, Gap::None),
                (None, true, Gap::Elements(2)),
                (Some(Gap::None), true, Gap::None),
                (Some(Gap::None), false, Gap::Elements(3)),
                (Some(Gap::None), false, ALIGNED),
                (Some(ALIGNED), false, ALIGNED),
                (None, true, ALIGNED),
            ] {
                let dims = &[rows, width];
                let pitch = harness.pitch(width, gap);
                let x = harness.input((dims, pitch));
                let residual = residual.map(|gap| {
                    let pitch = harness.pitch(width, gap);
                    harness.input((dims, pitch))
                });
                let pitch = harness.pitch(width, gap);
                let out = if in_place { x } else { harness.output((dims, pitch)) };
                let mask = mask(harness, p, 3, 17);
                // The factor, the product and the sum round once each. Without a residual the tolerance is relative and
                // inputs are nonzero, so results within it imply equal masks.
                let largest = 1.0 + 1.0 / (1.0 - f64::from(p));
                let bare = residual.is_none();
                let tolerance = move |want: f64| if bare { 3.0 * EPS * want.abs() } else { 3.0 * EPS * largest };
                harness.check(Dropout { x, residual, out, mask, unit }, |_, want| tolerance(want));
                harness.clear();
            }
        }
    }
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    let dims = &[if size == Size::Large { 210 } else { 3 }, 99];
    let (x, residual, out) = (harness.input((dims, 0)), harness.input((dims, 101)), harness.output((dims, 104)));
    Dropout { x, residual: Some(residual), out, mask: mask(harness, 0.3, 1, 2), unit: 1 }.into()
}

#[cfg(test)]
mod tests {
    use crate::device::ops::{Dropout, Mask, StepState};
    use crate::parity::harness::Harness;

    /// Returns which elements of a row of ones are kept.
    fn kept(p: f32, seed: u64, step: u32, site: u32, n: usize) -> Vec<bool> {
        kept_together(p, (seed, step, site), (1, n), 1)
    }

    /// Returns which elements of rows of ones are kept, with `unit` elements kept or dropped together.
    fn kept_together(
        p: f32,
        (seed, step, site): (u64, u32, u32),
        (rows, width): (usize, usize),
        unit: usize,
    ) -> Vec<bool> {
        let mut harness = Harness::cpu(&[2], false);
        let x = harness.floats((&[rows, width], width + 3), &vec![1.0; rows * width]);
        let out = harness.output((&[rows, width], 0));
        let state = harness.state(&StepState { step, ..StepState::with_seed(seed) });
        harness.check(Dropout { x, residual: None, out, mask: Mask { p, site, state }, unit }, |_, _| 0.0);
        harness.values(&out).iter().map(|v| *v != 0.0).collect()
    }

    #[test]
    fn the_rate_is_as_requested() {
        let n = 200_000;
        for (i, p) in [0.01f32, 0.1, 0.5, 0.9].into_iter().enumerate() {
            let rate = kept(p, 99, i as u32, 1, n).iter().filter(|k| **k).count() as f64 / n as f64;
            let (keep, p) = (1.0 - f64::from(p), f64::from(p));
            let sigma = (p * keep / n as f64).sqrt();
            assert!((rate - keep).abs() < 5.0 * sigma, "{rate} of the elements are kept, not {keep}");
        }
    }

    /// A unit is kept exactly if the element with the unit's number is kept when elements are dropped one by one.
    #[test]
    fn units_are_kept_or_dropped_whole() {
        let (rows, width) = (7, 30);
        let single = kept(0.4, 5, 6, 7, rows * width);
        for unit in [1, 2, 4, 30, 60, 61, 1000] {
            let together = kept_together(0.4, (5, 6, 7), (rows, width), unit);
            let expected: Vec<bool> = (0..rows * width).map(|i| single[i / unit]).collect();
            assert_eq!(together, expected, "units of {unit}");
        }
    }

    #[test]
    fn masks_depend_on_seed_step_and_site_and_on_nothing_else() {
        let n = 20_000;
        let all = [(1, 1, 1), (1 << 32 | 1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)];
        let masks: Vec<_> = all.map(|(seed, step, site)| kept(0.5, seed, step, site, n)).into();
        assert_eq!(masks[0], kept(0.5, 1, 1, 1, n), "the same seed, step and site give the same mask");
        for i in 0..masks.len() {
            for j in 0..i {
                // Independent fair coins agree n / 2 times, within five sigma of sqrt(n) / 2.
                let agree = masks[i].iter().zip(&masks[j]).filter(|(a, b)| a == b).count() as f64;
                let n = n as f64;
                assert!((agree - n / 2.0).abs() < 2.5 * n.sqrt(), "{:?} and {:?} agree {agree} times", all[i], all[j]);
            }
        }
        // Neighbours are independent, too: the mask does not repeat at any lag up to a Philox block.
        for lag in 1..=8 {
            let agree = masks[0].iter().zip(&masks[0][lag..]).filter(|(a, b)| a == b).count() as f64;
            let n = (n - lag) as f64;
            assert!((agree - n / 2.0).abs() < 2.5 * n.sqrt(), "elements {lag} apart agree {agree} times");
        }
    }
}
