//! Linear cross-entropy in strips of rows: its gradients, results equal to those with whole logits, and the memory of
//! one strip.

use crate::gradients::linear::count;
use crate::gradients::rig::{Outcome, Rig};
use crate::gradients::support::{Random, floats, integers, state};
use vcycle::device::cpu::Cpu;
use vcycle::device::ops::StepState;
use vcycle::device::{Device, read_floats, read_scalar};
use vcycle::tape::{Affine, LossOptions, Mode, Tape, Var, Weight};

/// The same loss with all logits at once.
fn whole(t: &mut Tape, x: Var, w: Var, bias: Option<Var>, labels: Var, options: LossOptions) -> Var {
    let logits = t.linear(x, w, Affine { bias, weight: Weight::OutIn, pad: 128, ..Affine::default() });
    t.cross_entropy(logits, labels, options)
}

fn strips_of(strip: usize) -> LossOptions {
    LossOptions { strip, ..LossOptions::default() }
}

/// Labels of eight rows. The ignored ones include both rows of a strip of two, and all but one row of a strip of three.
const LABELS: [i32; 8] = [2, 6, -100, -100, 0, -100, 5, 3];

/// Rows in a strip: automatic, one, numbers that divide the eight rows or do not, all rows, and more.
const STRIPS: [usize; 6] = [0, 1, 2, 3, 8, 100];

#[test]
fn of_parameters() {
    for strip in STRIPS {
        for (smoothing, weight) in [(0.0, 1.0), (0.2, 0.25)] {
            for biased in [false, true] {
                let mut rig = Rig::new(1);
                rig.param(&[2, 4, 3], 5);
                rig.param(&[7, 3], 2);
                if biased {
                    rig.param(&[7], 0);
                }
                rig.integers(&[2, 4], &LABELS);
                let options = LossOptions { smoothing, weight, ..strips_of(strip) };
                rig.check(|t, p, i| vec![t.linear_cross_entropy(p[0], p[1], p.get(2).copied(), i[0], options)]);
                let strips = if strip == 0 { 1 } else { 8usize.div_ceil(strip) };
                assert_eq!((count(&rig, "cross_entropy"), count(&rig, "linear")), (strips, 3 * strips));
                assert_eq!(count(&rig, "column_sum"), if biased { strips } else { 0 });
            }
        }
    }
}

/// Gradients that are sums: of a value with several readers, of a head and a bias with several losses, and of a head
/// that is also the embedding.
#[test]
fn of_values_that_others_read() {
    for strip in STRIPS {
        let mut rig = Rig::with(2, &[&[2, 4, 3], &[7, 3], &[3, 3], &[7]]);
        rig.integers(&[2, 4], &LABELS);
        rig.ids(&[2, 4], 7);
        rig.check(|t, p, i| {
            let x = t.linear(p[0], p[2], Affine::default());
            let y = t.dropout(x, Some(p[0]), 0.4);
            let other = LossOptions { weight: 0.3, smoothing: 0.1, ignore: 2, scored: None, strip: 3 };
            vec![
                t.linear_cross_entropy(x, p[1], Some(p[3]), i[0], strips_of(strip)),
                t.linear_cross_entropy(y, p[1], None, i[1], other),
                whole(t, y, p[1], Some(p[3]), i[1], other),
            ]
        });
        let mut rig = Rig::with(3, &[&[7, 3], &[4, 3]]);
        rig.ids(&[2, 4], 7);
        rig.ids(&[2, 4], 7);
        rig.check(|t, p, i| {
            let y = t.embedding(i[0], p[0], Some(p[1]));
            vec![t.linear_cross_entropy(y, p[0], None, i[1], strips_of(strip))]
        });
    }
}

