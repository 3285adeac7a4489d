//! Every loss of a whole V-cycle on the emulator matches the same V-cycle on `cpu`; unavailable devices are reported.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn vcycle(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).output().expect("the binary runs")
}

/// Returns every training and held-out loss of a branch, each labelled with its stage and step.
fn losses(branch: &Path) -> Vec<(String, f64)> {
    let text = std::fs::read_to_string(branch.join("metrics.jsonl")).expect("metrics");
    let mut all = Vec::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).expect("a record");
        for key in ["loss", "valid_loss"] {
            if let Some(value) = record[key].as_f64() {
                all.push((format!("stage {} step {} {key}", record["stage"], record["step"]), value));
            }
        }
    }
    all
}

/// Asserts that a configuration's losses on the emulator match those on the cpu.
fn assert_same_losses(config: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let run = |device: &str| {
        let out = dir.path().join(device);
        let done = vcycle(&["train", config, "--quiet", "--device", device, "--out", &out.display().to_string()]);
        assert!(done.status.success(), "{device}: {}", String::from_utf8_lossy(&done.stderr));
        [losses(&out.join("vcycle")), losses(&out.join("scratch"))].concat()
    };
    let (cpu, emulated) = (run("cpu"), run("emulator"));
    assert!(cpu.len() > 40, "{} losses", cpu.len());
    assert_eq!(cpu.len(), emulated.len());
    for ((what, a), (other, b)) in cpu.iter().zip(&emulated) {
        assert_eq!(what, other);
        assert!((a - b).abs() <= 1e-4, "{config}, {what}: {a} on cpu, {b} on the emulator");
    }
}

#[test]
fn a_v_cycle_of_gpt_on_the_emulator_matches_the_cpu() {
    assert_same_losses("configs/gpt-tiny.toml");
}

#[test]
#[ignore = "exhaustive: ten seconds; the quick tier runs GPT"]
fn a_v_cycle_of_bert_on_the_emulator_matches_the_cpu() {
    assert_same_losses("configs/bert-tiny.toml");
}

#[test]
#[ignore = "exhaustive: ten seconds; the quick tier runs GPT"]
fn a_v_cycle_of_deit_on_the_emulator_matches_the_cpu() {
    assert_same_losses("configs/deit-tiny.toml");
}

/// The message names the missing device and the alternatives. A machine with a GPU and device code runs the kernel.
#[test]
fn an_unavailable_device_is_reported_with_alternatives() {
    let done = vcycle(&["kernels", "check", "fill", "--device", "cuda"]);
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    let says = ["--device cuda", "--device cpu", "--device emulator"].iter().all(|device| text.contains(device));
    assert!(done.status.success() || done.status.code() == Some(2) && says, "{text}");
}
