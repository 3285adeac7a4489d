use crate::gradients::rig::Rig;
use crate::gradients::support::floats;
use vcycle::tape::{Affine, LossOptions, Tape, Var};

#[test]
fn with_ignored_rows_smoothing_and_weight() {
    for (smoothing, weight) in [(0.0, 1.0), (0.0, 0.25), (0.2, 1.0), (0.1, 3.0)] {
        // The logits are a matrix product, whose memory the gradient may reuse, or a parameter, which must not be
        // overwritten.
        for direct in [false, true] {
            let mut rig = if direct { Rig::with(1, &[&[5, 6]]) } else { Rig::with(1, &[&[5, 3], &[3, 6]]) };
            rig.integers(&[5], &[2, -100, 0, 5, -100]);
            rig.check(|t, p, i| {
                let options = LossOptions { smoothing, weight, ..LossOptions::default() };
                let logits = if direct { p[0] } else { t.linear(p[0], p[1], Affine { pad: 16, ..Affine::default() }) };
                vec![t.cross_entropy(logits, i[0], options)]
            });
        }
    }
}

#[test]
fn two_losses_of_the_same_logits() {
    let mut rig = Rig::with(2, &[&[5, 3], &[3, 6]]);
    rig.ids(&[5], 6);
    rig.ids(&[5], 6);
    rig.check(|t, p, i| {
        let logits = t.linear(p[0], p[1], Affine::default());
        let other = LossOptions { weight: 0.3, smoothing: 0.1, ignore: 2, ..LossOptions::default() };
        vec![t.cross_entropy(logits, i[0], LossOptions::default()), t.cross_entropy(logits, i[1], other)]
    });
}

/// A loss that is kept but not differentiated contributes no gradient.
#[test]
fn a_loss_that_is_only_read() {
    let mut rig = Rig::with(3, &[&[5, 3], &[3, 6]]);
    rig.ids(&[5], 6);
    rig.ids(&[5], 6);
    let watched = rig.outcome(&|t, p, i| {
        let logits = t.linear(p[0], p[1], Affine::default());
        let other = t.cross_entropy(logits, i[1], LossOptions::default());
        t.keep(other);
        vec![t.cross_entropy(logits, i[0], LossOptions::default())]
    });
    let alone = rig.outcome(&|t, p, i| {
        let logits = t.linear(p[0], p[1], Affine::default());
        vec![t.cross_entropy(logits, i[0], LossOptions::default())]
    });
    assert_eq!(watched, alone);
}

/// Five rows with two labels each. The shares include 0 and 1; the labels of one row are equal, and one row is ignored.
fn mixed(seed: u64) -> Rig {
    let mut rig = Rig::with(seed, &[&[5, 3], &[3, 6]]);
    rig.integers(&[5], &[2, -100, 0, 5, 1]);
    rig.integers(&[5], &[4, 9, 0, 1, 3]);
    let share = floats(&mut rig.device, &[5], &[0.7, 0.5, 0.2, 1.0, 0.0]);
    rig.inputs.push(share);
    rig
}

#[test]
fn of_two_labels() {
    for (smoothing, weight) in [(0.0, 1.0), (0.1, 0.25)] {
        let mut rig = mixed(4);
        rig.check(|t, p, i| {
            let options = LossOptions { smoothing, weight, ..LossOptions::default() };
            let logits = t.linear(p[0], p[1], Affine::default());
            vec![t.cross_entropy_mixed(logits, i[0], (i[1], i[2]), options)]
        });
    }
}

/// Loss and gradients are the means over both labels, weighted by their shares.
#[test]
fn two_labels_are_a_mean_of_losses() {
    let mut rig = mixed(5);
    // The expected values: each row is scored separately against each of its labels.
    let parts = [0.7, 0.3, 0.0, 0.0, 0.2, 0.8, 1.0, 0.0, 0.0, 1.0];
    for (number, label) in [2, 4, -100, -100, 0, 0, 5, 1, 1, 3].into_iter().enumerate() {
        let mut one = [-100; 5];
        one[number / 2] = label;
        rig.integers(&[5], &one);
    }
    let options = LossOptions { smoothing: 0.1, ..LossOptions::default() };
    let logits = |t: &mut Tape, p: &[Var]| t.linear(p[0], p[1], Affine::default());
    let found = rig.outcome(&|t, p, i| {
        let z = logits(t, p);
        vec![t.cross_entropy_mixed(z, i[0], (i[1], i[2]), options)]
    });
    let expected = rig.outcome(&|t, p, i| {
        let z = logits(t, p);
        // Four rows are scored.
        let one = |(number, part): (usize, f64)| {
            t.cross_entropy(z, i[3 + number], LossOptions { weight: part / 4.0, ..options })
        };
        parts.into_iter().enumerate().map(one).collect()
    });
    // The sums have at most 40 terms below 3 and are computed in two orders.
    let tolerance = 120.0 * f64::EPSILON;
    let close = |a: f64, b: f64| (a - b).abs() <= tolerance;
    assert!(close(found.loss, expected.loss), "{} is not {}", found.loss, expected.loss);
    for (a, b) in found.gradients.concat().iter().zip(expected.gradients.concat()) {
        assert!(close(*a, b), "{a} is not {b}");
    }
}
