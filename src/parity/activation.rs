use super::harness::{ALIGNED, EPS, Gap, Harness};
use super::{Size, Stem};
use crate::device::ops::{Activation, ActivationBackward, Op, Operation};

pub const STEMS: &[Stem] = &[Stem { name: ActivationBackward::NAME, cases, sample }];

fn cases(harness: &mut Harness) {
    for kind in [Activation::GeluTanh, Activation::GeluErf, Activation::Tanh] {
        for (rows, width) in [(1, 1), (1, 7), (5, 16), (3, 65), (40, 513), (1, 8), (2, 4104)] {
            for (gap, other, in_place) in [
                (Gap::None, Gap::None, false),
                (Gap::None, Gap::None, true),
                (Gap::Elements(3), Gap::None, true),
                (Gap::Elements(3), Gap::Elements(3), false),
                (ALIGNED, Gap::None, false),
                (ALIGNED, Gap::None, true),
                (ALIGNED, ALIGNED, false),
            ] {
                let dims = &[rows, width];
                let pitch = harness.pitch(width, gap);
                let dout = harness.input((dims, pitch));
                // Cover both tails: the derivative is flat beyond 5, and the exponential inside saturates beyond 10.
                let reach = if in_place { 8.0 } else { 60.0 };
                let wide: Vec<f64> = harness.random.floats(rows * width).iter().map(|x| reach * x).collect();
                let pitch = harness.pitch(width, if in_place { other } else { gap });
                let pre = harness.floats((dims, pitch), &wide);
                let pitch = harness.pitch(width, other);
                let dx = if in_place { dout } else { harness.output((dims, pitch)) };
                // |dout| <= 1, |f'| < 1.13. One eps each for the polynomial, exponential, quotient, two products and
                // sums, of terms up to x f''(x) < 1.
                harness.check(ActivationBackward { kind, dout, pre, dx }, |_, _| 8.0 * EPS);
                harness.clear();
            }
        }
    }
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    let dims = &[if size == Size::Large { 700 } else { 3 }, 130];
    let (dout, pre) = (harness.input((dims, 0)), harness.input((dims, 136)));
    ActivationBackward { kind: Activation::GeluTanh, dout, pre, dx: harness.output((dims, 131)) }.into()
}
