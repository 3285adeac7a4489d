//! Steps in bf16 match those in f32: the gradient of every parameter, and every loss of a V-cycle. Devices without bf16
//! reject it.

#[cfg(emulated)]
mod gradients {
    use vcycle::config::Precision;
    use vcycle::device::cpu::Cpu;
    use vcycle::device::cuda;
    use vcycle::device::cuda::driver::emulator::Options as Schedule;
    use vcycle::device::ops::StepState;
    use vcycle::device::{Device, alloc_tensor, read_f32, read_scalar, write_floats};
    use vcycle::model::Model;
    use vcycle::model::gpt::{Gpt, GptConfig};
    use vcycle::model::store::Store;
    use vcycle::optim::AdamW;
    use vcycle::parity::random::Random;
    use vcycle::tape::{LossOptions, Mode, Tape};
    use vcycle::tensor::DType;
    use vcycle::train::state::{Options, TrainState};

    /// A model like level 1 of configs/gpt-tiny.toml, with head sizes and a context that no tile size divides.
    fn gpt(heads: usize, head: usize, dropout: f32) -> Gpt {
        Gpt::new(GptConfig {
            vocab: 61,
            context: 37,
            width: heads * head,
            heads,
            layers: 3,
            ffn: 4 * heads * head,
            eps: 1e-5,
            init_std: 0.08,
            dropout_embedding: dropout,
            dropout_attention: dropout,
            dropout_residual: dropout,
            bos: None,
            eos: None,
            tied: true,
        })
        .expect("sizes that fit")
    }

    /// Returns the loss and the gradients of one step.
    fn step(device: &mut dyn Device, gpt: Gpt, precision: Precision) -> (f64, Vec<Vec<f32>>) {
        let params = Store::new(gpt.table().clone(), device).expect("memory");
        params.initialise(device, 7).expect("written");
        let optimizer = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }.clipped(1.0);
        let options = Options { seed: 3, precision, ..Options::default() };
        let mut train_state =
            TrainState::new(device, Box::new(gpt), params, (3, 37), optimizer, options).expect("memory");
        let tokens = |add: i32| (0..111).map(|i| (i * i + 5 * i + add) % 61).collect::<Vec<i32>>();
        let report = train_state.step_tokens(device, &tokens(0), &tokens(3), 1e-3).expect("a step");
        let count = train_state.grads().table.params.len();
        let gradients = (0..count).map(|i| read_f32(device, &train_state.grads().tensor(i)).expect("a gradient"));
        (report.loss, gradients.collect())
    }

    /// Returns the loss, and the gradients of x `[40, 16]` and of a head `[11, 16]`, over two identical micro-batches.
    /// The head is computed in strips of `strip` rows, on all rows of x or, if `taken`, on 40 rows gathered from it
    /// with repetitions.
    fn head(device: &mut dyn Device, float: DType, strip: usize, taken: bool) -> (f64, Vec<Vec<f32>>) {
        let state = StepState::tensor(device.alloc(size_of::<StepState>()).expect("memory"));
        let mut random = Random::new(8);
        let [x, w] = [[40, 16], [11, 16]].map(|dims| {
            // Values that are exact in bf16.
            let values =
                random.floats(dims[0] * dims[1]).iter().map(|v| (v * 64.0).round() / 128.0).collect::<Vec<_>>();
            let value = alloc_tensor(device, float, &dims).expect("memory");
            write_floats(device, &value, &values).expect("written");
            (value, alloc_tensor(device, DType::F32, &dims).expect("memory"))
        });
        let labels = alloc_tensor(device, DType::I32, &[40]).expect("memory");
        device.write(&labels, bytemuck::cast_slice(&random.ids(40, 11))).expect("written");
        let numbers = alloc_tensor(device, DType::I32, &[2, 20]).expect("memory");
        device.write(&numbers, bytemuck::cast_slice(&random.ids(40, 40))).expect("written");
        let mut tape = Tape::new(float, state);
        let mut total = 0.0;
        for accumulate in [false, true] {
            tape.begin(Mode::Train { accumulate });
            // A value whose gradient has the type of the step, like that of a hidden state.
            let (x, w) = (tape.param(x.0, x.1), tape.param(w.0, w.1));
            let hidden = tape.dropout(x, Some(x), 0.0);
            let (labels, numbers) = (tape.input(labels), tape.input(numbers));
            let hidden = if taken { tape.rows(hidden, numbers) } else { hidden };
            let options = LossOptions { weight: 0.5, strip, ..LossOptions::default() };
            let loss = tape.linear_cross_entropy(hidden, w, None, labels, options);
            tape.backward(&[loss]);
            tape.run(device).expect("a step");
            total += read_scalar(device, &tape.value(loss).expect("kept")).expect("a loss");
        }
        (total, [x.1, w.1].map(|g| read_f32(device, &g).expect("a gradient")).into())
    }

    /// The gradient of the head is summed over strips in f32. A strip rounds to bf16 its logits of up to 4 (by 2^-7,
    /// which changes a probability by twice that fraction), their gradients, and the gradient of x: together less than
    /// 2^-5 of the size.
    #[test]
    fn a_head_computed_in_strips_matches_f32() {
        for (strip, taken) in [(0, false), (16, false), (0, true)] {
            let (loss, expected) = head(&mut Cpu::new(2), DType::F32, 0, taken);
            let (ours, found) = head(&mut cuda::emulated(Schedule::default()), DType::BF16, strip, taken);
            assert!((ours / loss - 1.0).abs() < 1.0 / 128.0, "loss {ours} in bf16, {loss} in f32");
            for (a, b) in expected.iter().zip(&found) {
                let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
                let part = (dot(&difference, &difference) / dot(a, a)).sqrt();
                assert!(
                    part < 1.0 / 32.0,
                    "strips of {strip}, rows taken: {taken}: relative error {part} of a gradient"
                );
            }
        }
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    /// Returns the length of b divided by that of a.
    fn ratio(a: &[f32], b: &[f32]) -> f64 {
        (dot(b, b) / dot(a, a)).sqrt()
    }

    fn cosine(a: &[f32], b: &[f32]) -> f64 {
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    /// Storing a number in bf16 has a relative error of up to 2^-9, of either sign. With three layers, about 60 such
    /// roundings lie between a loss and a gradient, forward and backward; if they are independent, they add up to
    /// sqrt(60) 2^-9 = 1.5 %. The error is mostly orthogonal to the gradient and changes its length only in second
    /// order. What remains are errors that all elements of a parameter share, such as the rounding of a probability: at
    /// most the same 1.5 %, or 2^-6, for one parameter, and a quarter of that for all parameters together, where they
    /// average out.
    #[test]
    fn bf16_gradients_match_f32_in_direction_and_length() {
        for (heads, head, dropout) in [(2, 32, 0.0), (3, 8, 0.1), (1, 80, 0.0), (3, 5, 0.0)] {
            let (loss, expected) = step(&mut Cpu::new(2), gpt(heads, head, dropout), Precision::F32);
            let mut emulator = cuda::emulated(Schedule::default());
            let (ours, found) = step(&mut emulator, gpt(heads, head, dropout), Precision::Bf16);
            assert!((ours / loss - 1.0).abs() < 0.02, "loss {ours} in bf16, {loss} in f32");
            let table = gpt(heads, head, dropout).table().clone();
            for (i, (a, b)) in expected.iter().zip(&found).enumerate() {
                let (cosine, ratio) = (cosine(a, b), ratio(a, b));
                let name = format!("{} ({heads} heads of {head})", table.params[i].name());
                assert!(cosine > 0.99, "{name}: cosine {cosine}");
                assert!((ratio - 1.0).abs() < 1.0 / 64.0, "{name}: {ratio} times as long");
            }
            let (a, b) = (expected.concat(), found.concat());
            assert!(cosine(&a, &b) > 0.999, "all parameters: cosine {}", cosine(&a, &b));
            assert!((ratio(&a, &b) - 1.0).abs() < 1.0 / 256.0, "all parameters: {} times as long", ratio(&a, &b));
        }
    }
}

use std::path::Path;
use std::process::{Command, Output};

fn vcycle(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).output().expect("the binary runs")
}

