//! The folder of a stopped run: its checkpoints and the files beside them.
//!
//! Resuming from a damaged folder either gives exactly the weights of a run that was never stopped, or is refused with
//! all checkpoints unchanged. Not detected if the checksums are valid: other finite weights, and counters that are
//! stored nowhere else (micro-batches, updates). A valid change of the configuration counts as intended.

use crate::judge::{assert_useful, folder, judge, write};
use crate::mutate::{self, Case, Random};
use serde_json::{Value, json};
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
[model]
family = "gpt"
layers = 2
heads = 2
head_size = 4
context = 8
dropout = 0.1
[data]
text = "text.txt"
tokenizer = "char"
[train]
batch = 2
accumulate = 2
eval_every = 3
eval_batches = 1
checkpoint_every = 2
[[levels]]
before = { steps = 4, lr = 1e-2 }
train = { steps = 3, lr = 1e-2, optimizer = "transfer" }
[[levels]]
layers = 1
heads = 1
alpha = 0.5
train = { steps = 5, lr = 1e-2, optimizer = "transfer" }
"#;

pub const NEWEST: &str = "vcycle/checkpoints/stage-2-step-00000007";
const OLDER: &str = "vcycle/checkpoints/stage-2-step-00000006";
const METRICS: &str = "vcycle/metrics.jsonl";
/// More steps than the rest of the run has. Cuts short the steps that a changed configuration adds.
const MOST_STEPS: usize = 20;

/// A run that was stopped in the middle of its second stage.
pub struct Stopped {
    dir: TempDir,
    /// The final weights of a run that was not stopped.
    pub weights: Vec<u8>,
}

/// Trains with a configuration, or resumes without one, until `steps` steps are done. Returns the weights if the run
/// finished.
fn run(dir: &Path, config: Option<&Config>, steps: usize) -> Result<Option<Vec<u8>>> {
    let (mut device, mut progress, done) = (Cpu::new(1), Progress::new(true), Cell::new(0));
    let stop = || {
        done.set(done.get() + 1);
        done.get() >= steps
    };
    let cache = dir.with_file_name("data");
    let tools = Tools { device: &mut device, cache: &cache, progress: &mut progress, stop: &stop };
    let outcome = match config {
        Some(config) => train(config, &RunInfo::this_process("cpu", 1, String::new()), dir, tools)?,
        None => resume(dir, tools)?,
    };
    Ok(match outcome {
        Outcome::Finished { dir, .. } => Some(fs::read(dir.join("vcycle/model/model.safetensors")).expect("weights")),
        Outcome::Stopped { .. } => None,
    })
}

impl Stopped {
    pub fn new() -> Self {
        let dir = folder();
        let at = dir.path();
        let text: String = (0..300).map(|i| format!("the {} of {}\n", i % 97, i % 13)).collect();
        write(&at.join("text.txt"), text.as_bytes());
        let config = CONFIG.replace("text.txt", &at.join("text.txt").display().to_string());
        let config = families::parse(&config, &[]).expect("a configuration");
        let weights = run(&at.join("whole"), Some(&config), usize::MAX).expect("a run").expect("finished");
        assert!(run(&at.join("stopped"), Some(&config), 7).expect("a run").is_none());
        assert!(at.join("stopped").join(NEWEST).is_dir() && at.join("stopped").join(OLDER).is_dir());
        Stopped { dir, weights }
    }

