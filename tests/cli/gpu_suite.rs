//! `benches/gpu_suite.sh` goes from end to end: without a GPU, on emulated hardware.

use std::path::Path;
use std::process::{Command, Output};

fn suite(arguments: &[&str]) -> Output {
    let mut command = Command::new("bash");
    command.arg("benches/gpu_suite.sh").args(arguments).env("VCYCLE", env!("CARGO_BIN_EXE_vcycle"));
    command.output().expect("bash")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Parity of all kernels is `tests/kernels`; here of none, since it takes minutes.
#[test]
#[cfg(emulated)]
fn a_rehearsal_measures_and_trains() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("suite");
    let done = suite(&["--device", "emulator", "--only", "bench step peers train", "--out", &out.to_string_lossy()]);
    let said = text(&done);
    assert_eq!(done.status.code(), Some(0), "{said}");
    assert!(!out.join("left-out.txt").exists(), "{said}");
    let lines = std::fs::read_to_string(out.join("ours.jsonl")).expect("measurements");
    for bench in ["gemm", "attention", "layernorm", "cross-entropy", "adamw", "multilevel", "step"] {
        assert!(lines.contains(&format!("\"bench\":\"{bench}\"")), "no line of {bench}: {lines}");
    }
    for part in ["resident", "reduce", "pairs256"].map(|variant| format!("\"variant\":\"{variant}\"")) {
        assert!(lines.contains(&part), "no line with {part}: {lines}");
    }
    // Of each family a step, by variants in turn.
    let steps = lines.lines().filter(|line| line.contains("\"bench\":\"step\""));
    for (mark, variants) in [("null", 5), ("\"bert\"", 5), ("\"deit\"", 6)] {
        let of_family = steps.clone().filter(|line| line.contains(&format!("\"mark\":{mark}")));
        assert_eq!(of_family.count(), variants, "{lines}");
    }
    for file in ["report.md", "train/report.html", "machine.txt"] {
        assert!(out.join(file).is_file(), "no {file}: {said}");
    }
    assert!(said.contains("baseline (scratch) at its best"), "{said}");
}

/// A day after its start nothing has any time left.
#[test]
#[cfg(emulated)]
fn what_has_no_time_left_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("suite");
    let mut late = Command::new("bash");
    late.args(["benches/gpu_suite.sh", "--device", "emulator", "--minutes", "1", "--only", "step train", "--out"])
        .arg(&out);
    let done = late.env("SECONDS", "86400").env("VCYCLE", env!("CARGO_BIN_EXE_vcycle")).output().expect("bash");
    let said = text(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    let left_out = std::fs::read_to_string(out.join("left-out.txt")).expect("what was left out");
    for name in ["bench step 1,1,16,16,1,32 ", "bench step 1,1,16,32,1,8:deit pairs256", "training"] {
        assert!(left_out.contains(&format!("{name}: no time was left")), "{left_out}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |arguments: &[&str], why: &str| {
        let done = suite(arguments);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {}", text(&done));
        assert!(text(&done).contains(why), "{arguments:?}: {}", text(&done));
    };
    refused(&["--device", "cpu"], "cuda or emulator");
    refused(&["--only", "bench cake"], "--only cake");
    refused(&["--fast"], "no such option");
    refused(&["--minutes", "soon"], "--minutes soon");
    refused(&["--minutes", "0"], "--minutes 0");
    refused(&["--out"], "needs a value");
    let there = tempfile::tempdir().expect("a folder");
    refused(&["--out", &there.path().to_string_lossy()], "exists already");
    assert!(Path::new("benches/gpu_suite.toml").is_file());
}
