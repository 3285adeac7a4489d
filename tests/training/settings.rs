//! Promise: editing `config.toml` between a stop and `--resume` never changes what a run computes or which data it
//! reads: a change of such a key is rejected with its name and both values, and no file is touched. Permitted changes
//! are reported and take effect from then on.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use vcycle::config::Config;
use vcycle::data::fingerprint::Fingerprint;
use vcycle::device::cpu::Cpu;
use vcycle::error::Result;
use vcycle::families;
use vcycle::run::folder::RunInfo;
use vcycle::run::{Outcome, Tools, resume, train};
use vcycle::runlog::progress::Progress;

const CONFIG: &str = r#"
seed = 3
[model]
family = "gpt"
layers = 2
heads = 4
head_size = 8
context = 8
[data]
text = "TEXT"
tokenizer = "char"
[train]
batch = 4
accumulate = 2
eval_every = 3
eval_batches = 2
checkpoint_every = 2
[[levels]]
before = { steps = 4, lr = 1e-2, decay = "constant" }
train = { steps = 6, lr = 1e-2, decay = "constant" }
[[levels]]
layers = 1
heads = 2
alpha = 0.5
train = { steps = 7, lr = 2e-2, decay = "constant" }
[scratch]
steps = 5
lr = 1e-2
"#;

/// The step at which runs are stopped: in the middle of the second of three stages.
const STOPPED: u64 = 8;

fn run(dir: &Path, config: Option<&Config>, steps: u64) -> Result<Outcome> {
    let (mut device, mut progress, done) = (Cpu::new(1), Progress::new(true), Cell::new(0));
    let stop = || {
        done.set(done.get() + 1);
        done.get() >= steps
    };
    let cache = dir.with_file_name("data");
    let tools = Tools { device: &mut device, cache: &cache, progress: &mut progress, stop: &stop };
    match config {
        Some(config) => train(config, &RunInfo::this_process("cpu", 1, String::new()), dir, tools),
        None => resume(dir, tools),
    }
}

/// A stopped run, and its configuration as text.
struct Stopped {
    dir: TempDir,
    text: String,
}

impl Stopped {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let text: String = (0..600).map(|i| format!("the {} of {}\n", i % 97, i % 13)).collect();
        fs::write(dir.path().join("text.txt"), text).expect("written");
        let config = CONFIG.replace("TEXT", &dir.path().join("text.txt").display().to_string());
        let config = families::parse(&config, &[]).expect("a configuration");
        let outcome = run(&dir.path().join("stopped"), Some(&config), STOPPED).expect("a run");
        assert!(matches!(outcome, Outcome::Stopped { step: STOPPED, .. }), "{outcome:?}");
        let text = fs::read_to_string(dir.path().join("stopped/config.toml")).expect("text");
        Stopped { dir, text }
    }

    /// Returns a copy of the run whose configuration has another value at a dotted key.
    fn edited(&self, key: &str, value: &str) -> PathBuf {
        let run = self.dir.path().join("run");
        let _ = fs::remove_dir_all(&run);
        copy(&self.dir.path().join("stopped"), &run);
        let config = families::parse(&self.text, &[format!("{key}={value}")]).expect("a valid configuration");
        fs::write(run.join("config.toml"), toml::to_string(&config).expect("text")).expect("written");
        run
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), &to).expect("copied")),
        }
    }
}

/// Returns every file below `dir` except the lock, which each process that opens the folder rewrites.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for path in fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            all.extend(content(&path));
        } else if !path.ends_with("lock") {
            all.insert(path.clone(), fs::read(&path).expect("bytes"));
        }
    }
    all
}

/// Returns the error of resuming a run that must be rejected, and checks that no file is touched.
fn rejection(run_dir: &Path) -> String {
    let (before, data) = (content(run_dir), content(&run_dir.with_file_name("data")));
    let error = run(run_dir, None, 1).expect_err("rejected").to_string();
    assert!(before == content(run_dir), "the run folder was touched: {error}");
    assert!(data == content(&run_dir.with_file_name("data")), "data was prepared: {error}");
    error
}