    /// The folder of the copy that tests damage.
    pub fn run(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn bytes(&self, file: &str) -> Vec<u8> {
        fs::read(self.dir.path().join("stopped").join(file)).expect("a file")
    }

    /// Restores the copy, but leaves `except` as it is.
    pub fn reset(&self, except: &Path) {
        fs::create_dir_all(self.run()).expect("a folder");
        clear(&self.run(), except);
        copy(&self.dir.path().join("stopped"), &self.run(), except);
    }

    /// Resumes the copy. Asserts that a refusal names `file` and leaves all checkpoints unchanged, unless training
    /// diverged.
    pub fn judge(&self, file: &str, case: &str) -> Result<Option<Vec<u8>>, String> {
        let (run_dir, checkpoints) = (self.run(), self.run().join("vcycle/checkpoints"));
        let before = content(&checkpoints);
        let found = judge(file, case, move || run(&run_dir, None, MOST_STEPS));
        if found.as_ref().is_err_and(|message| !message.contains("training diverged")) {
            assert!(before == content(&checkpoints), "{file}, {case}: refused, but changed checkpoints");
        }
        found
    }

    /// Damages the copy and resumes it, with the second-newest checkpoint or, if `alone`, without it. Returns the
    /// message of a refusal; otherwise asserts that the weights are right.
    pub fn with(&self, alone: bool, file: &str, case: &str, damage: impl FnOnce(&Path)) -> Option<String> {
        self.reset(Path::new(""));
        if alone {
            fs::remove_dir_all(self.run().join(OLDER)).expect("removed");
        }
        damage(&self.run());
        match self.judge(file, case) {
            Ok(weights) => {
                assert!(weights.as_ref() == Some(&self.weights), "{file}, {case}: different weights (alone: {alone})");
                None
            }
            Err(message) => Some(message),
        }
    }
}

fn remove(path: &Path) {
    let _ = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

fn clear(dir: &Path, except: &Path) {
    for path in fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()) {
        match except.starts_with(&path) {
            true if path == except => {}
            true => clear(&path, except),
            false => remove(&path),
        }
    }
}

fn copy(from: &Path, to: &Path, except: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let (from, to) = (entry.as_ref().expect("an entry").path(), to.join(entry.expect("an entry").file_name()));
        if to == except {
            continue;
        }
        if from.is_dir() {
            fs::create_dir_all(&to).expect("a folder");
            copy(&from, &to, except);
        } else {
            fs::copy(&from, &to).expect("copied");
        }
    }
}

/// Every file below `dir` with its length and, unless it is a sparse file of a GiB or more, its bytes.
fn content(dir: &Path) -> BTreeMap<PathBuf, (u64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for path in fs::read_dir(dir).into_iter().flatten().map(|e| e.expect("an entry").path()) {
        let facts = fs::symlink_metadata(&path).expect("it is there");
        if facts.is_dir() {
            all.extend(content(&path));
        } else if facts.is_file() {
            let bytes = if facts.len() < 1 << 30 { fs::read(&path).expect("bytes") } else { Vec::new() };
            all.insert(path, (facts.len(), bytes));
        } else {
            all.insert(path, (0, Vec::new()));
        }
    }
    all
}

/// Replaces a file of the newest checkpoint and updates its checksum.
pub fn put(run: &Path, file: &str, bytes: &[u8]) {
    write(&run.join(NEWEST).join(file), bytes);
    let path = run.join(NEWEST).join("sums.json");
    let mut sums: Value = serde_json::from_slice(&fs::read(&path).expect("sums")).expect("JSON");
    let mut print = Fingerprint::default();
    print.add(bytes);
    sums[file] = print.hex().into();
    write(&path, sums.to_string().as_bytes());
}

#[test]
fn checksums_of_this_test_match_those_of_the_program() {
    let stopped = Stopped::new();
    let refusal = stopped.with(true, "state.json", "written again", |run| {
        for file in ["state.json", "tensors.safetensors"] {
            put(run, file, &stopped.bytes(&format!("{NEWEST}/{file}")));
        }
    });
    assert_eq!(refusal, None);
}

