use super::harness::{EPS, Harness};
use super::{Size, Stem};
use crate::device::ops::{ALIGN, AdamW, Op, Operation, StepState};
use crate::tensor::Tensor;

pub const STEMS: &[Stem] = &[Stem { name: AdamW::NAME, cases, sample }];

/// Creates an update. `clip` is the maximum norm as a fraction of the gradients' norm.
fn of(harness: &mut Harness, blocks: usize, clip: f64, step: i32) -> AdamW {
    let (n, wide) = (blocks * ALIGN, harness.float.accumulator());
    let params = harness.accumulator_input((&[n], 0));
    let grads = harness.accumulator_input((&[n], 0));
    let m = harness.accumulator_input((&[n], 0));
    // Second moments are means of squares. They are at least 0.01, so that a step is at most ten times the learning
    // rate.
    let squares: Vec<f64> = harness.random.floats(n).iter().map(|x| x * x + 0.01).collect();
    let v = harness.floats_of(wide, (&[n], 0), &squares);
    let decays: Vec<u8> = harness.random.ids(blocks, 2).iter().map(|&b| b as u8).collect();
    let decay_mask = harness.bytes(&decays);
    let norm = harness.floats_of(wide, (&[1], 0), &[3.7]);
    let (beta1, beta2) = (0.9, 0.999);
    let state = harness.state(&StepState {
        lr: 1e-2,
        bias1: (1.0 - f64::powi(beta1, step)) as f32,
        bias2: (1.0 - f64::powi(beta2, step)) as f32,
        ..StepState::default()
    });
    let max_norm = 3.7 * clip;
    // In bf16, the rounded copy of the parameters that the model computes with.
    let copy = (harness.float != wide).then(|| harness.output((&[n], 0)));
    AdamW { params, grads, m, v, copy, decay_mask, norm, state, beta1, beta2, eps: 1e-8, weight_decay: 0.07, max_norm }
}

fn cases(harness: &mut Harness) {
    // 257 blocks: one more than `cpu` processes in a chunk.
    let blocks: &[usize] = if harness.full() { &[1, 2, 3, 257, 200_000] } else { &[1, 2, 3, 257] };
    for &blocks in blocks {
        for (clip, step) in [(f64::INFINITY, 1), (f64::INFINITY, 1000), (2.0, 10), (0.3, 10)] {
            let op = of(harness, blocks, clip, step);
            // All moments are below 1.01: one rounding each for the clipped gradient, its products and the sum. The
            // parameter's step is lr / bias1 m / sqrt(v / bias2), which takes ten roundings of a number below
            // lr / bias1 x 1 / 0.1.
            let largest = 1e-2 / (1.0 - f64::powi(0.9, step)) * 10.0;
            let step = 10.0 * EPS * largest;
            let of_params = |out: &Tensor| *out == op.params || Some(*out) == op.copy;
            harness.check(op, |out, want| if of_params(out) { 2.0 * EPS * want.abs() + step } else { 4.0 * EPS });
            harness.clear();
        }
    }
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    of(harness, if size == Size::Large { 3000 } else { 2 }, 0.5, 7).into()
}
