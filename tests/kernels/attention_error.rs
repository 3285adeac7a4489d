//! Promise of attention in bf16: the largest error of every output, compared with f64, is at most twice that of a
//! simple implementation in bf16 that rounds scores, probabilities and their gradients to bf16 between its matrix
//! products.

use half::bf16;
use vcycle::device::cuda::driver::emulator::Options;
use vcycle::device::cuda::variants::{Variant, variants_of};
use vcycle::device::ops::{Attention, AttentionBackward, Op};
use vcycle::device::reference::Reference;
use vcycle::device::{Device, alloc_tensor, cuda, read_floats, write_floats};
use vcycle::parity::random::Random;
use vcycle::tensor::{DType, Tensor};

/// A case, with batch size 1.
#[derive(Clone, Copy, Debug)]
struct Shape {
    tq: usize,
    tk: usize,
    heads: usize,
    d: usize,
    causal: bool,
    /// Scale of the numbers in q and k. With a larger one, a few probabilities of a row have all the weight.
    spread: f64,
}

const SHAPES: [Shape; 7] = [
    Shape { tq: 128, tk: 128, heads: 2, d: 64, causal: true, spread: 1.0 },
    Shape { tq: 128, tk: 128, heads: 2, d: 64, causal: false, spread: 1.0 },
    Shape { tq: 197, tk: 197, heads: 1, d: 64, causal: false, spread: 2.5 },
    Shape { tq: 70, tk: 150, heads: 2, d: 32, causal: true, spread: 1.5 },
    Shape { tq: 65, tk: 65, heads: 1, d: 80, causal: true, spread: 2.5 },
    Shape { tq: 33, tk: 130, heads: 1, d: 96, causal: false, spread: 1.0 },
    Shape { tq: 64, tk: 64, heads: 1, d: 128, causal: true, spread: 1.0 },
];

/// q, k, v, dout as `[T, H, D]`.
type Inputs = [Vec<f64>; 4];
/// out, dq, dk, dv.
type Outputs = [Vec<f64>; 4];

const NAMES: [&str; 4] = ["out", "dq", "dk", "dv"];

fn rounded(x: f32) -> f32 {
    bf16::from_f32(x).to_f32()
}

/// Numbers from an approximate normal distribution, rounded to bf16.
fn inputs(random: &mut Random, shape: Shape) -> Inputs {
    let Shape { tq, tk, heads, d, spread, .. } = shape;
    [(tq, spread), (tk, spread), (tk, 1.0), (tq, 1.0)].map(|(time, spread)| {
        let mut number = || bf16::from_f64(spread * (random.float() + random.float() + random.float())).to_f64();
        (0..time * heads * d).map(|_| number()).collect()
    })
}

fn scale(shape: Shape) -> f64 {
    1.0 / (shape.d as f64).sqrt()
}

/// Runs both operations on a device.
fn on_device(device: &mut dyn Device, dtype: DType, shape: Shape, inputs: &Inputs) -> Outputs {
    let Shape { tq, tk, heads, d, causal, .. } = shape;
    let mut tensor = |dtype: DType, dims: &[usize]| alloc_tensor(device, dtype, dims).expect("memory for a test");
    let [q, k, v, dout] = [tq, tk, tk, tq].map(|time| tensor(dtype, &[1, time, heads, d]));
    let [out, dq, dk, dv] = [tq, tq, tk, tk].map(|time| tensor(dtype, &[1, time, heads, d]));
    let [lse, delta] = [(); 2].map(|()| tensor(dtype.accumulator(), &[1, heads, tq]));
    for (t, values) in [q, k, v, dout].iter().zip(inputs) {
        write_floats(device, t, values).expect("values for a tensor");
    }
    let forward = Attention { q, k, v, out, lse, key_mask: None, causal, scale: scale(shape), dropout: None };
    let backward = AttentionBackward { forward, dout, dq, dk, dv, delta };
    for op in [Op::from(forward), Op::from(backward)] {
        device.run(&op).expect("an operation of this test");
    }
    [out, dq, dk, dv].map(|t: Tensor| read_floats(device, &t).expect("an output"))
}

