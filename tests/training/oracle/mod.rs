//! Promise: what a run reports is what its configuration and the documentation say. An oracle, which shares no code of models,
//! differentiation, operators or training with the program, redoes whole V-cycles and compares every line of
//! `metrics.jsonl`: every loss, learning rate and gradient norm, FLOPs, evaluations, and what happens between.

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

/// Of losses, norms and measures. Both sides compute in f64, but sum in another order. A sum of n <= 4096 terms is off by at most
/// n 2^-53 = 5e-13 of their size, and a step is some twenty sums deep: 1e-11. AdamW hands it on: an error of 1e-16 in a gradient
/// moves a weight by up to rate x 1e-16 / eps = 2e-10, but only where the gradient itself is below eps = 1e-8, so that the loss
/// hardly depends on that weight (and not at all on the biases of keys, whose gradients are nothing but rounding). Fewer than
/// thirty steps add up to less than 1e-9. The largest difference that was seen is 5e-14.
const TOLERANCE: f64 = 1e-9;

/// Runs a configuration and redoes it.
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

/// Every line, in order, none missing and none besides.
fn compare(side: &Path, wanted: &[Value]) {
    let text = std::fs::read_to_string(side.join("metrics.jsonl")).expect("metrics");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for (line, wanted) in lines.iter().zip(wanted) {
        for (key, wanted_value) in wanted.as_object().expect("an object") {
            // A rate is one formula, so it is right but for the rounding of a few operations.
            let tolerance = if key == "lr" { 16.0 * f64::EPSILON } else { TOLERANCE };
            assert!(
                agree(&line[key], wanted_value, tolerance),
                "{}: {key} of\n{line}\nis not that of\n{wanted}",
                side.display()
            );
        }
    }
    assert_eq!(lines.len(), wanted.len(), "{}: lines", side.display());
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
