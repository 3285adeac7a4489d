//! The published 26-step V-cycle: losses to 1e-5, trained weights to 1e-4. Key biases are left out: their true gradient
//! is zero, and Adam turns rounding errors into steps (see the fixture's README).

use super::support::{FAMILIES, Variant, devices, published};
use vcycle::config::schedule::{Decay, Schedule};
use vcycle::device::{self, Device};
use vcycle::model::Model;
use vcycle::model::store::Store;
use vcycle::multilevel::{Rules, coalesce, interpolate};
use vcycle::optim::AdamW;
use vcycle::train::state::{Options, TrainState};

const OPTIMIZER: AdamW = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 };

struct Trace {
    variant: Variant,
    json: serde_json::Value,
    steps: usize,
}

impl Trace {
    /// Trains one stage and compares every step. Returns the trained weights.
    fn stage(&mut self, device: &mut dyn Device, number: usize, model: Box<dyn Model>, params: Store) -> Store {
        let stage = self.json["stages"][number].clone();
        let whole = |key: &str| stage[key].as_u64().expect("a whole number");
        let schedule = Schedule {
            base: stage["lr"].as_f64().expect("lr"),
            warmup: whole("warmup"),
            steps: whole("steps"),
            decay: Decay::Linear,
            floor: 0.0,
            cooldown: 0.0,
        };
        let shape = self.variant.batch("trace_inputs.safetensors", 0).1;
        let mut train_state =
            TrainState::new(device, model, params, shape, OPTIMIZER.clipped(1.0), Options::default()).expect("memory");
        for step in 0..schedule.steps {
            let entry = &self.json["log"][self.steps];
            let number = |key: &str| entry[key].as_f64().expect("a number");
            let lr = schedule.rate(step);
            assert!((lr - number("lr")).abs() < 1e-12, "the rate of step {step}");
            let (fields, _) = self.variant.batch("trace_inputs.safetensors", self.steps % 8);
            let report = train_state.step(device, &fields, lr).expect("a step");
            let (loss, norm) = (number("loss_f64"), number("grad_norm_f64"));
            assert!((report.loss - loss).abs() <= 1e-5, "step {}: loss {}, published {loss}", self.steps, report.loss);
            // A relative tolerance, since the norm is a sum over about 16,000 gradients.
            assert!(
                (report.grad_norm - norm).abs() <= 1e-5 * norm,
                "step {}: norm {}, published {norm}",
                self.steps,
                report.grad_norm
            );
            self.steps += 1;
        }
        train_state.finish(device).1
    }

    fn compare(&self, device: &mut dyn Device, when: &str, store: &Store) {
        for (i, param) in store.table.params.iter().enumerate() {
            let ours = device::read_floats(device, &store.tensor(i)).expect("weights");
            published(param, &ours, |name, ours| {
                let key = match ours.len() / 3 {
                    _ if name.ends_with("self.key.bias") => 0..ours.len(),
                    third if name.ends_with("c_attn.bias") || name.ends_with("qkv.bias") => third..2 * third,
                    _ => 0..0,
                };
                for sample in self.json["weights"][when][name]["samples"].as_array().expect("samples") {
                    let (at, want) = (sample[0].as_u64().expect("index") as usize, sample[1].as_f64().expect("value"));
                    let error = (ours[at] - want).abs();
                    assert!(key.contains(&at) || error <= 1e-4, "{when}: {name}[{at}] is off by {error:e}");
                }
            });
        }
    }
}

#[test]
fn the_published_v_cycle_is_reproduced() {
    for (mut device, family) in FAMILIES.iter().flat_map(|family| devices().into_iter().map(move |d| (d, *family))) {
        let variant = Variant::open(family, "strided");
        let text = std::fs::read_to_string(variant.dir.join("vcycle_trace.json")).expect("the trace");
        let (big, small) = (variant.net("big"), variant.net("small"));
        let src = variant.source(&mut *device);
        let coal = Store::new(small.model().table().clone(), &mut *device).expect("memory");
        let again = variant.net("big").boxed();
        let json = serde_json::from_str(&text).expect("the trace is JSON");
        let mut trace = Trace { variant, json, steps: 0 };
        let first = trace.stage(&mut *device, 0, big.boxed(), src);
        trace.compare(&mut *device, "after_stage1", &first);
        let rules = Rules::default();
        coalesce(&mut *device, &first, &coal, &trace.variant.scheme, &rules).expect("coalesce");
        let second = trace.stage(&mut *device, 1, small.boxed(), coal);
        trace.compare(&mut *device, "after_stage2", &second);
        interpolate(&mut *device, &first, &second, 0.5, &trace.variant.scheme, &rules).expect("interpolate");
        trace.compare(&mut *device, "interpolated", &first);
        let third = trace.stage(&mut *device, 2, again, first);
        trace.compare(&mut *device, "after_stage3", &third);
        assert_eq!(trace.steps, 26);
    }
}