/// The simple implementation: sums in f32, and every result is rounded to bf16.
fn plain(shape: Shape, inputs: &Inputs) -> Outputs {
    let Shape { tq, tk, heads, d, causal, .. } = shape;
    let [q, k, v, dout] = inputs;
    let scale = scale(shape) as f32;
    let at = |x: &[f64], t: usize, h: usize, e: usize| x[(t * heads + h) * d + e] as f32;
    let mut outputs = [tq, tq, tk, tk].map(|time| vec![0.0; time * heads * d]);
    for h in 0..heads {
        let product = |x: &[f64], i: usize, y: &[f64], j: usize| -> f32 {
            rounded((0..d).map(|e| at(x, i, h, e) * at(y, j, h, e)).sum())
        };
        let (mut p, mut ds) = (vec![vec![0.0f32; tk]; tq], vec![vec![0.0f32; tk]; tq]);
        for i in 0..tq {
            let visible = if causal { i + 1 + tk - tq } else { tk };
            let scores: Vec<f32> = (0..visible)
                .map(|j| rounded((0..d).map(|e| at(q, i, h, e) * at(k, j, h, e)).sum::<f32>() * scale))
                .collect();
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = scores.iter().map(|s| (s - largest).exp()).sum();
            for (j, s) in scores.iter().enumerate() {
                p[i][j] = rounded((s - largest).exp() / total);
            }
            let dp: Vec<f32> = (0..visible).map(|j| product(dout, i, v, j)).collect();
            let delta: f32 = (0..visible).map(|j| p[i][j] * dp[j]).sum();
            for j in 0..visible {
                ds[i][j] = rounded(p[i][j] * (dp[j] - delta));
            }
        }
        let mut put = |number: usize, t: usize, e: usize, x: f32| {
            outputs[number][(t * heads + h) * d + e] = f64::from(rounded(x));
        };
        for e in 0..d {
            for i in 0..tq {
                put(0, i, e, (0..tk).map(|j| p[i][j] * at(v, j, h, e)).sum());
                put(1, i, e, (0..tk).map(|j| ds[i][j] * at(k, j, h, e)).sum::<f32>() * scale);
            }
            for j in 0..tk {
                put(2, j, e, (0..tq).map(|i| ds[i][j] * at(q, i, h, e)).sum::<f32>() * scale);
                put(3, j, e, (0..tq).map(|i| p[i][j] * at(dout, i, h, e)).sum());
            }
        }
    }
    outputs
}

fn largest(x: impl Iterator<Item = f64>) -> f64 {
    x.fold(0.0, |a, b| if b.is_nan() { f64::INFINITY } else { a.max(b.abs()) })
}

fn error(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    largest(got.iter().zip(want).map(|(a, b)| a - b))
}

/// Checks the variants of this name of both operations.
fn check_errors(name: &str) {
    let variants: Vec<&Variant> =
        ["attention", "attention_backward"].iter().filter_map(|op| variants_of(op).find(|v| v.name == name)).collect();
    assert_eq!(variants.len(), 2, "variants {name}");
    let mut random = Random::new(0xbf16);
    for shape in SHAPES {
        let inputs = inputs(&mut random, shape);
        let want = on_device(&mut Reference::default(), DType::F64, shape, &inputs);
        let plain = plain(shape, &inputs);
        let mut device = cuda::emulated(Options::default());
        variants.iter().for_each(|v| device.prefer(v));
        let got = on_device(&mut device, DType::BF16, shape, &inputs);
        for (number, what) in NAMES.iter().enumerate() {
            let (ours, theirs) = (error(&got[number], &want[number]), error(&plain[number], &want[number]));
            if std::env::var_os("VCYCLE_TOLERANCES").is_some() {
                println!("{name} {what}: {ours:.2e}, simple {theirs:.2e}, ratio {:.2}, {shape:?}", ours / theirs);
            }
            // Sums in f32 of terms of this size in another order differ by a few ulp.
            let order = 8.0 * f64::from(f32::EPSILON) * largest(want[number].iter().copied());
            assert!(
                ours <= 2.0 * theirs + order,
                "{name}: {what} is off by {ours:e}, the simple implementation by {theirs:e}: {shape:?}"
            );
        }
    }
}

#[test]
fn attention_errs_little_more_than_plain_bf16_naive() {
    check_errors("naive");
}

#[test]
fn attention_errs_little_more_than_plain_bf16_flash() {
    check_errors("flash");
}
