use super::Size;
use super::harness::{EPS, Gap, Lab, WHOLE};
use crate::device::ops::{Activation, ActivationBackward, Op};

pub fn cases(lab: &mut Lab) {
    for kind in [Activation::GeluTanh, Activation::GeluErf, Activation::Tanh] {
        for (rows, width) in [(1, 1), (1, 7), (5, 16), (3, 65), (40, 513), (1, 8), (2, 4104)] {
            for (gap, other, in_place) in [
                (Gap::None, Gap::None, false),
                (Gap::None, Gap::None, true),
                (Gap::Elements(3), Gap::None, true),
                (Gap::Elements(3), Gap::Elements(3), false),
                (WHOLE, Gap::None, false),
                (WHOLE, Gap::None, true),
                (WHOLE, WHOLE, false),
            ] {
                let dims = &[rows, width];
                let pitch = lab.pitch(width, gap);
                let dout = lab.input((dims, pitch));
                // Both tails: the derivative is flat beyond 5, and the exponential inside saturates beyond 10.
                let reach = if in_place { 8.0 } else { 60.0 };
                let wide: Vec<f64> = lab.random.floats(rows * width).iter().map(|x| reach * x).collect();
                let pitch = lab.pitch(width, if in_place { other } else { gap });
                let pre = lab.floats((dims, pitch), &wide);
                let pitch = lab.pitch(width, other);
                let dx = if in_place { dout } else { lab.output((dims, pitch)) };
                // |dout| <= 1 and |f'| < 1.13; a unit each for the polynomial, exponential, quotient, two products and sums,
                // of terms up to x f''(x) < 1.
                lab.check(ActivationBackward { kind, dout, pre, dx }, |_, _| 8.0 * EPS);
                lab.clear();
            }
        }
    }
}

pub fn sample(lab: &mut Lab, size: Size) -> Op {
    let dims = &[if size == Size::Large { 700 } else { 3 }, 130];
    let (dout, pre) = (lab.input((dims, 0)), lab.input((dims, 136)));
    ActivationBackward { kind: Activation::GeluTanh, dout, pre, dx: lab.output((dims, 131)) }.into()
}
