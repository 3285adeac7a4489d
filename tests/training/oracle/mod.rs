//! Promise: a run reports what its configuration and the documentation say. An oracle, which shares no code for models,
//! differentiation, multi-level operators or training with the program, repeats whole V-cycles and compares every line
//! of `metrics.jsonl`: every loss, learning rate, gradient norm and FLOP count, the evaluations, and the transitions
//! between stages.

mod cases;
mod data;
mod measures;
#[path = "../reference_model/mod.rs"]
mod reference;
mod run;

use data::Data;
use reference::config::Config;
use run::Run;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The relative tolerance for losses, norms and metrics. Program and oracle both compute in f64, but sum in different
/// orders. A sum of n <= 4096 terms has an error of at most n 2^-53 = 5e-13 of their size, and a step is about twenty
/// sums deep: 1e-11. AdamW amplifies such errors: an error of 1e-16 in a gradient moves a weight by up to
/// rate x 1e-16 / eps = 2e-10, but only where the gradient itself is below eps = 1e-8, so that the loss hardly depends
/// on that weight (and not at all on the biases of keys, whose gradients are pure rounding error). Fewer than thirty
/// steps add up to less than 1e-9. The largest difference observed is 5e-14.
const TOLERANCE: f64 = 1e-9;

/// Runs a configuration with the program, and compares its metrics with the oracle's.
fn check(text: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    cases::write_data(dir.path());
    std::fs::write(dir.path().join("run.toml"), text).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
    command.args(["train", "run.toml", "--quiet", "--out", "run", "--device", "reference"]).current_dir(dir.path());
    let done = command.output().expect("the binary runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let c = Config(toml::from_str(text).expect("a configuration"));
    let run = || Run::new(&c, Data::open(&c, dir.path()));
    compare(&dir.path().join("run/vcycle"), &run().v_cycle());
    if c.find("scratch").is_some() {
        compare(&dir.path().join("run/scratch"), &run().scratch());
    }
}

/// Asserts that the `metrics.jsonl` of a branch has exactly the lines of `wanted`, in order.
fn compare(branch: &Path, wanted: &[Value]) {
    let text = std::fs::read_to_string(branch.join("metrics.jsonl")).expect("metrics");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for (line, wanted) in lines.iter().zip(wanted) {
        for (key, wanted_value) in wanted.as_object().expect("an object") {
            // A learning rate is a single formula: exact up to the rounding of a few operations.
            let tolerance = if key == "lr" { 16.0 * f64::EPSILON } else { TOLERANCE };
            assert!(
                agree(&line[key], wanted_value, tolerance),
                "{}: {key} differs between\n{line}\nand the oracle's\n{wanted}",
                branch.display()
            );
        }
    }
    assert_eq!(lines.len(), wanted.len(), "{}: number of lines", branch.display());
}

fn agree(a: &Value, b: &Value, tolerance: f64) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| agree(a, b, tolerance))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && b.iter().all(|(key, b)| a.get(key).is_some_and(|a| agree(a, b, tolerance)))
        }
        (Value::Number(a), Value::Number(b)) if b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            (a - b).abs() <= tolerance * b.abs()
        }
        _ => a == b,
    }
}
