//! Functions that compilers vectorise: no branches, calls or tables. The polynomials were fitted for this file by
//! Chebyshev interpolation. The errors given below are maxima over the fitted range, measured against f64.

use crate::device::ops::Activation;

/// Evaluates a polynomial by Horner's rule. Coefficients start with the constant.
#[inline(always)]
fn horner<const N: usize>(coefficients: [f32; N], x: f32) -> f32 {
    let mut sum = coefficients[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = sum.mul_add(x, coefficients[i]);
    }
    sum
}

/// Returns e^x within 2 ulp. Arguments are clamped to -87.3 .. 88.37, so the result is never denormal or infinite.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 x 2^23: adding it leaves the nearest integer in the low bits.
    let x = x.clamp(-87.3, 88.37);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 is split into two parts; the first has so few bits that its product with n is exact.
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = horner([1.0, 1.0, 5e-1, 1.666_641_5e-1, 4.166_621_8e-2, 8.375_129e-3, 1.394_858_1e-3], r);
    // n is in the low bits of `shifted`. With the exponent bias added and shifted up to the exponent field, it becomes
    // 2^n.
    let scale = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    p * scale
}

/// Returns erf(x) within 1.1 ulp for |x| < 0.9, and within 1 ulp of 1 beyond.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    let near =
        horner([1.283_791_6e-1, -3.761_253e-1, 1.128_221_2e-1, -2.678_134e-2, 5.015_357_4e-3, -6.106_99e-4], a * a)
            .mul_add(a, a);
    let t = a.min(4.0);
    let log = horner(
        [
            -3.002_688_2e-4,
            1.130_155_1,
            6.319_562e-1,
            1.099_608e-1,
            -2.635_512e-2,
            4.736_950_6e-3,
            -5.920_927_6e-4,
            4.551_277_3e-5,
            -1.610_240_4e-6,
        ],
        t,
    );
    let far = 1.0 - exp(-log);
    (if a < 0.9 { near } else { far }).copysign(x)
}

const TANH_SLOPE: f32 = 1.595_769_2; // 2 sqrt(2 / pi)
const TANH_CUBIC: f32 = 0.044_715;

/// Returns [`Activation::GeluTanh`] of `x`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    // (1 + tanh u) / 2 is the logistic function of 2 u.
    x * logistic(TANH_SLOPE * x * (TANH_CUBIC * x).mul_add(x, 1.0))
}

/// Returns [`gelu_tanh`], with the same bits, and its derivative.
#[inline(always)]
pub fn gelu_tanh_with_grad(x: f32) -> (f32, f32) {
    let e = exp(-TANH_SLOPE * x * (TANH_CUBIC * x).mul_add(x, 1.0));
    let s = 1.0 / (1.0 + e);
    let slope = TANH_SLOPE * (3.0 * TANH_CUBIC * x).mul_add(x, 1.0);
    // e s equals 1 - s but without its cancellation, whose error would be magnified by x times the slope.
    (x * s, (x * slope * s).mul_add(e * s, s))
}

/// Returns [`Activation::GeluErf`] of `x`.
#[inline(always)]
pub fn gelu_erf(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Returns [`gelu_erf`], with the same bits, and its derivative.
#[inline(always)]
pub fn gelu_erf_with_grad(x: f32) -> (f32, f32) {
    let density = 0.398_942_3 * exp(-0.5 * x * x);
    let twice = 1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2);
    (0.5 * x * twice, x.mul_add(density, 0.5 * twice))
}

/// Returns tanh(x) within 2 ulp.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    tanh_with_grad(x).0
}

/// Returns [`tanh`], with the same bits, and its derivative within 6 ulp, also in the tails.
#[inline(always)]
pub fn tanh_with_grad(x: f32) -> (f32, f32) {
    let a = x.abs();
    let e = exp(-2.0 * a);
    let s = 1.0 / (1.0 + e);
    // Near zero, 1 - e suffers from cancellation, so a series is used.
    let series =
        horner([-3.333_333e-1, 1.333_330_4e-1, -5.395_925_8e-2, 2.176_891_8e-2, -8.343_945e-3, 2.292_745e-3], a * a);
    let near = (a * a * series).mul_add(a, a);
    ((if a < 0.625 { near } else { (1.0 - e) * s }).copysign(x), 4.0 * e * s * s)
}

/// The logistic function, 1 / (1 + e^-z).
#[inline(always)]
fn logistic(z: f32) -> f32 {
    1.0 / (1.0 + exp(-z))
}

// The functions below use loops instead of `for_each`. `for_each` may become a separate function that is compiled for
// the baseline CPU, without vector instructions and with a call for every fused multiply-add.

/// `out = f(z)` for a row.
#[inline(always)]
pub fn activate(kind: Activation, z: &[f32], out: &mut [f32]) {
    macro_rules! row {
        ($f:ident) => {
            for (z, o) in z.iter().zip(out) {
                *o = $f(*z);
            }
        };
    }
    match kind {
        Activation::GeluTanh => row!(gelu_tanh),
        Activation::GeluErf => row!(gelu_erf),
        Activation::Tanh => row!(tanh),
    }
}

/// `z = f(z)` for a row.
#[inline(always)]
pub fn activate_in_place(kind: Activation, z: &mut [f32]) {
    macro_rules! row {
        ($f:ident) => {
            for z in z {
                *z = $f(*z);
            }
        };
    }
    match kind {
        Activation::GeluTanh => row!(gelu_tanh),
        Activation::GeluErf => row!(gelu_erf),
        Activation::Tanh => row!(tanh),
    }
}

