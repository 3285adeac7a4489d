use super::Size;
use super::lab::{EPS, Lab};
use crate::device::ops::{CrossEntropy, Op};
use crate::tensor::Tensor;

const IGNORE: i32 = -100;

/// Labels of which every third is ignored, or all.
fn labels(lab: &mut Lab, rows: usize, vocab: usize, all_ignored: bool) -> Tensor {
    let ids = lab.random.ids(rows, vocab);
    let mixed: Vec<i32> =
        ids.iter().enumerate().map(|(i, &id)| if all_ignored || i % 3 == 1 { IGNORE } else { id }).collect();
    lab.integers(&[rows], &mixed)
}

/// What becomes of the gradient.
#[derive(Clone, Copy, PartialEq)]
enum Gradient {
    None,
    Apart,
    InPlace,
}

fn of(
    lab: &mut Lab,
    (rows, vocab): (usize, usize),
    pitch: usize,
    gradient: Gradient,
    all_ignored: bool,
) -> CrossEntropy {
    let wide: Vec<f64> = lab.random.floats(rows * vocab).iter().map(|z| 6.0 * z).collect();
    let logits = lab.floats((&[rows, vocab], pitch), &wide);
    let labels = labels(lab, rows, vocab, all_ignored);
    let dlogits = match gradient {
        Gradient::None => None,
        Gradient::Apart => Some(lab.output((&[rows, vocab], 0))),
        Gradient::InPlace => Some(logits),
    };
    let (losses, loss) = (lab.wide_output((&[rows], 0)), lab.wide_output((&[1], 0)));
    CrossEntropy { logits, labels, losses, loss, first: 0, dlogits, ignore: IGNORE, smoothing: 0.0, weight: 1.0 }
}

pub fn cases(lab: &mut Lab) {
    let shapes: [(usize, usize); 9] =
        [(1, 1), (1, 2), (5, 16), (4, 17), (33, 64), (7, 1001), (2, 5003), (3, 16_385), (2, 20_011)];
    // GPT-2's vocabulary.
    let full: &[_] = if lab.full() { &[(256, 50_257)] } else { &[] };
    for &(rows, vocab) in shapes.iter().chain(full) {
        for gradient in [Gradient::None, Gradient::Apart, Gradient::InPlace] {
            for (smoothing, weight, all_ignored) in [(0.0, 1.0, false), (0.1, 0.25, false), (0.3, 1.0, true)] {
                for pitch in [0, vocab + 5, vocab.next_multiple_of(8)] {
                    let op = of(lab, (rows, vocab), pitch, gradient, all_ignored);
                    check(lab, CrossEntropy { smoothing, weight, ..op });
                }
            }
        }
    }
    // A label that is ignored although the vocabulary has it.
    let op = of(lab, (9, 3), 0, Gradient::Apart, false);
    let labels = lab.integers(&[9], &[0, 1, 2, 0, 1, 2, 0, 0, 1]);
    check(lab, CrossEntropy { labels, ignore: 0, ..op });
    // Only the last row is scored.
    let op = of(lab, (9, 3), 0, Gradient::InPlace, true);
    let labels = lab.integers(&[9], &[-1, -1, -1, -1, -1, -1, -1, -1, 2]);
    check(lab, CrossEntropy { labels, ignore: -1, ..op });
    for (first, rows, all) in [(0, 3, 7), (3, 3, 7), (6, 1, 7), (5, 0, 7), (128, 70, 1100)] {
        for (smoothing, all_ignored) in [(0.0, false), (0.1, false), (0.0, true)] {
            let op = strip(lab, first, rows, all, all_ignored);
            check(lab, CrossEntropy { smoothing, weight: 0.5, ..op });
        }
    }
}

/// A strip of more rows, of which those before it have their losses.
fn strip(lab: &mut Lab, first: usize, rows: usize, all: usize, all_ignored: bool) -> CrossEntropy {
    let op = of(lab, (rows, 67), 0, Gradient::InPlace, false);
    let labels = labels(lab, all, 67, all_ignored);
    CrossEntropy { labels, losses: lab.wide_input((&[all], 0)), first, ..op }
}

fn check(lab: &mut Lab, op: CrossEntropy) {
    // Differences of logits are up to 12 and round by eps / 2 of that: a probability, and the sum of them, is off by 6 eps and
    // 2 units for the exponential; its logarithm by as much, beside the rounding of a loss of up to 12 + ln V. The sum of
    // V / 16 exponentials per lane walks randomly.
    let vocab = op.logits.width as f64;
    let lanes = EPS * (vocab / 16.0).sqrt();
    let probability = 8.0 * EPS + lanes;
    lab.check(op, |out, want| {
        let gradient = Some(*out) == op.dlogits;
        if gradient { probability * op.weight } else { probability + 2.0 * EPS * want.abs() + 12.0 * EPS }
    });
    lab.clear();
}

pub fn sample(lab: &mut Lab, size: Size) -> Op {
    let op = of(lab, if size == Size::Large { (300, 1009) } else { (4, 9) }, 0, Gradient::Apart, false);
    CrossEntropy { smoothing: 0.1, ..op }.into()
}