#[test]
fn damaged_files_of_a_checkpoint() {
    let stopped = Stopped::new();
    for (number, file) in ["state.json", "tensors.safetensors", "sums.json"].into_iter().enumerate() {
        let path = format!("{NEWEST}/{file}");
        let valid = stopped.bytes(&path);
        let mut cases = mutate::bytes(&valid, &[8, valid.len() / 2, valid.len()], number as u64, 4);
        if file.ends_with(".json") {
            cases.extend(mutate::json(&serde_json::from_slice(&valid).expect("JSON"), number as u64, 6));
        }
        for Case { name, bytes } in cases {
            let damage = |run: &Path| write(&run.join(&path), &bytes);
            assert_eq!(
                stopped.with(false, file, &name, damage),
                None,
                "{name}: the run should resume from the older checkpoint"
            );
            let refusal = stopped.with(true, file, &name, damage);
            // Equal checksums may be written in another form.
            assert!(refusal.is_some() || file == "sums.json", "{file}, {name}: accepted");
        }
        let missing = |run: &Path| fs::remove_file(run.join(&path)).expect("removed");
        assert_eq!(stopped.with(false, file, "missing", missing), None);
        assert!(stopped.with(true, file, "missing", missing).is_some(), "{file} is missing");
        stopped.reset(Path::new(""));
        fs::remove_dir_all(stopped.run().join(OLDER)).expect("removed");
        mutate::in_place_of(&stopped.run().join(&path), |name| {
            stopped.judge(file, name).expect_err(name);
        });
    }
    assert_eq!(
        stopped.with(false, "", "a file in place of the newest", |run| {
            fs::remove_dir_all(run.join(NEWEST)).expect("removed");
            write(&run.join(NEWEST), b"");
        }),
        None
    );
}

#[test]
fn invalid_states_with_valid_checksums_are_refused() {
    let stopped = Stopped::new();
    let state: Value = serde_json::from_slice(&stopped.bytes(&format!("{NEWEST}/state.json"))).expect("JSON");
    let place = "stage-2-step-00000007";
    for Case { name, bytes } in mutate::json(&state, 5, 40) {
        // Counters that are stored nowhere else.
        if ["/passes", "updates"].iter().any(|key| name.contains(key)) {
            continue;
        }
        for alone in [false, true] {
            stopped.with(alone, place, &name, |run| put(run, "state.json", &bytes));
        }
    }
    let bytes = state["metrics_bytes"].as_u64().expect("a number");
    let lies: &[(&str, &str, Value)] = &[
        ("/format", place, json!(1)),
        ("/format", place, json!(3)),
        ("/format", place, json!(0)),
        ("/at/level", place, json!(0)),
        ("/at/level", place, json!(1)),
        ("/at/level", place, json!(u64::MAX)),
        ("/at/stage", "stage-0-step-00000007", json!(0)),
        ("/at/stage", "stage-1-step-00000007", json!(1)),
        ("/at/stage", "stage-4-step-00000007", json!(4)),
        ("/at/stage", "stage-18446744073709551615-step-00000007", json!(u64::MAX)),
        ("/at/stage", place, json!(1)),
        ("/at/step", "stage-2-step-00000008", json!(8)),
        ("/at/step", "stage-2-step-18446744073709551615", json!(u64::MAX)),
        ("/at/step", place, json!(8)),
        ("/at/step", place, json!(-1)),
        ("/at/flops", place, json!(0)),
        ("/at/flops", place, json!(u64::MAX)),
        ("/at/hardware_flops", place, json!(u64::MAX)),
        ("/at/seconds", place, json!(-1)),
        ("/at/seconds", place, json!(1e300)),
        ("/stage_step", place, json!(0)),
        ("/stage_step", place, json!(4)),
        ("/stage_step", place, json!(6)),
        ("/stage_step", place, json!(u64::MAX)),
        ("/metrics_bytes", place, json!(0)),
        ("/metrics_bytes", place, json!(-1)),
        ("/metrics_bytes", place, json!(bytes - 1)),
        ("/metrics_bytes", place, json!(bytes / 2)),
        ("/metrics_bytes", place, json!(bytes + 1)),
        ("/metrics_bytes", place, json!(u64::MAX)),
        ("/valid_loss", place, json!(0)),
        ("/valid_here", place, json!(false)),
        ("/waited", place, json!(-1)),
        ("/data", place, json!("another-0123456789abcdef")),
        ("/levels", place, json!([])),
        ("/levels", place, json!([state["levels"][1]])),
        ("/levels", place, json!([state["levels"][1], state["levels"][1]])),
        ("/levels", place, json!([state["levels"][0], state["levels"][1], state["levels"][1]])),
        ("/levels/0/level", place, json!(0)),
        ("/levels/0/level", place, json!(u64::MAX)),
        ("/levels/0/layout", place, json!("")),
        ("/levels/0/updates", place, Value::Null),
        ("/levels/1/updates", place, Value::Null),
        ("/levels/1/updates", place, json!(u64::MAX)),
        ("/operations/0/calls", place, json!(u64::MAX)),
        ("/operations/0/flops", place, json!(u64::MAX)),
        ("/operations/0/seconds", place, json!(-1)),
    ];
    for (key, renamed, value) in lies {
        let case = format!("{key} is {value}");
        let damage = |run: &Path| {
            let mut lie = state.clone();
            *lie.pointer_mut(key).expect(key) = value.clone();
            put(run, "state.json", lie.to_string().as_bytes());
            fs::rename(run.join(NEWEST), run.join("vcycle/checkpoints").join(renamed)).expect("renamed");
        };
        // The message names the checkpoint, or the file that its state contradicts.
        let refusal = stopped.with(true, "vcycle", &case, damage).unwrap_or_else(|| panic!("{case}: accepted"));
        assert!(refusal.contains(renamed) || refusal.contains("metrics.jsonl") || *key == "/data", "{case}: {refusal}");
        stopped.with(false, "vcycle", &case, damage);
    }
    for bytes in [0, 1, u64::MAX] {
        let mut lie = state.clone();
        lie["tensorboard_bytes"] = bytes.into();
        let case = format!("tensorboard_bytes is {bytes}");
        let refusal = stopped.with(true, place, &case, |run| put(run, "state.json", lie.to_string().as_bytes()));
        assert_eq!(refusal, None, "a wrong tensorboard_bytes should not stop the run");
    }
    let mut more = state.clone();
    more["unknown"] = json!(1);
    for alone in [false, true] {
        let refusal = stopped.with(alone, "state.json", "a later version", |run| {
            put(run, "state.json", more.to_string().as_bytes());
        });
        let refusal = refusal.expect("a checkpoint of another version should be refused, so that it is not removed");
        assert!(
            refusal.contains("unknown field `unknown`") && refusal.contains("the version that wrote it"),
            "{refusal}"
        );
    }
}

