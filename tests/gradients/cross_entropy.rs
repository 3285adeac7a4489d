use crate::rig::Rig;
use vcycle::tape::{Affine, LossOptions};

#[test]
fn with_ignored_rows_smoothing_and_weight() {
    for (smoothing, weight) in [(0.0, 1.0), (0.0, 0.25), (0.2, 1.0), (0.1, 3.0)] {
        // Logits from a product, whose memory the gradient takes over, and of a parameter, which must stay.
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

/// A loss that is only looked at has no gradient.
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
