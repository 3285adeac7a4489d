//! Promise: a stage trains as configured. It ends early at `target_loss`, with the model that reached it; `continue`
//! follows one long schedule across stages; `rewarm` fills the moments and changes no weight before the warm-up is
//! over.

use safetensors::SafeTensors;
use serde_json::Value;
use std::cell::Cell;
use std::path::Path;
use tempfile::TempDir;
use vcycle::config::Config;
use vcycle::config::schedule::{Decay, Schedule};
use vcycle::device::Device;
use vcycle::device::cpu::Cpu;
use vcycle::families;
use vcycle::model::store::Store;
use vcycle::run::folder::RunInfo;
use vcycle::run::{Outcome, Tools, train};
use vcycle::runlog::progress::Progress;

fn workplace() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let text: String = (0..600).map(|i| format!("the {} of {}\n", i % 97, i % 13)).collect();
    std::fs::write(dir.path().join("text.txt"), text).expect("written");
    dir
}

/// Returns a configuration with these levels and changes.
fn config(dir: &Path, levels: &str, changes: &[&str]) -> Config {
    let text = format!(
        r#"
        [model]
        family = "gpt"
        layers = 2
        heads = 2
        head_size = 4
        context = 8
        [data]
        text = "{}"
        tokenizer = "byte"
        [train]
        batch = 4
        eval_every = 3
        eval_batches = 2
        keep_last = 100
        {levels}
        "#,
        dir.join("text.txt").display()
    );
    let changes: Vec<String> = changes.iter().map(|c| c.to_string()).collect();
    families::parse(&text, &changes).expect("a configuration")
}

fn run(dir: &Path, out: &str, config: &Config, steps: usize) -> Outcome {
    let (mut device, mut progress, done) = (Cpu::new(1), Progress::new(true), Cell::new(0));
    let stop = || {
        done.set(done.get() + 1);
        done.get() >= steps
    };
    let cache = dir.join("data");
    let tools = Tools { device: &mut device, cache: &cache, progress: &mut progress, stop: &stop };
    train(config, &RunInfo::this_process("cpu", 1, String::new()), &dir.join(out), tools).expect("a run")
}

/// Returns the metrics lines of one kind.
fn events(run: &Path, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("vcycle/metrics.jsonl")).expect("metrics");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["event"] == kind).collect()
}

fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("vcycle/model/model.safetensors")).expect("weights")
}

#[test]
fn a_target_ends_the_run_with_the_model_that_reached_it() {
    let dir = workplace();
    let dir = dir.path();
    let levels = r#"[[levels]]
        train = { steps = 60, lr = 1e-2, decay = "constant" }"#;
    run(dir, "long", &config(dir, levels, &[]), usize::MAX);
    let losses: Vec<f64> =
        events(&dir.join("long"), "eval").iter().map(|e| e["valid_loss"].as_f64().expect("a loss")).collect();
    // Evaluation 7 is at step 21. With its loss as the target, the first evaluation that is no worse ends the run.
    let target = losses[7];
    let first = losses.iter().position(|loss| *loss <= target).expect("evaluation 7 at the latest");
    let (first, step) = (first, 3 * first as u64);
    assert!(first > 2, "the target is reached too early for this test: {losses:?}");
    let changes = format!("train.target_loss={target:?}");
    let outcome = run(dir, "short", &config(dir, levels, &[&changes]), usize::MAX);
    assert!(matches!(outcome, Outcome::Finished { loss, .. } if loss == losses[first]), "{outcome:?}");
    let evals = events(&dir.join("short"), "eval");
    let reached: Vec<f64> = evals.iter().map(|e| e["valid_loss"].as_f64().expect("a loss")).collect();
    assert_eq!(reached, losses[..=first]);
    assert_eq!(events(&dir.join("short"), "step").len() as u64, step);
    assert_eq!(events(&dir.join("short"), "summary")[0]["step"], step);
    let steps = format!("levels.0.train.steps={step}");
    run(dir, "same", &config(dir, levels, &[&steps]), usize::MAX);
    assert!(weights(&dir.join("short")) == weights(&dir.join("same")), "the model is not that of step {step}");
}

