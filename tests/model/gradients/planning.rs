//! Memory plans: they are reused, and buffers that live at the same time never share memory. Also gradient
//! accumulation.

use crate::gradients::rig::{Outcome, Rig, loss_of};
use crate::gradients::stack::Stack;
use vcycle::device::ops::{Activation, Op};
use vcycle::tape::{Affine, Mode, Tape, Var};

const STACK: Stack = Stack { layers: 3, heads: 2, width: 8, vocab: 11, time: 7, dropout: 0.1, segments: false };

/// The inputs are ids and labels of two sequences, then of a single shorter one, then of three.
fn rig(stack: &Stack) -> Rig {
    let mut rig = Rig::new(9);
    stack.params().iter().for_each(|dims| rig.param(dims, 0));
    for dims in [[2, 7], [1, 5], [3, 7]] {
        rig.ids(&dims, stack.vocab);
        rig.ids(&dims, stack.vocab);
    }
    rig
}

fn step(rig: &mut Rig, which: usize) -> (Outcome, Vec<Op>) {
    let outcome = rig.outcome(&move |t: &mut Tape, p: &[Var], i: &[Var]| {
        vec![STACK.loss(t, p, i[2 * which], i[2 * which + 1], &|_, _| {})]
    });
    (outcome, rig.tape.placed_ops().to_vec())
}

#[test]
fn a_recording_finds_its_plan_again() {
    let mut rig = rig(&STACK);
    let first = step(&mut rig, 0);
    assert_eq!(first, step(&mut rig, 0), "the same offsets, the same bits");
    let other = step(&mut rig, 1);
    assert_ne!(first.1, other.1);
    // The device numbers captured lists. Reusing a plan captures nothing.
    let captured = |rig: &mut Rig| {
        use vcycle::device::Device;
        let graph = rig.device.capture(&[]).expect("an empty list");
        rig.device.release(graph);
        graph.0
    };
    let before = captured(&mut rig);
    for _ in 0..3 {
        assert_eq!(first, step(&mut rig, 0));
        assert_eq!(other, step(&mut rig, 1));
    }
    assert_eq!(captured(&mut rig), before + 1, "no plan was created");
    // A larger step needs a larger arena, which smaller steps use afterwards.
    let large = step(&mut rig, 2);
    for (which, want) in [(0, &first), (2, &large), (1, &other), (0, &first)] {
        assert_eq!(step(&mut rig, which).0, want.0);
    }
}

/// If every value is kept, no memory is reused. The results must be the same as with reuse, so no live buffer was
/// overwritten.
#[test]
fn buffers_alive_together_do_not_overlap() {
    for segments in [false, true] {
        let stack = Stack { segments, ..STACK };
        let run = |keep: bool| {
            let mut rig = rig(&stack);
            let each = |t: &mut Tape, v: Var| {
                if keep {
                    t.keep(v)
                }
            };
            let outcome = rig.outcome(&|t: &mut Tape, p: &[Var], i: &[Var]| vec![stack.loss(t, p, i[0], i[1], &each)]);
            (outcome, rig.tape.cost().activation_bytes)
        };
        let ((shared, less), (apart, more)) = (run(false), run(true));
        assert_eq!(shared, apart);
        assert!(less < more);
    }
}

#[test]
fn gradients_accumulate() {
    let mut rig = rig(&STACK);
    let (once, _) = step(&mut rig, 0);
    for (which, second) in [(0, once.gradients.clone()), (1, step(&mut rig, 1).0.gradients)] {
        step(&mut rig, 0);
        rig.record(Mode::Train { accumulate: true }, &move |t: &mut Tape, p: &[Var], i: &[Var]| {
            vec![STACK.loss(t, p, i[2 * which], i[2 * which + 1], &|_, _| {})]
        });
        rig.tape.run(&mut rig.device).expect("a step");
        for ((sum, a), b) in rig.read_gradients().iter().zip(&once.gradients).zip(&second) {
            for ((sum, a), b) in sum.iter().zip(a).zip(b) {
                // Additions in another order: the accumulated sum has a few more roundings.
                assert!((sum - a - b).abs() <= 1e-15 + 1e-13 * (a.abs() + b.abs()), "{sum} is not {a} + {b}");
            }
        }
    }
}

/// Evaluation gives the same loss as training without dropout, needs less memory and does not change gradients.
#[test]
fn evaluation() {
    let stack = Stack { dropout: 0.0, ..STACK };
    let mut rig = rig(&stack);
    let record = |t: &mut Tape, p: &[Var], i: &[Var]| vec![stack.loss(t, p, i[0], i[1], &|_, _| {})];
    let trained = rig.outcome(&record);
    let memory = rig.tape.cost().activation_bytes;
    assert_eq!(trained.loss, rig.evaluate(&record));
    assert!(rig.tape.cost().activation_bytes < memory / 2);
    assert_eq!(trained.gradients, rig.read_gradients());
}

