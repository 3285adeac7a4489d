use super::harness::{ALIGNED, EPS, Gap, Harness};
use super::{Size, Stem};
use crate::device::ops::{CrossEntropy, Mix, Op, Operation};

pub const STEMS: &[Stem] = &[Stem { name: CrossEntropy::NAME, cases, sample }];

const IGNORE: i32 = -100;

/// Creates random labels, of which every third is ignored, or all.
fn labels(harness: &mut Harness, rows: usize, vocab: usize, all_ignored: bool) -> Vec<i32> {
    let ids = harness.random.ids(rows, vocab);
    ids.iter().enumerate().map(|(i, &id)| if all_ignored || i % 3 == 1 { IGNORE } else { id }).collect()
}

/// Creates second labels and their shares. Some labels equal the first, ignored rows have a label outside of the
/// vocabulary, and some shares are 0 or 1.
fn mix(harness: &mut Harness, labels: &[i32], vocab: usize) -> Mix {
    let rows = labels.len();
    let (mut others, mut share) = (harness.random.ids(rows, vocab), harness.random.floats(rows));
    for (i, (other, share)) in others.iter_mut().zip(&mut share).enumerate() {
        match i % 5 {
            0 => *other = labels[i],
            1 => *share = 0.0,
            3 => *share = 1.0,
            _ => {}
        }
        if labels[i] == IGNORE {
            *other = vocab as i32;
        }
        *share = share.abs();
    }
    Mix {
        labels: harness.integers(&[rows], &others),
        share: harness.floats_of(harness.float.accumulator(), (&[rows], 0), &share),
    }
}

/// Where the gradient is written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Gradient {
    None,
    Apart,
    InPlace,
}

fn of(
    harness: &mut Harness,
    (rows, vocab): (usize, usize),
    gap: Gap,
    gradient: Gradient,
    all_ignored: bool,
    mixed: bool,
) -> CrossEntropy {
    let (pitch, of_gradient) = (harness.pitch(vocab, gap), harness.pitch(vocab, gap));
    let wide: Vec<f64> = harness.random.floats(rows * vocab).iter().map(|z| 6.0 * z).collect();
    let logits = harness.floats((&[rows, vocab], pitch), &wide);
    let labels = labels(harness, rows, vocab, all_ignored);
    let mix = mixed.then(|| mix(harness, &labels, vocab));
    let labels = harness.integers(&[rows], &labels);
    let dlogits = match gradient {
        Gradient::None => None,
        Gradient::Apart => Some(harness.output((&[rows, vocab], of_gradient))),
        Gradient::InPlace => Some(logits),
    };
    let (losses, loss) = (harness.accumulator_output((&[rows], 0)), harness.accumulator_output((&[1], 0)));
    let (ignore, smoothing, weight) = (IGNORE, 0.0, 1.0);
    CrossEntropy { logits, labels, mix, scored: None, losses, loss, first: 0, dlogits, ignore, smoothing, weight }
}

fn cases(harness: &mut Harness) {
    let shapes: [(usize, usize); 9] =
        [(1, 1), (1, 2), (5, 16), (4, 17), (33, 64), (7, 1001), (2, 5003), (3, 16_385), (2, 20_011)];
    // GPT-2's vocabulary.
    let full: &[_] = if harness.full() { &[(256, 50_257)] } else { &[] };
    for &(rows, vocab) in shapes.iter().chain(full) {
        for gradient in [Gradient::None, Gradient::Apart, Gradient::InPlace] {
            for (smoothing, weight, all_ignored, mixed) in
                [(0.0, 1.0, false, false), (0.1, 0.25, false, false), (0.3, 1.0, true, false), (0.2, 0.5, false, true)]
            {
                for gap in [Gap::None, Gap::Elements(5), ALIGNED] {
                    let op = of(harness, (rows, vocab), gap, gradient, all_ignored, mixed);
                    check(harness, CrossEntropy { smoothing, weight, ..op });
                }
            }
        }
    }
    // The ignored label is in the vocabulary.
    let op = of(harness, (9, 3), Gap::None, Gradient::Apart, false, false);
    let labels = harness.integers(&[9], &[0, 1, 2, 0, 1, 2, 0, 0, 1]);
    check(harness, CrossEntropy { labels, ignore: 0, ..op });
    // A micro-batch of a batch that has more scored rows; their number is arbitrary.
    for all_ignored in [false, true] {
        let op = of(harness, (9, 67), Gap::None, Gradient::Apart, all_ignored, false);
        let scored = Some(harness.floats_of(harness.float.accumulator(), (&[1], 0), &[37.0]));
        check(harness, CrossEntropy { scored, ..op });
    }
    // Only the last row is scored.
    let op = of(harness, (9, 3), Gap::None, Gradient::InPlace, true, false);
    let labels = harness.integers(&[9], &[-1, -1, -1, -1, -1, -1, -1, -1, 2]);
    check(harness, CrossEntropy { labels, ignore: -1, ..op });
    for (first, rows, all) in [(0, 3, 7), (3, 3, 7), (6, 1, 7), (5, 0, 7), (128, 70, 1100)] {
        for (smoothing, all_ignored, mixed) in
            [(0.0, false, false), (0.1, false, false), (0.0, true, false), (0.0, false, true)]
        {
            let op = strip(harness, first, rows, all, all_ignored, mixed);
            check(harness, CrossEntropy { smoothing, weight: 0.5, ..op });
        }
    }
}

/// Creates an operation on a strip of `rows` rows, starting at `first`, of a batch of `all` rows. The rows before it
/// already have their losses.
fn strip(harness: &mut Harness, first: usize, rows: usize, all: usize, all_ignored: bool, mixed: bool) -> CrossEntropy {
    let op = of(harness, (rows, 67), Gap::None, Gradient::InPlace, false, false);
    let labels = labels(harness, all, 67, all_ignored);
    let mix = mixed.then(|| mix(harness, &labels, 67));
    let labels = harness.integers(&[all], &labels);
    CrossEntropy { labels, mix, losses: harness.accumulator_input((&[all], 0)), first, ..op }
}

fn check(harness: &mut Harness, op: CrossEntropy) {
    // Differences of logits are up to 12 and round by eps / 2 of that. So a probability, and the sum of them, has an
    // error of 6 eps, plus 2 eps for the exponential. Its logarithm has the same error, plus the rounding of a loss of
    // up to 12 + ln V. The sum of V / 16 exponentials per lane adds a random walk. Mixing two logits of up to 6 takes
    // products and a sum: an error of 9 eps.
    let vocab = op.logits.width() as f64;
    let lanes = EPS * (vocab / 16.0).sqrt();
    let mixing = if op.mix.is_some() { 1.0 } else { 0.0 };
    let probability = (8.0 + 2.0 * mixing) * EPS + lanes;
    harness.check(op, |out, want| {
        let gradient = Some(*out) == op.dlogits;
        if gradient {
            probability * op.weight
        } else {
            probability + 2.0 * EPS * want.abs() + (12.0 + 9.0 * mixing) * EPS
        }
    });
    harness.clear();
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    let op =
        of(harness, if size == Size::Large { (300, 1009) } else { (4, 9) }, Gap::None, Gradient::Apart, false, true);
    CrossEntropy { smoothing: 0.1, ..op }.into()
}