/// In a segment, and after one.
#[test]
fn with_segments() {
    for strip in [0, 3] {
        for inside in [false, true] {
            let mut rig = Rig::with(4, &[&[2, 4, 3], &[7, 3], &[3, 3], &[7]]);
            rig.integers(&[2, 4], &LABELS);
            let record = |segments: bool| {
                move |t: &mut Tape, p: &[Var], i: &[Var]| {
                    let block = |t: &mut Tape, f: &dyn Fn(&mut Tape) -> Var| if segments { t.segment(f) } else { f(t) };
                    let hidden = |t: &mut Tape| {
                        let x = t.linear(p[0], p[2], Affine::default());
                        t.linear(x, p[2], Affine::default().residual(x))
                    };
                    let loss =
                        |t: &mut Tape, x: Var| t.linear_cross_entropy(x, p[1], Some(p[3]), i[0], strips_of(strip));
                    if inside {
                        return vec![block(t, &|t| {
                            let x = hidden(t);
                            loss(t, x)
                        })];
                    }
                    let x = block(t, &hidden);
                    vec![loss(t, x)]
                }
            };
            rig.check(record(true));
            let recomputed = (rig.outcome(&record(true)), rig.tape.cost());
            let kept = (rig.outcome(&record(false)), rig.tape.cost());
            let (a, b) = (recomputed.0.loss, kept.0.loss);
            assert!(a == b, "loss {a} with segments, {b} without");
            assert_eq!(recomputed.1.model_flops, kept.1.model_flops, "recomputed FLOPs are reported separately");
        }
    }
}

/// With one strip, the operations are those with whole logits. With several, loss and gradient of x have the same bits,
/// while the gradients of weight and bias are summed in another order.
#[test]
fn the_same_as_with_whole_logits() {
    let (rows, width, vocab) = (50, 3, 7);
    let mut rig = Rig::with(5, &[&[rows, width], &[vocab, width], &[vocab]]);
    let labels: Vec<i32> = (0..rows as i32).map(|i| if i % 5 == 3 { -100 } else { i * i % 7 }).collect();
    rig.integers(&[rows], &labels);
    let options = LossOptions { smoothing: 0.1, weight: 0.5, ..LossOptions::default() };
    let expected = rig.outcome(&|t, p, i| vec![whole(t, p[0], p[1], Some(p[2]), i[0], options)]);
    let ops = rig.tape.placed_ops().len();
    let by_strips = |rig: &mut Rig, strip: usize| {
        let options = LossOptions { strip, ..options };
        rig.outcome(&|t, p, i| vec![t.linear_cross_entropy(p[0], p[1], Some(p[2]), i[0], options)])
    };
    for strip in [0, rows, 1000] {
        assert_eq!(by_strips(&mut rig, strip), expected);
        assert_eq!(rig.tape.placed_ops().len(), ops);
    }
    for strip in [1, 16, 25] {
        let found = by_strips(&mut rig, strip);
        assert_eq!((found.loss, &found.gradients[0]), (expected.loss, &expected.gradients[0]));
        // A sum of `rows` terms whose absolute values add up to less than 1, computed in two orders, each with an error
        // of eps / 2 per term.
        let tolerance = rows as f64 * f64::EPSILON;
        for (a, b) in found.gradients[1..].iter().flatten().zip(expected.gradients[1..].iter().flatten()) {
            assert!((a - b).abs() <= tolerance, "strips of {strip}: {a}, not {b}");
        }
    }
}

const ROWS: usize = 300;
const WIDTH: usize = 16;
const VOCAB: usize = 67;

