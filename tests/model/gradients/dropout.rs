use crate::gradients::rig::{Rig, loss_of};
use vcycle::tape::{Affine, Tape, Var};

#[test]
fn with_and_without_residual() {
    for residual in [false, true] {
        for p in [0.0, 0.4] {
            let mut rig = Rig::with(1, &[&[3, 7], &[7, 7], &[7, 4]]);
            rig.ids(&[3], 4);
            rig.check(|t, v, i| {
                let x = t.linear(v[0], v[1], Affine::default());
                let y = t.dropout(x, residual.then_some(v[0]), p);
                vec![loss_of(t, y, v[2], i[0])]
            });
        }
    }
}

/// Whole samples are dropped together. Checks the gradients, and that each sample is either kept or dropped as a whole.
#[test]
fn samples_together() {
    for residual in [false, true] {
        let mut rig = Rig::with(3, &[&[5, 3, 4], &[4, 4], &[4, 6], &[5, 3, 4]]);
        rig.ids(&[5, 3], 6);
        let of = |p: f32| {
            move |t: &mut Tape, v: &[Var], i: &[Var]| {
                let x = t.linear(v[0], v[1], Affine::default());
                let y = t.drop_path(x, residual.then_some(v[3]), p);
                // Ensures that the fourth parameter is always used.
                let z = t.dropout(y, Some(v[3]), 0.0);
                vec![loss_of(t, z, v[2], i[0])]
            }
        };
        rig.check(of(0.4));
        let gradient = rig.outcome(&of(0.4)).gradients.swap_remove(0);
        let samples: Vec<bool> = gradient.chunks(12).map(|sample| sample.iter().all(|g| *g == 0.0)).collect();
        let rows: Vec<bool> = gradient.chunks(4).map(|row| row.iter().all(|g| *g == 0.0)).collect();
        assert!(
            samples.contains(&true) && samples.contains(&false),
            "this seed must both keep and drop samples: {samples:?}"
        );
        assert!((0..15).all(|r| rows[r] == samples[r / 3]), "{rows:?}");
        assert_eq!(rig.evaluate(&of(0.9)), rig.outcome(&of(0.0)).loss, "nothing is dropped outside training");
    }
}

/// x + dropout(x): the sum must not be computed in the memory of x, because x is read by both terms.
#[test]
fn its_own_residual() {
    for p in [0.0, 0.4] {
        let mut rig = Rig::with(2, &[&[3, 7], &[7, 7], &[7, 4]]);
        rig.ids(&[3], 4);
        rig.check(|t, v, i| {
            let x = t.linear(v[0], v[1], Affine::default());
            let y = t.dropout(x, Some(x), p);
            vec![loss_of(t, y, v[2], i[0])]
        });
    }
}

/// Nothing is dropped outside training.
#[test]
fn off_in_evaluation() {
    let mut rig = Rig::with(3, &[&[3, 7], &[7, 4]]);
    rig.ids(&[3], 4);
    let record = |p: f32| {
        move |t: &mut Tape, v: &[Var], i: &[Var]| {
            let y = t.dropout(v[0], None, p);
            vec![loss_of(t, y, v[1], i[0])]
        }
    };
    let plain = rig.evaluate(&record(0.0));
    assert_eq!(plain, rig.evaluate(&record(0.9)));
    assert_eq!(plain, rig.outcome(&record(0.0)).loss);
    assert_ne!(plain, rig.outcome(&record(0.9)).loss);
}