/// A target only applies to the last stage of level 1, whatever the losses of earlier stages.
#[test]
fn a_target_only_ends_the_last_stage() {
    let dir = workplace();
    let dir = dir.path();
    let levels = r#"[[levels]]
        before = { steps = 6, lr = 1e-2 }
        train = { steps = 6, lr = 1e-2 }
        [[levels]]
        layers = 1
        heads = 1
        alpha = 0.5
        train = { steps = 6, lr = 1e-2 }"#;
    run(dir, "out", &config(dir, levels, &["train.target_loss=100"]), usize::MAX);
    let stages: Vec<u64> =
        events(&dir.join("out"), "step").iter().map(|s| s["stage"].as_u64().expect("a number")).collect();
    assert_eq!(stages, [[1; 6], [2; 6]].concat());
}

#[test]
fn continued_stages_follow_one_long_schedule() {
    let dir = workplace();
    let dir = dir.path();
    for (name, decay) in
        [("constant", Decay::Constant), ("linear", Decay::Linear), ("cosine", Decay::Cosine), ("wsd", Decay::Wsd)]
    {
        let levels = format!(
            r#"[[levels]]
            before = {{ steps = 4, lr = 1e-3 }}
            train = {{ steps = 6, lr = 1e-2, warmup = 5, decay = "{name}", floor = 0.2, cooldown = 0.3, schedule = "continue" }}
            [[levels]]
            layers = 1
            heads = 1
            alpha = 0.5
            train = {{ steps = 3, lr = 1e-2 }}"#
        );
        run(dir, name, &config(dir, &levels, &[]), usize::MAX);
        let steps = events(&dir.join(name), "step");
        let rates: Vec<f64> =
            steps.iter().filter(|s| s["stage"] == 3).map(|s| s["lr"].as_f64().expect("a rate")).collect();
        let long = Schedule { base: 1e-2, warmup: 5, steps: 10, decay, floor: 0.2, cooldown: 0.3 };
        let want: Vec<f64> = (4..10).map(|step| long.rate(step)).collect();
        assert_eq!(rates, want, "{name}");
    }
}

#[test]
fn rewarming_fills_moments_before_it_touches_weights() {
    let dir = workplace();
    let dir = dir.path();
    let levels = r#"[[levels]]
        train = { steps = 6, lr = 1e-2, warmup = 3, optimizer = "rewarm", decay = "constant" }"#;
    let config = config(dir, levels, &["train.checkpoint_every=1"]);
    run(dir, "out", &config, 5);
    let saved = |step: usize, what: &str| {
        let path = dir.join(format!("out/vcycle/checkpoints/stage-1-step-{step:08}/tensors.safetensors"));
        let bytes = std::fs::read(path).expect("a checkpoint");
        let file = SafeTensors::deserialize(&bytes).expect("tensors");
        file.tensor(&format!("level1.{what}")).expect("a tensor").data().to_vec()
    };
    let mut device = Cpu::new(1);
    let model = families::build(&config, 256).expect("levels").remove(0);
    let initial = Store::new(model.table().clone(), &mut device).expect("memory");
    initial.initialise(&mut device, config.seed).expect("values");
    let mut bytes = vec![0; initial.flat().numel() * 4];
    device.read(&initial.flat(), &mut bytes).expect("values");
    for step in 1..=3 {
        assert!(saved(step, "params") == bytes, "step {step} changed weights");
    }
    for what in ["m", "v"] {
        assert!(saved(1, what).iter().any(|b| *b != 0), "{what} is zero");
        assert!(saved(2, what) != saved(1, what) && saved(3, what) != saved(2, what), "{what} does not change");
    }
    assert!(saved(4, "params") != bytes, "weights did not change after the warm-up");
    let rates: Vec<f64> = events(&dir.join("out"), "step").iter().map(|s| s["lr"].as_f64().expect("a rate")).collect();
    assert_eq!(rates, [0.0, 0.0, 0.0, 1e-2, 1e-2]);
}