fn on_the_cpu(threads: usize, record: &dyn Fn(&mut Tape, Var, Var, Var) -> Var) -> Outcome {
    let (mut cpu, mut random) = (Cpu::new(threads), Random::new(6));
    let device = &mut cpu;
    let state = state(device, &StepState::with_seed(1));
    let [x, w] = [[ROWS, WIDTH], [VOCAB, WIDTH]].map(|dims| {
        let values = random.floats(dims[0] * dims[1]);
        [values.clone(), vec![f64::NAN; values.len()]].map(|values| floats(device, &dims, &values))
    });
    let labels = integers(device, &[ROWS], &random.ids(ROWS, VOCAB));
    let mut tape = Tape::new(device.float(), state);
    tape.begin(Mode::Train { accumulate: false });
    let (p, q, labels) = (tape.param(x[0], x[1]), tape.param(w[0], w[1]), tape.input(labels));
    let loss = record(&mut tape, p, q, labels);
    tape.backward(&[loss]);
    tape.run(device).expect("a step");
    let loss = read_scalar(device, &tape.value(loss).expect("kept")).expect("a loss");
    Outcome { loss, gradients: [x[1], w[1]].map(|g| read_floats(device, &g).expect("a gradient")).into() }
}

#[test]
fn the_same_on_the_cpu() {
    let by_strips = |threads: usize, strip: usize| {
        on_the_cpu(threads, &|t, x, w, labels| t.linear_cross_entropy(x, w, None, labels, strips_of(strip)))
    };
    let expected = on_the_cpu(1, &|t, x, w, labels| whole(t, x, w, None, labels, LossOptions::default()));
    assert_eq!(by_strips(1, 0), expected, "one strip");
    // With another shape, matrix products of numbers in -1..1 may be summed in another order, so that a logit changes
    // by twice C eps / 2 times C. The loss changes by twice as much, and a probability by that fraction of itself. Sums
    // of n gradients have a rounding error of n eps / 2 times the sum of their absolute values, which is 2 / rows along
    // a row and 1 along a column.
    let eps = f64::from(f32::EPSILON);
    let moved = 2.0 * (WIDTH * WIDTH) as f64 * eps;
    let of_row = 2.0 / ROWS as f64 * (moved + VOCAB as f64 * eps);
    let of_column = moved + ROWS as f64 * eps;
    for strip in [1, 100, 128] {
        let found = by_strips(1, strip);
        assert_eq!(found, by_strips(3, strip), "with another number of threads");
        assert!((found.loss - expected.loss).abs() <= moved + eps * expected.loss, "loss {}", found.loss);
        for (which, tolerance) in [of_row, of_column].into_iter().enumerate() {
            let (found, expected) = (&found.gradients[which], &expected.gradients[which]);
            let largest = expected.iter().fold(0.0f64, |m, g| m.max(g.abs()));
            assert!(largest > 100.0 * tolerance, "{largest:e} of {tolerance:e}: the test shows nothing");
            for (a, b) in found.iter().zip(expected) {
                assert!((a - b).abs() <= tolerance, "strips of {strip}: {a} in gradient {which}, not {b}");
            }
        }
    }
}

/// A second micro-batch adds to the gradients of the first, in every strip.
#[test]
fn micro_batches_accumulate() {
    let rig = || {
        let mut rig = Rig::with(7, &[&[8, 3], &[7, 3], &[7]]);
        rig.integers(&[8], &LABELS);
        rig
    };
    for strip in [0, 3] {
        let record = |t: &mut Tape, p: &[Var], i: &[Var]| {
            let options = LossOptions { weight: 0.5, ..strips_of(strip) };
            vec![t.linear_cross_entropy(p[0], p[1], Some(p[2]), i[0], options)]
        };
        let mut rig = rig();
        let once = rig.outcome(&record);
        rig.record(Mode::Train { accumulate: true }, &record);
        rig.tape.run(&mut rig.device).expect("a step");
        for (twice, once) in rig.read_gradients().iter().zip(&once.gradients) {
            for (twice, once) in twice.iter().zip(once) {
                // Sums of eight terms whose absolute values add up to less than 1, computed in two orders.
                assert!((twice - 2.0 * once).abs() <= 16.0 * f64::EPSILON, "{twice} is not twice {once}");
            }
        }
    }
}

