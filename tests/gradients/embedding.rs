use crate::rig::{Rig, loss_of};
use vcycle::tape::{Affine, LossOptions, Tape, Var, Weight};

#[test]
fn with_positions_and_repeated_ids() {
    for with_positions in [false, true] {
        let mut rig = Rig::with(1, &[&[5, 4], &[4, 6]]);
        if with_positions {
            rig.param(&[3, 4], 0);
        }
        // Every row of the table is used, some twice: a gradient of zero would say little.
        rig.integers(&[2, 3], &[0, 1, 1, 4, 2, 3]);
        rig.ids(&[2, 3], 6);
        rig.check(|t, p, i| {
            let y = t.embedding(i[0], p[0], p.get(2).copied());
            vec![loss_of(t, y, p[1], i[1])]
        });
    }
}

/// Rows that no token uses, and positions beyond the sequence, have the gradient zero.
#[test]
fn rows_that_nothing_uses() {
    let mut rig = Rig::with(2, &[&[9, 4], &[7, 4], &[4, 6]]);
    rig.ids(&[2, 3], 2);
    rig.ids(&[2, 3], 6);
    let record = |t: &mut Tape, p: &[Var], i: &[Var]| {
        let y = t.embedding(i[0], p[0], Some(p[1]));
        vec![loss_of(t, y, p[2], i[1])]
    };
    let gradients = rig.outcome(&record).gradients;
    assert!(gradients[0][2 * 4..].iter().chain(&gradients[1][3 * 4..]).all(|g| *g == 0.0));
    rig.check(record);
}

/// The table is the head as well, so its gradient is added up from both.
#[test]
fn tied_to_the_head() {
    let mut rig = Rig::with(3, &[&[5, 4], &[3, 4]]);
    rig.ids(&[2, 3], 5);
    rig.ids(&[2, 3], 5);
    rig.check(|t, p, i| {
        let y = t.embedding(i[0], p[0], Some(p[1]));
        let logits = t.linear(y, p[0], Affine { weight: Weight::OutIn, pad: 16, ..Affine::default() });
        vec![t.cross_entropy(logits, i[1], LossOptions::default())]
    });
}

/// Two look-ups in two tables and two in one.
#[test]
fn several_tables() {
    let mut rig = Rig::with(4, &[&[5, 4], &[2, 4], &[4, 3], &[4]]);
    rig.ids(&[2, 3], 5);
    rig.ids(&[2, 3], 2);
    rig.ids(&[2, 3], 3);
    rig.check(|t, p, i| {
        let words = t.embedding(i[0], p[0], None);
        let types = t.embedding(i[1], p[1], None);
        let again = t.embedding(i[2], p[0], None);
        let sum = t.dropout(words, Some(types), 0.0);
        let (sum, y) = t.residual_layernorm(sum, again, p[3], p[3], 1e-5);
        vec![loss_of(t, sum, p[2], i[2]), loss_of(t, y, p[2], i[2])]
    });
}
