//! Logits, losses, hidden states and every gradient, for all families, variants and models, on both devices.

use super::operators::models;
use super::support::{FAMILIES, MODELS, Net, VARIANTS, Variant, compare_checks, devices, distance, published};
use vcycle::data::loader::batch::Field;
use vcycle::device::ops::StepState;
use vcycle::device::{self, Device};
use vcycle::model::bert::Tokens;
use vcycle::model::store::Store;
use vcycle::model::{BatchShape, Content};
use vcycle::tape::{LossOptions, Mode, Tape, Var};
use vcycle::tensor::Tensor;

pub struct Results {
    pub logits: Vec<f64>,
    pub loss: f64,
    pub hidden: Vec<Vec<f64>>,
    pub gradients: Vec<Vec<f64>>,
}

/// Writes the model's inputs to the device and declares them on the tape.
fn inputs(device: &mut dyn Device, tape: &mut Tape, net: &Net, fields: &[Field], shape: BatchShape) -> Vec<Var> {
    let mut fields = fields.iter();
    let (float, mut all) = (device.float(), Vec::new());
    for input in net.model().inputs(shape) {
        let t = device::alloc_tensor(device, input.dtype(float), &input.dims).expect("memory");
        let values = match input.content {
            Content::Fixed(values) => Field::Ints(values),
            _ => fields.next().expect("a field").clone(),
        };
        match values {
            Field::Ints(values) => device.write(&t, bytemuck::cast_slice(&values)).expect("written"),
            Field::Floats(values) => device::write_f32(device, &t, &values).expect("written"),
        }
        all.push(tape.input(t));
    }
    all
}

/// Records a forward pass with its loss. Returns the hidden states (the last one included), the logits and the loss.
fn record(t: &mut Tape, net: &Net, p: &[Var], i: &[Var]) -> (Vec<Var>, Var, Var) {
    let mut hidden = Vec::new();
    let mut keep = |t: &mut Tape, x| {
        t.keep(x);
        hidden.push(x);
    };
    let (last, logits, labels) = match net {
        Net::Gpt(gpt) => {
            let last = gpt.hidden(t, p, i[0], false, keep);
            (last, gpt.logits(t, p, last), i[1])
        }
        Net::Bert(bert) => {
            let tokens = Tokens { ids: i[0], types: i[1], mask: i[2] };
            let last = bert.hidden(t, p, tokens, false, &mut keep);
            (last, bert.logits(t, p, last), i[4])
        }
        Net::Deit(deit) => {
            let last = deit.hidden(t, p, (i[0], i[4]), false, keep);
            (last, deit.scores(t, p, last, &i[5..]).0, i[1])
        }
    };
    t.keep(last);
    hidden.push(last);
    t.keep(logits);
    let loss = t.cross_entropy(logits, labels, LossOptions::default());
    (hidden, logits, loss)
}

/// Runs one forward and backward pass, and reads all results.
pub fn run(device: &mut dyn Device, net: &Net, store: &Store, (fields, shape): &(Vec<Field>, BatchShape)) -> Results {
    let grads = Store::new(net.model().table().clone(), device).expect("memory");
    let state = StepState::tensor(device.alloc(size_of::<StepState>()).expect("memory"));
    let mut tape = Tape::new(device.float(), state);
    tape.begin(Mode::Train { accumulate: false });
    let inputs = inputs(device, &mut tape, net, fields, *shape);
    let mut vars = Vec::new();
    store.declare(&mut tape, &grads, &mut vars);
    let (hidden, logits, loss) = record(&mut tape, net, &vars, &inputs);
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
fn outputs_and_gradients_match_the_published_ones() {
    for mut device in devices() {
        for (family, name) in FAMILIES.iter().flat_map(|family| VARIANTS.map(|name| (*family, name))) {
            let variant = Variant::open(family, name);
            let batch = variant.batch("inputs.safetensors", 0);
            for (model, store) in MODELS.iter().zip(models(&variant, &mut *device)) {
                let net = variant.net_of(model);
                let ours = run(&mut *device, &net, &store, &batch);
                compare(&variant, &format!("{family}/{name}/{model} on {}", device.name()), model, &net, &ours);
            }
        }
    }
}

fn compare(variant: &Variant, what: &str, model: &str, net: &Net, ours: &Results) {
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
    for (param, gradient) in net.model().table().params.iter().zip(&ours.gradients) {
        published(param, gradient, |tensor, gradient| {
            let what = format!("{what}: gradient of {tensor}");
            match &stored {
                Some(stored) => {
                    let error = distance(gradient, &stored[tensor].1);
                    assert!(error <= tolerance, "{what} is off by {error:e}, allowed {tolerance:e}");
                }
                None => compare_checks(&what, gradient, &checks.expect("checks")["grads"][tensor], tolerance),
            }
        });
    }
}
