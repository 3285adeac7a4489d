//! Promise: a step in n micro-batches is the step of the whole batch: the same loss, the same norm and, up to rounding, the
//! same weights, step after step.

use vcycle::device;
use vcycle::model::Model;
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::model::store::Store;
use vcycle::train::learner::{Learner, OptimizerConfig, Options, StepReport};

const BATCH: usize = 4;
const TIME: usize = 8;
const STEPS: usize = 6;
const LR: f64 = 1e-2;

fn gpt() -> Gpt {
    Gpt::new(GptConfig {
        vocab: 29,
        context: TIME,
        width: 8,
        heads: 2,
        layers: 2,
        ffn: 32,
        eps: 1e-5,
        init_std: 0.3,
        dropout_embedding: 0.0,
        dropout_attention: 0.0,
        dropout_residual: 0.0,
        bos: None,
        eos: None,
        tied: true,
    })
    .expect("sizes that fit")
}

/// Trains with `micro` micro-batches a step. Returns what the steps reported, the weights of before, and those of after.
fn train(name: &str, micro: usize, eps: f64) -> (Vec<StepReport>, Vec<f64>, Vec<f64>) {
    let mut device = device::open(name, 2).expect("a device");
    let device = &mut *device;
    let model = Box::new(gpt());
    let params = Store::new(model.table().clone(), device).expect("memory");
    params.initialise(device, 5).expect("written");
    let before = device::read_floats(device, &params.flat()).expect("values");
    let optimizer = OptimizerConfig { beta1: 0.9, beta2: 0.95, eps, weight_decay: 0.1, clip: 1.0 };
    let batch = (BATCH / micro, TIME);
    let mut learner = Learner::new(device, model, params, batch, optimizer, Options::default()).expect("memory");
    let reports = (0..STEPS as i32).map(|step| {
        let ids: Vec<i32> = (0..(BATCH * TIME) as i32).map(|i| (i * i + step * 5) % 29).collect();
        let labels: Vec<i32> = ids.iter().map(|id| (id * 3 + 1) % 29).collect();
        learner.step_tokens(device, &ids, &labels, LR).expect("a step")
    });
    let reports = reports.collect();
    let after = device::read_floats(device, &learner.params.flat()).expect("values");
    (reports, before, after)
}

fn compare(device: &str, eps: f64, tolerance: f64) {
    let (whole, before, after) = train(device, 1, eps);
    let largest = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let moved = largest(&before, &after);
    assert!(moved > 1e3 * tolerance, "the weights moved by {moved:e}: the test shows nothing");
    for micro in [2, 4] {
        let (parts, _, weights) = train(device, micro, eps);
        for (step, (a, b)) in whole.iter().zip(&parts).enumerate() {
            for (what, a, b) in [("loss", a.loss, b.loss), ("norm", a.grad_norm, b.grad_norm)] {
                let error = (a - b).abs() / a.abs();
                assert!(error <= tolerance, "{device}, {micro} parts, step {step}: {what} {a} became {b}");
            }
        }
        let error = largest(&after, &weights);
        assert!(error <= tolerance, "{device}, {micro} parts: weights differ by {error:e}");
    }
}

#[test]
fn on_the_reference() {
    compare("reference", 1e-8, 1e-10);
}

/// Sums of 32 tokens' gradients in another order differ by up to 32 x 2^-24 = 2e-6 of their size, and the later steps start
/// from weights that differ. AdamW divides by what a gradient usually is: with an eps as large as the gradients, an element
/// whose gradient is all rounding is not blown up to a full step, so that weights of size 1 differ by no more than that.
#[test]
fn on_the_cpu() {
    compare("cpu", 1.0, 32.0 / (1 << 24) as f64);
}