#[test]
fn changes_that_would_alter_the_computation_or_the_data_are_rejected() {
    let stopped = Stopped::new();
    for (key, value, says) in [
        ("seed", "4", "seed: 3 -> 4"),
        ("model.heads", "2", "model.heads: 4 -> 2"),
        ("model.head_size", "4", "model.head_size: 8 -> 4"),
        ("model.layers", "3", "model.layers: 2 -> 3"),
        ("model.context", "4", "model.context: 8 -> 4"),
        ("model.dropout", "0.5", "model.dropout: 0.0 -> 0.5"),
        ("model.tied", "false", "model.tied: true -> false"),
        ("model.init_std", "0.1", "model.init_std: 0.02 -> 0.1"),
        ("data.tokenizer", "byte", "data.tokenizer: \"char\" -> \"byte\""),
        ("data.held_out_every", "5", "data.held_out_every: not set -> 5"),
        ("train.batch", "8", "train.batch: 4 -> 8"),
        ("train.accumulate", "1", "train.accumulate: 2 -> 1"),
        ("train.precision", "bf16", "train.precision: \"f32\" -> \"bf16\""),
        ("optimizer.beta1", "0.8", "optimizer.beta1: 0.9 -> 0.8"),
        ("optimizer.clip", "inf", "optimizer.clip: 1.0 -> inf"),
        ("optimizer.weight_decay", "0", "optimizer.weight_decay: 0.1 -> 0.0"),
        ("rules.shares", "random", "rules.shares: \"equal\" -> \"random\""),
        ("levels.1.layers", "2", "levels[1].layers: 1 -> 2"),
        ("levels.1.alpha", "0.25", "levels[1].alpha: 0.5 -> 0.25"),
        ("levels.1.alpha", "search", "levels[1].alpha: 0.5 -> \"search\""),
        ("levels.0.train.optimizer", "transfer", "levels[0].train.optimizer: \"reset\" -> \"transfer\""),
        // The first stage has ended, and four steps of the second are done.
        ("levels.0.before.lr", "0.5", "levels[0].before.lr: 0.01 -> 0.5 (that stage has ended)"),
        ("levels.0.before.steps", "9", "levels[0].before.steps: 4 -> 9 (that stage has ended)"),
        ("levels.1.train.steps", "4", "levels[1].train.steps: 7 -> 4 (4 steps are done; set more)"),
    ] {
        let error = rejection(&stopped.edited(key, value));
        assert!(error.contains(says), "{key}={value}: {error}");
        assert!(
            error.contains("config.toml was changed since the checkpoint") && error.contains("put the old"),
            "{error}"
        );
    }
    let run_dir = stopped.edited("seed", "3");
    let one_level = fs::read_to_string(run_dir.join("config.toml")).expect("text");
    let cut = one_level.rfind("[[levels]]").expect("two levels");
    let rest = one_level[cut..].find("[scratch]").map_or("", |at| &one_level[cut + at..]);
    let first = one_level[..cut].replace("[levels.before]", "[other]");
    let (head, tail) = first.split_once("[other]").expect("a stage");
    let tail = &tail[tail.find("[levels.train]").expect("another stage")..];
    fs::write(run_dir.join("config.toml"), format!("{head}{tail}{rest}")).expect("written");
    let error = rejection(&run_dir);
    assert!(error.contains("levels: 2 -> 1 (number of levels)"), "{error}");
}

/// The message names all changed keys, not only the first.
#[test]
fn all_changed_keys_are_named() {
    let stopped = Stopped::new();
    let run_dir = stopped.edited("model.heads", "8");
    let path = run_dir.join("config.toml");
    let text = fs::read_to_string(&path).expect("text").replace("head_size = 8", "head_size = 4");
    fs::write(&path, text).expect("written");
    let error = rejection(&run_dir);
    assert!(error.contains("model.heads: 4 -> 8") && error.contains("model.head_size: 8 -> 4"), "{error}");
}

fn events(run: &Path, event: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("vcycle/metrics.jsonl")).expect("metrics");
    let all = text.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    all.filter(|line: &serde_json::Value| line["event"] == event).collect()
}

#[test]
fn permitted_changes_are_reported_and_take_effect_from_then_on() {
    let stopped = Stopped::new();
    for (key, value, from, to) in [
        ("levels.1.train.lr", "0.5", "0.02", "0.5"),
        ("levels.1.train.steps", "9", "7", "9"),
        ("levels.1.train.decay", "cosine", "\"constant\"", "\"cosine\""),
        ("levels.0.train.lr", "0.25", "0.01", "0.25"),
        ("levels.0.train.warmup", "2", "0", "2"),
        ("train.eval_every", "5", "3", "5"),
        ("train.eval_batches", "1", "2", "1"),
        ("train.checkpoint_every", "4", "2", "4"),
        ("train.keep_last", "5", "2", "5"),
        ("train.keep_best", "true", "false", "true"),
        ("train.target_loss", "0.1", "not set", "0.1"),
        ("train.recompute", "true", "false", "true"),
    ] {
        let run_dir = stopped.edited(key, value);
        let outcome = run(&run_dir, None, u64::MAX).unwrap_or_else(|e| panic!("{key}={value}: {e}"));
        assert!(matches!(outcome, Outcome::Finished { .. }), "{outcome:?}");
        let reported = events(&run_dir, "settings");
        assert_eq!(reported.len(), 1, "{key}");
        let named = key.replace(".0.", "[0].").replace(".1.", "[1].");
        let expected = serde_json::json!([{"key": named, "from": from, "to": to}]);
        assert_eq!((&reported[0]["step"], &reported[0]["changes"]), (&STOPPED.into(), &expected));
        let rate = |step: u64| {
            let steps = events(&run_dir, "step");
            steps.iter().find(|line| line["step"] == step).and_then(|line| line["lr"].as_f64()).expect("a step")
        };
        assert_eq!(rate(STOPPED), 0.02, "{key}: earlier steps keep their rate");
        if key == "levels.1.train.lr" {
            assert_eq!(rate(STOPPED + 1), 0.5);
        }
        // The report can still be written.
        vcycle::report::html::write(&run_dir).expect("a page");
    }
}

