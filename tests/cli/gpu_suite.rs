//! `benches/gpu_suite.sh` runs from start to end without a GPU, on the emulator.

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

/// Leaves out the parity checks, which take minutes; `tests/kernels` runs them.
#[test]
#[cfg(emulated)]
fn a_rehearsal_on_the_emulator_measures_and_trains() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("suite");
    let done = suite(&["--device", "emulator", "--only", "bench step peers train", "--out", &out.to_string_lossy()]);
    let printed = text(&done);
    assert_eq!(done.status.code(), Some(0), "{printed}");
    assert!(!out.join("left-out.txt").exists(), "{printed}");
    let lines = std::fs::read_to_string(out.join("ours.jsonl")).expect("measurements");
    for bench in ["gemm", "attention", "layernorm", "cross-entropy", "adamw", "multilevel", "step"] {
        assert!(lines.contains(&format!("\"bench\":\"{bench}\"")), "no line of {bench}: {lines}");
    }
    for part in
        ["single_pass_kv", "fused_dq_atomic", "cluster2_128x256"].map(|variant| format!("\"variant\":\"{variant}\""))
    {
        assert!(lines.contains(&part), "no line with {part}: {lines}");
    }
    // Each family's training step is measured once per set of variants.
    let steps = lines.lines().filter(|line| line.contains("\"bench\":\"step\""));
    for (mark, variants) in [("null", 5), ("\"bert\"", 5), ("\"deit\"", 6)] {
        let of_family = steps.clone().filter(|line| line.contains(&format!("\"mark\":{mark}")));
        assert_eq!(of_family.count(), variants, "{lines}");
    }
    for file in ["report.md", "train/report.html", "machine.txt"] {
        assert!(out.join(file).is_file(), "no {file}: {printed}");
    }
    assert!(printed.contains("baseline (scratch) at its best"), "{printed}");
}

/// `SECONDS` is what bash counts the elapsed seconds in. After a day, no part has any time left.
#[test]
#[cfg(emulated)]
fn parts_without_time_left_are_listed() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("suite");
    let mut late = Command::new("bash");
    late.args(["benches/gpu_suite.sh", "--device", "emulator", "--minutes", "1", "--only", "step train", "--out"])
        .arg(&out);
    let done = late.env("SECONDS", "86400").env("VCYCLE", env!("CARGO_BIN_EXE_vcycle")).output().expect("bash");
    let printed = text(&done);
    assert_eq!(done.status.code(), Some(1), "{printed}");
    let left_out = std::fs::read_to_string(out.join("left-out.txt")).expect("what was left out");
    for name in ["bench step 1,1,16,16,1,32 ", "bench step 1,1,16,32,1,8:deit cluster2_128x256", "training"] {
        assert!(left_out.contains(&format!("{name}: no time was left")), "{left_out}");
    }
}

#[test]
fn invalid_options_are_rejected() {
    let rejected = |arguments: &[&str], why: &str| {
        let done = suite(arguments);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {}", text(&done));
        assert!(text(&done).contains(why), "{arguments:?}: {}", text(&done));
    };
    rejected(&["--device", "cpu"], "cuda or emulator");
    rejected(&["--only", "bench cake"], "--only cake");
    rejected(&["--fast"], "no such option");
    rejected(&["--minutes", "soon"], "--minutes soon");
    rejected(&["--minutes", "0"], "--minutes 0");
    rejected(&["--out"], "needs a value");
    let there = tempfile::tempdir().expect("a folder");
    rejected(&["--out", &there.path().to_string_lossy()], "exists already");
    assert!(Path::new("benches/gpu_suite.toml").is_file());
}