#[test]
fn values_are_readable_when_kept_and_only_after_the_run() {
    let mut rig = Rig::with(2, &[&[3, 4], &[4, 5]]);
    rig.ids(&[3], 5);
    let seen = std::cell::Cell::new(None);
    for keep in [false, true] {
        let losses = rig.record(Mode::Train { accumulate: false }, &|t: &mut Tape, p: &[Var], i: &[Var]| {
            let y = t.linear(p[0], p[1], Affine::default());
            if keep {
                t.keep(y);
            }
            seen.set(Some(y));
            vec![t.cross_entropy(y, i[0], Default::default())]
        });
        let y = seen.get().expect("recorded");
        for var in [y, losses[0]] {
            let error = rig.tape.value(var).expect_err("this recording has not run");
            assert!(error.to_string().contains("has not run yet"), "{error}");
        }
        rig.tape.run(&mut rig.device).expect("a step");
        assert!(rig.tape.value(losses[0]).is_ok());
        let value = rig.tape.value(y);
        assert!(if keep { value.is_ok() } else { value.is_err_and(|e| e.to_string().contains("not kept")) });
    }
}

/// A feed-forward block saves its input and its pre-activation. The activation's result is freed after the matrix
/// product that reads it and recomputed in the backward pass. It is saved only if another operation reads it too.
#[test]
fn a_feed_forward_block_saves_one_inner_value() {
    const ROWS: usize = 16;
    const WIDTH: usize = 8;
    const INNER: usize = 64;
    let memory = |blocks: usize, readers: usize| {
        let mut rig = Rig::with(6, &[&[ROWS, WIDTH], &[WIDTH, INNER], &[INNER, WIDTH], &[WIDTH, 4]]);
        rig.ids(&[ROWS], 4);
        rig.outcome(&|t: &mut Tape, p: &[Var], i: &[Var]| {
            let mut x = p[0];
            for _ in 0..blocks {
                let inner = t.linear(x, p[1], Affine::default().activation(Activation::GeluTanh));
                for _ in 0..readers {
                    x = t.linear(inner, p[2], Affine::default().residual(x));
                }
            }
            vec![loss_of(t, x, p[3], i[0])]
        });
        rig.tape.cost().activation_bytes
    };
    let float = std::mem::size_of::<f64>();
    for (readers, saved) in [(1, 1), (2, 2)] {
        let block = memory(5, readers) - memory(4, readers);
        assert_eq!(block, ROWS * (WIDTH + saved * INNER) * float, "with {readers} readers");
    }
}

/// Values that no loss depends on cost nothing.
#[test]
fn unused_values_are_not_computed() {
    let mut rig = Rig::with(3, &[&[3, 4], &[4, 5], &[4, 400]]);
    rig.ids(&[3], 5);
    let cost = |rig: &mut Rig, unused: bool| {
        rig.outcome(&|t: &mut Tape, p: &[Var], i: &[Var]| {
            if unused {
                t.linear(p[0], p[2], Affine::default());
            }
            vec![loss_of(t, p[0], p[1], i[0])]
        });
        rig.tape.cost()
    };
    assert_eq!(cost(&mut rig, false), cost(&mut rig, true));
}

/// A tape still works after a step failed, and after so many shapes that plans were discarded.
#[test]
fn more_shapes_than_plans() {
    let mut rig = Rig::with(4, &[&[40, 4], &[4, 5]]);
    for n in 1..=40 {
        rig.ids(&[1, n], 40);
        rig.ids(&[1, n], 5);
    }
    let run = |rig: &mut Rig, n: usize| {
        rig.outcome(&move |t: &mut Tape, p: &[Var], i: &[Var]| {
            let x = t.embedding(i[2 * n], p[0], None);
            vec![loss_of(t, x, p[1], i[2 * n + 1])]
        })
    };
    let first: Vec<_> = (0..40).rev().map(|n| run(&mut rig, n)).collect();
    // The labels are ids below 40, but must be below 5.
    rig.record(Mode::Train { accumulate: false }, &|t: &mut Tape, p: &[Var], i: &[Var]| {
        let x = t.embedding(i[78], p[0], None);
        vec![loss_of(t, x, p[1], i[78])]
    });
    let error = rig.tape.run(&mut rig.device).expect_err("labels out of range");
    assert!(error.to_string().contains("cross_entropy"), "{error}");
    // A matrix product whose shapes do not fit is refused when the step is planned, as are labels for other rows.
    rig.record(Mode::Train { accumulate: false }, &|t: &mut Tape, p: &[Var], i: &[Var]| {
        let x = t.linear(p[1], p[1], Affine::default());
        vec![loss_of(t, x, p[1], i[0])]
    });
    let error = rig.tape.run(&mut rig.device).expect_err("shapes that do not fit");
    assert!(error.to_string().contains("linear"), "{error}");
    assert!(rig.tape.placed_ops().is_empty());
    let second: Vec<_> = (0..40).rev().map(|n| run(&mut rig, n)).collect();
    assert_eq!(first, second);
}
