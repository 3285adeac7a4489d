use super::harness::{ALIGNED, EPS, Gap, Harness, dot};
use super::{Size, Stem};
use crate::device::ops::{LayerNorm, LayerNormBackward, Op, Operation};
use crate::tensor::{DType, Tensor};

pub const STEMS: &[Stem] = &[
    Stem { name: LayerNorm::NAME, cases, sample },
    Stem { name: LayerNormBackward::NAME, cases: cases_backward, sample: sample_backward },
];

const SHAPES: [(usize, usize); 9] = [(1, 1), (3, 2), (5, 3), (1, 16), (2, 17), (33, 64), (7, 97), (65, 130), (31, 768)];

/// The largest widths for which a kernel can hold a row in registers, and slightly larger ones.
const WIDE: [(usize, usize); 11] = [
    (5, 8),
    (6, 512),
    (3, 520),
    (5, 1024),
    (3, 1032),
    (2, 2048),
    (2, 2056),
    (2, 4096),
    (2, 4104),
    (1, 8192),
    (1, 8200),
];

/// Where the sum with the residual is written.
#[derive(Clone, Copy, PartialEq)]
enum Sum {
    None,
    Apart,
    InPlace,
}

fn of(harness: &mut Harness, (rows, width): (usize, usize), gap: Gap, how: Sum, offset: f64) -> LayerNorm {
    let dims = &[rows, width];
    let [of_x, of_residual, of_sum, of_out] = std::array::from_fn(|_| harness.pitch(width, gap));
    // In bf16, the sum is rounded before it is normalised, which the reference does not do. So use sums that bf16
    // represents exactly.
    let step = match harness.float {
        DType::BF16 if how != Sum::None && offset > 0.0 => 0.5,
        DType::BF16 if how != Sum::None => 1.0 / 16.0,
        _ => 0.0,
    };
    let on_grid = |x: &f64| if step > 0.0 { (x / step).round() * step } else { *x };
    let values: Vec<f64> = harness.random.floats(rows * width).iter().map(|x| on_grid(x) + offset).collect();
    let x = harness.floats((dims, of_x), &values);
    let others: Vec<f64> = harness.random.floats(rows * width).iter().map(on_grid).collect();
    let residual = (how != Sum::None).then(|| harness.floats((dims, of_residual), &others));
    let sum = match how {
        Sum::None => None,
        Sum::Apart => Some(harness.output((dims, of_sum))),
        Sum::InPlace => residual,
    };
    let (weight, bias) = (harness.input((&[width], 0)), harness.input((&[width], 0)));
    let (out, mean, rstd) = (
        harness.output((dims, of_out)),
        harness.accumulator_output((&[rows], 0)),
        harness.accumulator_output((&[rows], 0)),
    );
    LayerNorm { x, residual, sum, weight, bias, out, mean, rstd, eps: 1e-5 }
}

/// Returns an upper bound of 1 / standard deviation: a few numbers may happen to be equal, many cannot.
fn rstd_of(width: usize) -> f64 {
    if width < 16 { 1e-5f64.sqrt().recip() } else { 4.0 }
}

/// Shapes of GPT-2 and of BERT-Large.
const FULL: [(usize, usize); 2] = [(2048, 768), (1024, 1024)];

/// Returns the shapes to run.
fn shapes(harness: &Harness) -> Vec<(usize, usize)> {
    [&SHAPES[..], &WIDE, if harness.full() { &FULL } else { &[] }].concat()
}

fn cases(harness: &mut Harness) {
    for (rows, width) in shapes(harness) {
        for how in [Sum::None, Sum::Apart, Sum::InPlace] {
            for (gap, offset) in [(Gap::None, 0.0), (Gap::Elements(3), 0.0), (ALIGNED, 0.0), (Gap::None, 64.0)] {
                let op = of(harness, (rows, width), gap, how, offset);
                // Values are up to 2 + offset. They, and their mean over width / 16 steps of 16 lanes, round by eps / 2
                // of that each, and rstd magnifies the error of the difference. The rest is relative to h, which is at
                // most sqrt(width).
                let value = EPS * (2.0 + offset) * (2.0 + (width as f64 / 16.0).sqrt());
                let (rstd, h) = (rstd_of(width), (width as f64).sqrt());
                let difference = rstd * value;
                harness.check(op, |out, want| match *out {
                    out if out == op.mean || Some(out) == op.sum => value,
                    // d rstd = rstd^3 |x - mean| dx
                    out if out == op.rstd => want * (2.0 * difference * h + 8.0 * EPS),
                    _ => (difference + 8.0 * EPS * (h + 1.0)) * (1.0 + h),
                });
                harness.clear();
            }
        }
    }
}