#[test]
fn changed_configurations_of_a_run() {
    let stopped = Stopped::new();
    let valid = String::from_utf8(stopped.bytes("config.toml")).expect("text");
    let same = |text: &[u8]| {
        let config = std::str::from_utf8(text).ok().and_then(|text| families::parse(text, &[]).ok());
        config.is_some_and(|config| toml::to_string(&config).expect("text") == valid)
    };
    let (mut random, mut went_on) = (Random(7), 0);
    for Case { name, bytes } in mutate::toml(&valid) {
        // There are about a thousand; try all deep nestings and an eighth of the others.
        if !name.starts_with("deep") && random.below(8) != 0 {
            continue;
        }
        stopped.reset(Path::new(""));
        write(&stopped.run().join("config.toml"), &bytes);
        match stopped.judge("", &name) {
            Ok(weights) => {
                assert!(!same(&bytes) || weights.as_ref() == Some(&stopped.weights), "{name}: different weights");
                went_on += 1;
            }
            // The message names the file, or something that the file names.
            Err(message) => assert_useful("", &name, &message),
        }
    }
    assert!(went_on > 5, "only {went_on} runs resumed");
    stopped.reset(Path::new(""));
    mutate::in_place_of(&stopped.run().join("config.toml"), |name| {
        stopped.judge("config.toml", name).expect_err(name);
    });
}

