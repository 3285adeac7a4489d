//! Selection of kernel variants, by the time model or by environment variables.

use std::path::Path;
use std::process::{Command, Output};
use vcycle::device::cuda::gpu_spec::GpuSpec;
use vcycle::device::cuda::variants::{self, VARIANTS};
use vcycle::device::ops::{Op, StepState};
use vcycle::model::EachLoss;
use vcycle::model::Model;
use vcycle::model::gpt::{Gpt, GptConfig};
use vcycle::tape::{Mode, Tape};
use vcycle::tensor::{DType, Place, Tensor};

/// Returns the operations of a training step of GPT-2 with 124 million parameters, on 8 sequences of 1024 tokens.
fn gpt2_step(float: DType) -> Vec<Op> {
    let (batch, time) = (8, 1024);
    let gpt = Gpt::new(GptConfig {
        vocab: 50_257,
        context: time,
        width: 768,
        heads: 12,
        layers: 12,
        ffn: 3072,
        eps: 1e-5,
        init_std: 0.02,
        dropout_embedding: 0.0,
        dropout_attention: 0.0,
        dropout_residual: 0.0,
        bos: None,
        eos: None,
        tied: true,
    })
    .expect("sizes that fit");
    let mut tape = Tape::new(float, StepState::tensor(0));
    tape.begin(Mode::Train { accumulate: false });
    let input = |tape: &mut Tape| tape.input(Tensor::new(Place::Arena(1), DType::I32, 0, &[batch, time]));
    let (ids, labels) = (input(&mut tape), input(&mut tape));
    let table = gpt.table();
    let vars: Vec<_> = (0..table.params.len())
        .map(|i| tape.param(table.tensor(i, 2, float), table.tensor(i, 3, float.accumulator())))
        .collect();
    let (loss, _) = gpt.loss(&mut tape, &vars, &[ids, labels], EachLoss::default(), false);
    tape.backward(&[loss]);
    tape.recorded().to_vec()
}

#[test]
fn a_step_of_gpt2_uses_tensor_cores_and_16_byte_accesses() {
    for gpu in [GpuSpec::A100, GpuSpec::H100, GpuSpec::of(114, 1.755e9, 2.0e12, (9, 0))] {
        for op in gpt2_step(DType::BF16) {
            let chosen = variants::choose(&op, &gpu).expect("a variant");
            let wanted: &[&str] = match op.name() {
                "linear" if gpu.hopper => &["mma_64x64", "wgmma_128x128", "wgmma_128x256"],
                "linear" => &["mma_64x64", "mma_128x128", "splitk"],
                "attention" | "attention_backward" => &["flash"],
                "embedding_backward" => &["owner"],
                _ => &["vec16"],
            };
            assert!(wanted.contains(&chosen.name), "{} for {op:?}", chosen.name);
        }
        for op in gpt2_step(DType::F32) {
            let chosen = variants::choose(&op, &gpu).expect("a variant");
            assert_ne!(chosen.name, "naive", "{op:?}");
        }
    }
}

/// Nondeterministic variants run only on request.
#[test]
fn nondeterministic_variants_are_not_chosen_automatically() {
    for op in gpt2_step(DType::BF16).into_iter().chain(gpt2_step(DType::F32)) {
        assert!(variants::choose(&op, &GpuSpec::H100).is_some_and(|v| v.deterministic), "{op:?}");
    }
    let nondeterministic: Vec<_> =
        VARIANTS.iter().filter(|v| !v.deterministic).map(|v| (v.operation, v.name)).collect();
    assert_eq!(nondeterministic, [("attention_backward", "fused_dq_atomic")]);
}

/// Predicted times are positive and finite, and better hardware is never predicted to be slower.
#[test]
fn predicted_times_are_finite_and_fall_with_better_hardware() {
    let once = GpuSpec::H100;
    let (tensor, vector, bandwidth) = (2.0 * once.tensor, 2.0 * once.vector, 2.0 * once.bandwidth);
    let twice = GpuSpec { tensor, vector, bandwidth, ..once };
    for op in gpt2_step(DType::BF16).into_iter().chain(gpt2_step(DType::F32)) {
        for variant in VARIANTS.iter().filter(|v| (v.supports)(&op)) {
            let (slow, fast) = (variant.seconds(&op, &once), variant.seconds(&op, &twice));
            assert!(slow.is_finite() && slow > once.launch / 2.0, "{} {}: {slow}", variant.operation, variant.name);
            assert!(fast <= slow, "{} {}: {slow} s, at double rates {fast} s", variant.operation, variant.name);
        }
    }
}

/// Trains the smallest configuration for a few steps on the emulator, in the folder `name` of `dir`.
fn train(dir: &Path, name: &str, variables: &[(&str, &str)]) -> Output {
    let out = dir.join(name).display().to_string();
    let few = ["levels=[{train={steps=2,lr=1e-3}}]", "scratch={steps=1,lr=1e-3}", "train.eval_batches=1"]
        .map(|set| ["--set", set]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
    command.args(["train", "configs/gpt-tiny.toml", "--quiet", "--device", "emulator", "--out", &out]);
    command.args(few.concat()).envs(variables.iter().copied()).output().expect("the binary runs")
}

#[cfg(emulated)]
#[test]
fn the_environment_prefers_a_variant() {
    let dir = tempfile::tempdir().expect("a folder");
    let trained = |name: &str, variables: &[(&str, &str)]| -> (Vec<f64>, Vec<u8>) {
        let done = train(dir.path(), name, variables);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let out = dir.path().join(name).join("vcycle");
        let text = std::fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
        let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a record"));
        let losses: Vec<f64> = records.filter_map(|r| r["loss"].as_f64()).collect();
        assert_eq!(losses.len(), 2);
        (losses, std::fs::read(out.join("model/model.safetensors")).expect("weights"))
    };
    let (chosen, weights) = trained("chosen", &[]);
    assert!(
        (chosen.clone(), weights.clone()) == trained("single", &[("VCYCLE_GRAPHS", "0")]),
        "captured and single operations must give the same bits"
    );
    let (naive, others) =
        trained("naive", &[("VCYCLE_VARIANT_layernorm", "naive"), ("VCYCLE_VARIANT_layernorm_backward", "naive")]);
    // The losses, rounded to f32, may agree by coincidence, but not all weights after two steps.
    assert!(weights != others, "another order of additions must give other bits");
    assert!(chosen.iter().zip(&naive).all(|(a, b)| (a / b - 1.0).abs() < 1e-4), "{chosen:?} {naive:?}");
}

#[cfg(emulated)]
#[test]
fn unknown_values_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    for (variable, value, words) in [
        (
            "VCYCLE_VARIANT_linear",
            "fastest",
            &["VCYCLE_VARIANT_linear", "fastest", "naive", "tiled", "mma_128x128"][..],
        ),
        ("VCYCLE_VARIANT_gemm", "naive", &["VCYCLE_VARIANT_gemm", "linear", "attention"]),
        ("VCYCLE_GRAPHS", "yes", &["VCYCLE_GRAPHS", "yes", "1", "0"]),
    ] {
        let done = train(dir.path(), "refused", &[(variable, value)]);
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(!dir.path().join("refused").exists(), "no files must be left");
    }
}
