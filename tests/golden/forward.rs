//! Logits, losses, hidden states and every gradient, all variants and models, on both devices.

use super::operators::models;
use super::support::{MODELS, VARIANTS, Variant, compare_checks, devices, distance};
use vcycle::device::ops::StepState;
use vcycle::device::{self, Device};
use vcycle::model::Model;
use vcycle::model::gpt::Gpt;
use vcycle::model::store::Store;
use vcycle::tape::{LossOptions, Mode, Tape};
use vcycle::tensor::{DType, Tensor};

pub struct Results {
    pub logits: Vec<f64>,
    pub loss: f64,
    pub hidden: Vec<Vec<f64>>,
    pub gradients: Vec<Vec<f64>>,
}

/// Labels shifted: position t predicts token t + 1, the last one is not scored.
pub fn shifted(ids: &[i32], time: usize) -> Vec<i32> {
    (0..ids.len()).map(|i| if (i + 1).is_multiple_of(time) { -100 } else { ids[i + 1] }).collect()
}

fn upload(device: &mut dyn Device, dims: &[usize], values: &[i32]) -> Tensor {
    let t = device::alloc_tensor(device, DType::I32, dims).expect("memory");
    device.write(&t, bytemuck::cast_slice(values)).expect("written");
    t
}

/// One forward and backward pass with everything kept.
pub fn run(device: &mut dyn Device, gpt: &Gpt, store: &Store, ids: &[i32], dims: [usize; 2]) -> Results {
    let grads = Store::new(gpt.table().clone(), device).expect("memory");
    let labels = upload(device, &dims, &shifted(ids, dims[1]));
    let ids = upload(device, &dims, ids);
    let state = StepState::tensor(device.alloc(size_of::<StepState>()).expect("memory"));
    let mut tape = Tape::new(device.float(), state);
    tape.begin(Mode::Train { accumulate: false });
    let (ids, labels) = (tape.input(ids), tape.input(labels));
    let mut vars = Vec::new();
    store.declare(&mut tape, &grads, &mut vars);
    let mut hidden = Vec::new();
    let last = gpt.hidden(&mut tape, &vars, ids, false, |tape, x| {
        tape.keep(x);
        hidden.push(x);
    });
    hidden.push(last);
    tape.keep(last);
    let logits = gpt.logits(&mut tape, &vars, last);
    tape.keep(logits);
    let loss = tape.cross_entropy(logits, labels, LossOptions::default());
    tape.backward(&[loss]);
    tape.run(device).expect("a step");
    let mut read = |t: Tensor| device::read_floats(device, &t).expect("values");
    Results {
        logits: read(tape.value(logits).expect("kept")),
        loss: read(tape.value(loss).expect("kept"))[0],
        hidden: hidden.iter().map(|h| read(tape.value(*h).expect("kept"))).collect(),
        gradients: (0..vars.len()).map(|i| read(grads.tensor(i))).collect(),
    }
}

#[test]
fn outputs_and_gradients_are_the_published_ones() {
    for mut device in devices() {
        for name in VARIANTS {
            let variant = Variant::open(name);
            let ids = variant.integers("inputs.safetensors", "input_ids");
            for (model, store) in MODELS.iter().zip(models(&variant, &mut *device)) {
                let gpt = variant.gpt_of(model);
                let ours = run(&mut *device, &gpt, &store, &ids, [2, 16]);
                compare(&variant, &format!("{name}/{model} on {}", device.name()), model, &gpt, &ours);
            }
        }
    }
}

fn compare(variant: &Variant, what: &str, model: &str, gpt: &Gpt, ours: &Results) {
    let noise = &variant.meta["f32_vs_f64"][model];
    let floor = |key: &str| (10.0 * noise[key].as_f64().expect("a distance")).max(1e-6);
    let out = variant.tensors(&format!("{model}.out.safetensors")).expect("outputs");
    let error = distance(&ours.logits, &out["logits"].1);
    assert!(error <= 2e-5, "{what}: logits are off by {error:e}");
    assert!((ours.loss - f64::from(out["loss"].1[0])).abs() <= 1e-5, "{what}: loss {}", ours.loss);
    let checks = variant.checks.as_ref().map(|c| &c[model]);
    for (k, hidden) in ours.hidden.iter().enumerate() {
        let key = format!("hidden.{k}");
        let tolerance = noise["hidden_max_abs_diff"].as_f64().map_or(1e-5, |d| (10.0 * d).max(1e-6));
        match out.get(&key) {
            Some(stored) => {
                let error = distance(hidden, &stored.1);
                assert!(error <= tolerance, "{what}: {key} is off by {error:e}");
            }
            None => {
                compare_checks(&format!("{what} {key}"), hidden, &checks.expect("checks")["hidden"][&key], tolerance)
            }
        }
    }
    let stored = variant.tensors(&format!("{model}.grad.safetensors"));
    let tolerance = floor("grad_max_abs_diff");
    for (param, gradient) in gpt.table().params.iter().zip(&ours.gradients) {
        let what = format!("{what}: gradient of {}", param.name());
        match &stored {
            Some(stored) => {
                let error = distance(gradient, &stored[&param.name()].1);
                assert!(error <= tolerance, "{what} is off by {error:e}, allowed {tolerance:e}");
            }
            None => compare_checks(&what, gradient, &checks.expect("checks")["grads"][param.name()], tolerance),
        }
    }
}
