use crate::gradients::rig::{Rig, loss_of};
use vcycle::device::ops::Activation;
use vcycle::tape::{Affine, LossOptions, Mode, Tape, Var, Weight};

#[test]
fn with_positions_and_repeated_ids() {
    for with_positions in [false, true] {
        let mut rig = Rig::with(1, &[&[5, 4], &[4, 6]]);
        if with_positions {
            rig.param(&[3, 4], 0);
        }
        // Every row of the table is used, because a gradient of zero would test little. Some rows are used twice.
        rig.integers(&[2, 3], &[0, 1, 1, 4, 2, 3]);
        rig.ids(&[2, 3], 6);
        rig.check(|t, p, i| {
            let y = t.embedding(i[0], p[0], p.get(2).copied());
            vec![loss_of(t, y, p[1], i[1])]
        });
    }
}

/// The gradient is zero for rows that no token uses and for positions beyond the sequence.
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

/// The table is also the head, so its gradient is the sum of both.
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

/// Look-ups in two tables, twice in one of them.
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

/// The sum of tokens, token types, a second look-up in the first table, and positions, in a segment and outside.
#[test]
fn a_sum_of_look_ups() {
    for segment in [false, true] {
        let mut rig = Rig::with(5, &[&[5, 4], &[2, 4], &[3, 4], &[4, 6]]);
        rig.integers(&[2, 3], &[0, 1, 3, 4, 2, 3]);
        rig.ids(&[2, 3], 2);
        rig.integers(&[2, 3], &[3, 4, 4, 0, 1, 2]);
        rig.ids(&[2, 3], 6);
        let record = |padding: Option<u32>| {
            move |t: &mut Tape, p: &[Var], i: &[Var]| {
                let sum = |t: &mut Tape| t.embeddings(&[(i[0], p[0]), (i[1], p[1]), (i[2], p[0])], Some(p[2]), padding);
                let y = if segment { t.segment(sum) } else { sum(t) };
                // The sum is also read here.
                let z = t.dropout(y, Some(y), 0.4);
                vec![loss_of(t, y, p[3], i[3]), loss_of(t, z, p[3], i[3])]
            }
        };
        rig.check(record(None));
        assert_eq!(rig.tape.placed_ops().iter().filter(|op| op.name() == "embedding_backward").count(), 3);
        rig.check(record(Some(99)));
    }
}

/// Look-ups of the padding id contribute no gradient to the first table, and nothing else changes.
#[test]
fn padding_gives_no_gradient() {
    let mut rig = Rig::with(6, &[&[5, 4], &[5, 4], &[3, 4], &[4, 6]]);
    rig.integers(&[2, 3], &[0, 1, 3, 1, 2, 3]);
    rig.integers(&[2, 3], &[1, 1, 2, 0, 3, 4]);
    rig.ids(&[2, 3], 6);
    let mut outcome = |padding: Option<u32>| {
        rig.outcome(&|t, p, i| {
            let y = t.embeddings(&[(i[0], p[0]), (i[1], p[1])], Some(p[2]), padding);
            vec![loss_of(t, y, p[3], i[2])]
        })
    };
    let (mut all, padded) = (outcome(None), outcome(Some(1)));
    assert!(all.gradients[0][4..8].iter().all(|g| *g != 0.0));
    all.gradients[0][4..8].fill(0.0);
    assert_eq!(padded, all);
}

/// Gathers rows of a value that other operations also read, before and after. Some rows are gathered twice and one
/// never. Also gathers rows of a parameter, padded or not, and inside a segment.
#[test]
fn rows_of_a_value() {
    for pad in [0, 3] {
        let mut rig = Rig::new(7);
        rig.param(&[2, 3, 4], pad);
        rig.param(&[4, 4], 0);
        rig.param(&[4, 6], 0);
        rig.integers(&[2, 2], &[5, 0, 5, 3]);
        rig.ids(&[2, 2], 6);
        rig.ids(&[2, 3], 6);
        for segment in [false, true] {
            rig.check(|t, p, i| {
                let x = t.linear(p[0], p[1], Affine::default().residual(p[0]));
                let before = loss_of(t, x, p[2], i[2]);
                let take = |t: &mut Tape| {
                    let some = t.rows(x, i[0]);
                    t.linear(some, p[1], Affine::default().activation(Activation::GeluErf))
                };
                let some = if segment { t.segment(take) } else { take(t) };
                let of_rows = loss_of(t, some, p[2], i[1]);
                let z = t.dropout(x, Some(x), 0.3);
                vec![before, of_rows, loss_of(t, z, p[2], i[2])]
            });
        }
        rig.check(|t, p, i| {
            let some = t.rows(p[0], i[0]);
            let x = t.linear(p[0], p[1], Affine::default());
            vec![loss_of(t, some, p[2], i[1]), loss_of(t, x, p[2], i[2])]
        });
    }
}

/// Rows that are not gathered have gradient zero, also if the value is the activation of a matrix product.
#[test]
fn rows_that_nothing_takes() {
    let mut rig = Rig::with(8, &[&[2, 3, 4], &[4, 5], &[5, 6]]);
    rig.integers(&[2, 2], &[4, 1, 4, 2]);
    rig.ids(&[2, 2], 6);
    let record = |t: &mut Tape, p: &[Var], i: &[Var]| {
        let x = t.linear(p[0], p[1], Affine::default().activation(Activation::Tanh));
        let some = t.rows(x, i[0]);
        vec![loss_of(t, some, p[2], i[1])]
    };
    let gradient = rig.outcome(&record).gradients.swap_remove(0);
    let taken: Vec<bool> = gradient.chunks(4).map(|row| row.iter().any(|g| *g != 0.0)).collect();
    assert_eq!(taken, [false, true, true, false, true, false]);
    rig.check(record);
}

#[test]
fn rows_beyond_the_value_are_refused() {
    let mut rig = Rig::with(9, &[&[2, 3, 4], &[4, 6]]);
    rig.integers(&[1, 2], &[0, 6]);
    rig.ids(&[1, 2], 6);
    rig.record(Mode::Train { accumulate: false }, &|t, p, i| {
        let some = t.rows(p[0], i[0]);
        vec![loss_of(t, some, p[1], i[1])]
    });
    let error = rig.tape.run(&mut rig.device).expect_err("refused").to_string();
    assert!(["embedding", "id 6 at position 1", "6 rows"].iter().all(|word| error.contains(word)), "{error}");
}
