use crate::rig::{Rig, loss_of};
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

/// x + dropout(x): the sum may not be made where x lies, since x is read for both.
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

/// Outside training nothing is dropped.
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