/// The logits take the memory of the largest strip. Evaluation needs the same memory and gives the same loss.
#[test]
fn memory_of_one_strip() {
    let rows = 2000;
    let mut rig = Rig::with(8, &[&[rows, 3], &[7, 3]]);
    rig.ids(&[rows], 7);
    let record = |strip: usize| {
        move |t: &mut Tape, p: &[Var], i: &[Var]| vec![t.linear_cross_entropy(p[0], p[1], None, i[0], strips_of(strip))]
    };
    let mut used = |strip: usize| {
        let trained = rig.outcome(&record(strip)).loss;
        let in_training = rig.tape.cost().activation_bytes;
        assert_eq!(rig.evaluate(&record(strip)), trained);
        assert_eq!(rig.tape.cost().activation_bytes, in_training);
        in_training
    };
    // Bytes of a row of 128 f64 logits.
    let row = 128 * 8;
    let whole = used(rows);
    assert_eq!(used(300), whole - (rows - 300) * row);
    assert_eq!(used(1), whole - (rows - 1) * row);
}

/// A loss that is kept but not differentiated contributes no gradient. A loss that is not used at all is not computed.
#[test]
fn losses_that_are_not_differentiated() {
    let mut rig = Rig::with(9, &[&[8, 3], &[7, 3]]);
    rig.integers(&[8], &LABELS);
    rig.ids(&[8], 7);
    let watched = std::cell::Cell::new(None);
    let record = |watch: Option<bool>| {
        let watched = &watched;
        move |t: &mut Tape, p: &[Var], i: &[Var]| {
            if let Some(keep) = watch {
                let other = t.linear_cross_entropy(p[0], p[1], None, i[1], strips_of(3));
                if keep {
                    t.keep(other);
                    watched.set(Some(other));
                }
            }
            vec![t.linear_cross_entropy(p[0], p[1], None, i[0], strips_of(3))]
        }
    };
    let alone = (rig.outcome(&record(None)), rig.tape.cost());
    assert_eq!((rig.outcome(&record(Some(false))), rig.tape.cost()), alone);
    assert_eq!(rig.outcome(&record(Some(true))), alone.0);
    let other = rig.tape.value(watched.get().expect("recorded")).expect("kept");
    let found = read_scalar(&mut rig.device, &other).expect("a loss");
    assert_eq!(found, rig.evaluate(&|t, p, i| vec![whole(t, p[0], p[1], None, i[1], LossOptions::default())]));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut rig = Rig::with(10, &[&[8, 3], &[7, 3], &[7, 4], &[8]]);
    rig.integers(&[8], &LABELS);
    rig.integers(&[9], &[0; 9]);
    rig.integers(&[8], &[0, 0, 0, 0, 0, 7, 0, 0]);
    for (head, bias, labels, words) in [
        (2, None, 0, ["linear", "inner sizes"]),
        (1, Some(3), 0, ["linear", "bias"]),
        (1, None, 1, ["cross_entropy", "labels"]),
        // The row is in the second strip; the message has its number among all rows.
        (1, None, 2, ["cross_entropy", "label 7 of row 5"]),
    ] {
        rig.record(Mode::Train { accumulate: false }, &|t, p, i| {
            vec![t.linear_cross_entropy(p[0], p[head], bias.map(|b: usize| p[b]), i[labels], strips_of(3))]
        });
        let error = rig.tape.run(&mut rig.device).expect_err("refused").to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    // `backward` records the loss, so without it there is nothing to run.
    rig.tape.begin(Mode::Train { accumulate: false });
    let [x, w] = [0, 1].map(|n| rig.tape.param(rig.params[n].0, rig.params[n].1));
    let labels = rig.tape.input(rig.inputs[0]);
    rig.tape.linear_cross_entropy(x, w, None, labels, strips_of(3));
    let error = rig.tape.run(&mut rig.device).expect_err("refused").to_string();
    assert!(error.contains("backward"), "{error}");
}