#[test]
fn damaged_metrics_lose_no_checkpoint() {
    let stopped = Stopped::new();
    let valid = stopped.bytes(METRICS);
    let missing = |run: &Path| fs::remove_file(run.join(METRICS)).expect("removed");
    for alone in [false, true] {
        let refusal = stopped.with(alone, "metrics.jsonl", "missing", missing).expect("refused");
        assert!(refusal.contains("; "), "{refusal}");
        stopped.with(alone, "metrics.jsonl", "empty", |run| write(&run.join(METRICS), b"")).expect("refused");
    }
    // Only the newest checkpoint needs the last byte.
    let cut = |run: &Path| write(&run.join(METRICS), &valid[..valid.len() - 1]);
    assert_eq!(stopped.with(false, "metrics.jsonl", "a byte short", cut), None);
    assert!(stopped.with(true, "metrics.jsonl", "a byte short", cut).is_some());
    for Case { name, bytes } in mutate::bytes(&valid, &[1, valid.len() / 2, valid.len()], 8, 12) {
        for alone in [false, true] {
            stopped.with(alone, "metrics.jsonl", &name, |run| write(&run.join(METRICS), &bytes));
        }
    }
    let text = String::from_utf8(valid).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    for (case, line) in [("empty", ""), ("no JSON", "nothing"), ("no event", "{}"), ("a list", "[1]")] {
        let mut damaged = lines.clone();
        // The length is unchanged, as after a bad sector.
        let padded = format!("{line:0$}", lines[3].len());
        damaged[3] = &padded;
        let damage = |run: &Path| write(&run.join(METRICS), (damaged.join("\n") + "\n").as_bytes());
        let refusal = stopped.with(false, "metrics.jsonl", case, damage).expect("refused");
        assert!(refusal.contains("line 4 is damaged"), "{refusal}");
    }
    stopped.reset(Path::new(""));
    mutate::in_place_of(&stopped.run().join(METRICS), |name| {
        stopped.judge("metrics.jsonl", name).expect_err(name);
    });
}

#[test]
fn other_files_are_optional_or_refused() {
    let stopped = Stopped::new();
    let board = "vcycle/tensorboard/events.out.tfevents.vcycle";
    for file in ["run.json", board] {
        let valid = stopped.bytes(file);
        for Case { name, bytes } in mutate::bytes(&valid, &[8, valid.len() / 2], 9, 3) {
            assert_eq!(stopped.with(true, file, &name, |run| write(&run.join(file), &bytes)), None, "{name}");
        }
        assert_eq!(stopped.with(true, file, "missing", |run| fs::remove_file(run.join(file)).expect("removed")), None);
        stopped.reset(Path::new(""));
        let path = stopped.run().join(file);
        mutate::in_place_of(&path, |name| {
            stopped.reset(&path);
            let found = stopped.judge(file, name).unwrap_or_else(|e| panic!("{file} is {name}: {e}"));
            assert!(found.as_ref() == Some(&stopped.weights), "{file} is {name}");
        });
    }
    stopped.reset(Path::new(""));
    let lock = stopped.run().join("lock");
    mutate::in_place_of(&lock, |name| {
        stopped.reset(&lock);
        match stopped.judge("lock", name) {
            Ok(weights) => assert!(name == "a terabyte" && weights.as_ref() == Some(&stopped.weights), "{name}"),
            Err(message) => assert!(message.contains("remove it"), "{message}"),
        }
    });
    for path in ["vcycle", "vcycle/checkpoints", "vcycle/tensorboard"] {
        let refusal = stopped.with(false, path, "a file", |run| {
            fs::remove_dir_all(run.join(path)).expect("removed");
            write(&run.join(path), b"");
        });
        assert!(refusal.is_some(), "{path} is a file");
    }
    // Without any checkpoint, the run starts from the beginning and ends with the same weights.
    for path in ["vcycle", "vcycle/checkpoints"] {
        let gone = |run: &Path| fs::remove_dir_all(run.join(path)).expect("removed");
        assert_eq!(stopped.with(false, path, "missing", gone), None);
    }
}