/// Returns all losses of a branch, of steps and evaluations, in order.
fn losses(branch: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(branch.join("metrics.jsonl")).expect("metrics");
    let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a record"));
    records.flat_map(|r| ["loss", "valid_loss"].map(|key| r[key].as_f64())).flatten().collect()
}

/// A loss is the logarithm of a sum of exponentials of logits, minus one logit. In bf16 each logit has a relative error
/// of up to 2^-9. The logits of this model, which has just begun to learn, are about 1, and a loss is a mean over at
/// least 128 tokens: an error of 2^-9 even if all logits were off in the same direction. The f32 weights follow
/// gradients with an error of about 1 % orthogonal to their direction, which does not change the loss in first order.
/// The run lowers the loss by about 0.5 nats, so that 2^-9 is 0.4 % of the improvement. The same tolerance holds for
/// the improvement since the first loss.
#[cfg(emulated)]
#[test]
fn every_bf16_loss_of_a_v_cycle_matches_f32_up_to_logit_rounding() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = |device: &str, precision: &str| {
        let (out, set) = (dir.path().join(device), format!("train.precision={precision}"));
        let out_text = out.display().to_string();
        let args = ["train", "configs/gpt-tiny.toml", "--quiet", "--device", device, "--set", &set, "--out", &out_text];
        let done = vcycle(&args);
        assert!(done.status.success(), "{device}: {}", String::from_utf8_lossy(&done.stderr));
        [losses(&out.join("vcycle")), losses(&out.join("scratch"))].concat()
    };
    let (f32s, bf16s) = (run("cpu", "f32"), run("emulator", "bf16"));
    assert!(f32s.len() > 40 && f32s.len() == bf16s.len(), "{} and {} losses", f32s.len(), bf16s.len());
    let off = 1.0 / 512.0;
    for (i, (a, b)) in f32s.iter().zip(&bf16s).enumerate() {
        assert!((b - a).abs() < off, "loss {i}: {a} in f32, {b} in bf16");
        let learnt = [&f32s, &bf16s].map(|losses| losses[i] - losses[0]);
        assert!((learnt[0] - learnt[1]).abs() < off, "loss {i}, since the first: {learnt:?}");
    }
    let most = f32s.iter().map(|loss| f32s[0] - loss).fold(0.0, f64::max);
    assert!(most > 100.0 * off, "the loss only fell by {most} nats, too little for this test");
    assert!(f32s != bf16s, "bf16 must round");
}

#[test]
fn a_device_without_bf16_names_those_that_have_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("run").display().to_string();
    for device in ["cpu", "reference"] {
        let args =
            ["train", "configs/gpt-tiny.toml", "--device", device, "--set", "train.precision=bf16", "--out", &out];
        let done = vcycle(&args);
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{text}");
        assert!(["train.precision", "bf16", "emulator", device].iter().all(|word| text.contains(word)), "{text}");
        assert!(!Path::new(&out).exists(), "a run folder was created");
    }
    let wrong = vcycle(&["train", "configs/gpt-tiny.toml", "--set", "train.precision=f16", "--out", &out]);
    let text = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && text.contains("bf16"), "{text}");
}