/// The stage of the scratch run may change as long as that run has not started.
#[test]
fn the_baseline_may_change_until_it_starts() {
    let stopped = Stopped::new();
    let run_dir = stopped.edited("scratch.lr", "0.5");
    run(&run_dir, None, u64::MAX).expect("a run");
    assert!(events(&run_dir, "settings").is_empty());
    // Now both the baseline and the V-cycle are finished.
    for (from, to, says) in
        [("lr = 0.5", "lr = 0.25", "scratch.lr: 0.5 -> 0.25"), ("lr = 0.02", "lr = 0.03", "levels[1]")]
    {
        let path = run_dir.join("config.toml");
        let text = fs::read_to_string(&path).expect("text");
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).expect("written");
        let error = rejection(&run_dir);
        assert!(error.contains(says) && error.contains("(that stage has ended)"), "{error}");
        fs::write(&path, text).expect("written");
    }
}

#[test]
fn the_same_text_may_move_but_a_different_text_is_rejected() {
    let stopped = Stopped::new();
    let text = fs::read_to_string(stopped.dir.path().join("text.txt")).expect("text");
    let other = stopped.dir.path().join("other.txt");
    fs::write(&other, &text).expect("written");
    let run_dir = stopped.edited("data.text", &other.display().to_string());
    run(&run_dir, None, u64::MAX).expect("the same text");
    fs::write(&other, text.replacen("the 1 of 1", "the 1 of 2", 1)).expect("written");
    let run_dir = stopped.edited("data.text", &other.display().to_string());
    // A line that a killed run wrote after its last checkpoint. Resuming would truncate it.
    let metrics = run_dir.join("vcycle/metrics.jsonl");
    let text = fs::read_to_string(&metrics).expect("metrics");
    fs::write(&metrics, text + "{\"event\":\"from a step that was not saved\"}\n").expect("written");
    let before = content(&run_dir);
    let error = run(&run_dir, None, 1).expect_err("a different text").to_string();
    assert!(error.contains("restore") && error.contains("start a new run"), "{error}");
    assert!(before == content(&run_dir), "the run folder was touched: {error}");
}

/// Removes the settings from a checkpoint, as in format 1.
fn downgrade(checkpoint: &Path) {
    let path = checkpoint.join("state.json");
    let mut state: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("bytes")).expect("JSON");
    assert_eq!(state["format"], 2);
    state["format"] = 1.into();
    state.as_object_mut().expect("an object").remove("settings").expect("settings");
    let bytes = state.to_string().into_bytes();
    let mut print = Fingerprint::default();
    print.add(&bytes);
    fs::write(&path, bytes).expect("written");
    let path = checkpoint.join("sums.json");
    let mut sums: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("bytes")).expect("JSON");
    sums["state.json"] = print.hex().into();
    fs::write(&path, sums.to_string()).expect("written");
}

#[test]
fn a_checkpoint_of_format_1_resumes_without_comparing_settings() {
    let stopped = Stopped::new();
    let weights = |run: &Path| fs::read(run.join("vcycle/model/model.safetensors")).expect("weights");
    let run_dir = stopped.edited("seed", "3");
    run(&run_dir, None, u64::MAX).expect("a run");
    let expected = weights(&run_dir);
    let run_dir = stopped.edited("seed", "3");
    for entry in fs::read_dir(run_dir.join("vcycle/checkpoints")).expect("a folder") {
        downgrade(&entry.expect("an entry").path());
    }
    run(&run_dir, None, u64::MAX).expect("a run");
    assert!(weights(&run_dir) == expected, "the run ended with different weights");
}