/// `out *= f'(pre)` for a row.
#[inline(always)]
pub fn scale_by_grad(kind: Activation, pre: &[f32], out: &mut [f32]) {
    macro_rules! row {
        ($f:ident) => {
            for (z, o) in pre.iter().zip(out) {
                *o *= $f(*z).1;
            }
        };
    }
    match kind {
        Activation::GeluTanh => row!(gelu_tanh_with_grad),
        Activation::GeluErf => row!(gelu_erf_with_grad),
        Activation::Tanh => row!(tanh_with_grad),
    }
}

/// `out *= f'(z)`, then `z = f(z)`, for a row.
#[inline(always)]
pub fn scale_by_grad_and_activate(kind: Activation, z: &mut [f32], out: &mut [f32]) {
    macro_rules! row {
        ($f:ident) => {
            for (z, o) in z.iter_mut().zip(out) {
                let (value, grad) = $f(*z);
                *o *= grad;
                *z = value;
            }
        };
    }
    match kind {
        Activation::GeluTanh => row!(gelu_tanh_with_grad),
        Activation::GeluErf => row!(gelu_erf_with_grad),
        Activation::Tanh => row!(tanh_with_grad),
    }
}

/// Number of partial results in the reductions below. It is fixed so that sums do not depend on the vector width of the
/// machine.
const LANES: usize = 16;

/// Reduces all lanes to one value by combining one half of them with the other half until one is left, as vector
/// shuffles do.
#[inline(always)]
fn across(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] = f(lanes[l], lanes[l + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Replaces every element of a row by `f` of it and returns the sum of the results, in a fixed order.
#[inline(always)]
pub fn map_sum(row: &mut [f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, rest) = row.as_chunks_mut::<LANES>();
    for block in whole {
        for l in 0..LANES {
            block[l] = f(block[l]);
            lanes[l] += block[l];
        }
    }
    let mut tail = 0.0;
    for v in rest {
        *v = f(*v);
        tail += *v;
    }
    tail + across(lanes, |a, b| a + b)
}

/// Returns the sum of `f` over a row, in a fixed order.
#[inline(always)]
pub fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for block in whole {
        for l in 0..LANES {
            lanes[l] += f(block[l]);
        }
    }
    let tail: f32 = rest.iter().map(|&v| f(v)).sum();
    tail + across(lanes, |a, b| a + b)
}

/// Returns the sum of `f` over two rows of equal length, in a fixed order.
#[inline(always)]
pub fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (wa, ra) = a.as_chunks::<LANES>();
    let (wb, rb) = b.as_chunks::<LANES>();
    for (x, y) in wa.iter().zip(wb) {
        for l in 0..LANES {
            lanes[l] += f(x[l], y[l]);
        }
    }
    let tail: f32 = ra.iter().zip(rb).map(|(&x, &y)| f(x, y)).sum();
    tail + across(lanes, |a, b| a + b)
}

/// Returns the sum of `f` over three rows of equal length, in a fixed order.
#[inline(always)]
pub fn sum3(a: &[f32], b: &[f32], c: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (wa, ra) = a.as_chunks::<LANES>();
    let (wb, rb) = b.as_chunks::<LANES>();
    let (wc, rc) = c.as_chunks::<LANES>();
    for ((x, y), z) in wa.iter().zip(wb).zip(wc) {
        for l in 0..LANES {
            lanes[l] += f(x[l], y[l], z[l]);
        }
    }
    let tail: f32 = ra.iter().zip(rb).zip(rc).map(|((&x, &y), &z)| f(x, y, z)).sum();
    tail + across(lanes, |a, b| a + b)
}

/// Returns the largest element, or -infinity for an empty row.
#[inline(always)]
pub fn max(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for block in whole {
        for l in 0..LANES {
            lanes[l] = if block[l] > lanes[l] { block[l] } else { lanes[l] };
        }
    }
    // A loop, because a fold is not inlined here.
    let mut largest = across(lanes, |a, b| if a > b { a } else { b });
    for &v in rest {
        largest = if v > largest { v } else { largest };
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the largest error of `f` over a range, in units of epsilon times the exact value.
    fn worst(range: std::ops::Range<f32>, f: impl Fn(f32) -> f32, truth: impl Fn(f64) -> f64) -> f64 {
        let n = 200_000;
        let step = (range.end - range.start) / n as f32;
        let error = |x: f32| {
            let want = truth(f64::from(x));
            (f64::from(f(x)) - want).abs() / (f64::from(f32::EPSILON) * want.abs())
        };
        (0..n).map(|i| error(range.start + step * i as f32)).fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_within_two_ulp() {
        assert!(worst(-87.3..88.37, exp, f64::exp) < 2.0);
        assert!([-1e30, -100.0, 88.4, 100.0, 1e30].into_iter().all(|x| exp(x) > 0.0 && exp(x).is_finite()));
    }

    #[test]
    fn tanh_is_within_two_ulp_and_its_derivative_within_six() {
        for reach in [1e-6, 1e-2, 1.0, 20.0, 80.0] {
            assert!(worst(-reach..reach, tanh, f64::tanh) < 2.0, "up to {reach}");
        }
        let derivative = |x: f32| tanh_with_grad(x).1;
        assert!(worst(-40.0..40.0, derivative, |x| x.cosh().powi(-2)) < 6.0);
        assert!([-1e30, -100.0, 0.0, 1e30].map(|x| tanh_with_grad(x).0) == [-1.0, -1.0, 0.0, 1.0]);
    }
}