fn backward(harness: &mut Harness, (rows, width): (usize, usize), gap: Gap, add: (bool, bool)) -> LayerNormBackward {
    let forward = of(harness, (rows, width), gap, Sum::None, 0.0);
    harness.prepare(forward);
    let LayerNorm { x, weight, mean, rstd, .. } = forward;
    let (of_dx, of_dout) = (harness.pitch(width, gap), harness.pitch(width, gap));
    let mut target = |dtype: DType, dims: &[usize], pitch: usize, add: bool| -> Tensor {
        if add { harness.input_of(dtype, (dims, pitch)) } else { harness.output_of(dtype, (dims, pitch)) }
    };
    let (dims, float, wide) = (&[rows, width], x.dtype(), x.dtype().accumulator());
    let dx = target(float, dims, of_dx, add.0);
    let (dweight, dbias) = (target(wide, &[width], 0, add.1), target(wide, &[width], 0, add.1));
    let dout = harness.input((dims, of_dout));
    let partials = harness.accumulator_output((&[LayerNormBackward::partials(rows), 2 * width], 0));
    let (accumulate_dx, accumulate) = add;
    LayerNormBackward { dout, x, weight, mean, rstd, dx, accumulate_dx, dweight, dbias, accumulate, partials }
}

fn cases_backward(harness: &mut Harness) {
    // 2100 rows: more than 64 blocks of 32 rows, so blocks get larger.
    for (rows, width) in shapes(harness).into_iter().chain([(32, 5), (2100, 6), (2100, 8)]) {
        for (gap, add) in [
            (Gap::None, (false, false)),
            (Gap::Elements(3), (true, false)),
            (ALIGNED, (true, false)),
            (Gap::None, (false, true)),
            (Gap::Elements(5), (true, true)),
            (ALIGNED, (true, true)),
        ] {
            let op = backward(harness, (rows, width), gap, add);
            // h = (x - mean) rstd rounds twice and is at most sqrt(width), and so are its products with |dout| <= 1.
            let (rstd, h) = (rstd_of(width), (width as f64).sqrt());
            let column = dot(rows) * h;
            // Two means over the row of numbers up to h, then a difference of three such numbers, times rstd.
            let element = 8.0 * EPS * rstd * (1.0 + h) * h;
            harness.check(op, |out, _| if *out == op.dx { element + 2.0 * EPS } else { column });
            harness.clear();
        }
    }
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    let shape = if size == Size::Large { (500, 201) } else { (3, 5) };
    of(harness, shape, Gap::None, Sum::Apart, 0.0).into()
}

fn sample_backward(harness: &mut Harness, size: Size) -> Op {
    let shape = if size == Size::Large { (500, 201) } else { (3, 5) };
    backward(harness, shape, Gap::None, (true, true)).into()
}

#[cfg(all(test, emulated))]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::device::cuda;
    use crate::device::cuda::driver::emulator::Options;
    use crate::device::cuda::variants::variants_of;
    use crate::parity::harness::{Choice, Harness};

    /// The backward pass uses the mean, the rstd and the sum as rounded to bf16, so the mean must be that of the
    /// rounded sum.
    #[test]
    fn the_saved_mean_is_that_of_the_rounded_sum() {
        for variant in variants_of("layernorm") {
            let mut device = cuda::emulated(Options::default());
            device.prefer(variant);
            let mut harness = Harness::new(vec![Box::new(device) as Box<dyn Device>], Choice::ALL);
            harness.float = DType::BF16;
            let (rows, width) = (4, 24);
            let dims = &[rows, width];
            let (x, residual) = (harness.input((dims, 0)), harness.input((dims, 0)));
            let op = LayerNorm {
                x,
                residual: Some(residual),
                sum: Some(harness.output((dims, 0))),
                ..of(&mut harness, (rows, width), Gap::None, Sum::Apart, 0.0)
            };
            harness.prepare(op);
            let (sum, mean) = (harness.values(&op.sum.expect("given")), harness.values(&op.mean));
            harness.finish().expect("a layernorm in bf16");
            for (row, mean) in sum.chunks(width).zip(mean) {
                let want = row.iter().sum::<f64>() / width as f64;
                // Rounding to bf16 would move the mean a hundred times farther than the additions do.
                assert!((mean - want).abs() < 24.0 * EPS, "{}: a mean of {mean}, not {want}", variant.name);
            }
        }
    }
}
