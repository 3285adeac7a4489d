use super::cross_entropy::Gradient;
use super::harness::{EPS, Gap, Harness};
use super::{Size, Stem};
use crate::device::ops::{Op, Operation, SquaredError};

pub const STEMS: &[Stem] = &[Stem { name: SquaredError::NAME, cases, sample }];

/// Creates an operation in which one of `every` elements is not scored; 0: all are scored.
fn of(
    harness: &mut Harness,
    (rows, width): (usize, usize),
    gap: Gap,
    gradient: Gradient,
    every: usize,
    weight: f64,
) -> SquaredError {
    let [of_x, of_targets, of_dx] = std::array::from_fn(|_| harness.pitch(width, gap));
    let x = harness.input((&[rows, width], of_x));
    // Targets are in 0..5, like similarity scores.
    let scores = harness.random.floats(rows * width);
    let scores = scores.iter().enumerate().map(|(i, v)| match every > 0 && i % every == every - 1 {
        true => f64::NAN,
        false => 2.5 + 2.5 * v,
    });
    let scores: Vec<f64> = scores.collect();
    let targets = harness.floats_of(harness.float.accumulator(), (&[rows, width], of_targets), &scores);
    let dx = match gradient {
        Gradient::None => None,
        Gradient::Apart => Some(harness.output((&[rows, width], of_dx))),
        Gradient::InPlace => Some(x),
    };
    SquaredError { x, targets, scored: None, loss: harness.accumulator_output((&[1], 0)), dx, weight }
}

fn cases(harness: &mut Harness) {
    for (rows, width) in [(1, 1), (7, 1), (32, 1), (1, 9), (5, 3), (300, 1), (130, 5)] {
        for gradient in [Gradient::None, Gradient::Apart, Gradient::InPlace] {
            for (every, weight) in [(0, 1.0), (3, 0.25), (1, 1.0)] {
                for gap in [Gap::None, Gap::Elements(7)] {
                    let op = of(harness, (rows, width), gap, gradient, every, weight);
                    // The difference rounds by eps / 2, which its square doubles; sums are in f64; then the loss is
                    // rounded. The gradient takes three roundings: of the difference, the factor and their product.
                    harness.check(op, |_, want| 2.0 * EPS * want.abs());
                    harness.clear();
                }
            }
        }
    }
    // A micro-batch of a batch that has more scored elements; their number is arbitrary.
    for every in [0, 1, 3] {
        let op = of(harness, (7, 1), Gap::None, Gradient::Apart, every, 1.0);
        let scored = Some(harness.floats_of(harness.float.accumulator(), (&[1], 0), &[29.0]));
        harness.check(SquaredError { scored, ..op }, |_, want| 2.0 * EPS * want.abs());
        harness.clear();
    }
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    of(harness, (if size == Size::Large { 9000 } else { 5 }, 3), Gap::None, Gradient::Apart, 4, 0.5).into()
}
