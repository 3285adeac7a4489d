//! Run configurations and `--set`.

use crate::judge::{folder, judge, write};
use crate::mutate::{self, Case};
use std::path::Path;
use vcycle::config::Config;
use vcycle::device::cpu::Cpu;
use vcycle::error::Result;
use vcycle::families;
use vcycle::run::folder::RunInfo;
use vcycle::run::{Tools, train};
use vcycle::runlog::progress::Progress;

const VALID: &str = r#"seed = 1
[model]
family = "gpt"
layers = 2
heads = 2
head_size = 4
context = 16
dropout = 0.1
init_std = 0.02
[data]
text = "text.txt"
tokenizer = "byte"
held_out_every = 10
document_prefix = "line"
[train]
batch = 2
eval_every = 5
eval_batches = 1
recompute = false
[optimizer]
beta1 = 0.9
beta2 = 0.95
eps = 1e-8
weight_decay = 0.1
clip = 1.0
[rules]
width = "exact"
depth = "identity"
shares = "random"
[[levels]]
[levels.before]
steps = 1
lr = 1e-3
warmup = 1
decay = "wsd"
floor = 0.1
cooldown = 0.5
[levels.train]
steps = 1
lr = 1e-3
[[levels]]
layers = 1
width_scheme = [[0, 1]]
depth_scheme = [[0, 1]]
alpha = 0.5
[levels.train]
steps = 1
lr = 1e-3
[scratch]
steps = 1
lr = 1e-3
"#;

fn text() -> String {
    (0..300).map(|i| format!("line {i} of the text\n")).collect()
}

/// Whether every value of `given` is also in `taken`, up to the precision of f32.
fn agrees(given: &toml::Value, taken: &toml::Value) -> bool {
    match (given, taken) {
        (toml::Value::Table(a), toml::Value::Table(b)) => a.iter().all(|(k, v)| b.get(k).is_some_and(|w| agrees(v, w))),
        (toml::Value::Array(a), toml::Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(v, w)| agrees(v, w))
        }
        (a, toml::Value::Float(y)) => {
            let x = a.as_float().or(a.as_integer().map(|n| n as f64)).unwrap_or(f64::NAN);
            x == *y || (x - y).abs() <= 1e-6 * x.abs() + 1e-30
        }
        (a, b) => a == b,
    }
}

/// Reads a configuration and, if it is accepted, trains with it, at most one step per stage.
fn run(dir: &Path, changes: &[String]) -> Result<Config> {
    let mut config = families::read(&dir.join("run.toml"), changes)?;
    let accepted = config.clone();
    let stages = config.levels.iter_mut().flat_map(|level| level.before.iter_mut().chain([&mut level.train]));
    for stage in stages.chain(&mut config.scratch) {
        stage.steps = stage.steps.min(1);
        stage.warmup = stage.warmup.min(stage.steps);
    }
    config.data.text = config.data.text.map(|text| dir.join(text));
    let out = dir.join("out");
    let (mut device, mut progress, cache) = (Cpu::new(1), Progress::new(true), dir.join("cache"));
    let tools = Tools { device: &mut device, cache: &cache, progress: &mut progress, stop: &|| false };
    let done = train(&config, &RunInfo::this_process("cpu", 1, String::new()), &out, tools);
    // Remove what it left, so that the next case starts afresh.
    let _ = std::fs::remove_dir_all(&out);
    done.map(|_| accepted).map_err(|e| e.at("run.toml"))
}

#[test]
fn hostile_values() {
    let dir = folder();
    write(&dir.path().join("text.txt"), text().as_bytes());
    let mut accepted = 0;
    for Case { name, bytes } in mutate::toml(VALID) {
        write(&dir.path().join("run.toml"), &bytes);
        let at = dir.path().to_path_buf();
        let Ok(config) = judge("run.toml", &name, move || run(&at, &[])) else { continue };
        accepted += 1;
        // Integers may be too large for the `toml` crate's value type.
        let Ok(given) = toml::from_str(std::str::from_utf8(&bytes).expect("UTF-8")) else {
            assert!(name.ends_with(" = 9223372036854775808"), "{name}");
            continue;
        };
        let taken = toml::Value::try_from(&config).expect("a table");
        assert!(agrees(&given, &taken), "{name}: read as {taken}");
    }
    assert!(accepted > 20, "only {accepted} values were accepted, but most are valid for some key");
}

#[test]
fn damaged_bytes() {
    let dir = folder();
    write(&dir.path().join("text.txt"), text().as_bytes());
    for Case { name, bytes } in mutate::bytes(VALID.as_bytes(), &[1, 100, VALID.len()], 5, 40) {
        write(&dir.path().join("run.toml"), &bytes);
        let at = dir.path().to_path_buf();
        // Accepted configurations must hold the values of the file. Training is tested elsewhere.
        let Ok(config) = judge("run.toml", &name, move || families::read(&at.join("run.toml"), &[])) else { continue };
        let given = toml::from_str(std::str::from_utf8(&bytes).expect("UTF-8")).expect("TOML");
        assert!(agrees(&given, &toml::Value::try_from(&config).expect("a table")), "{name}");
    }
    let path = dir.path().join("run.toml");
    mutate::in_place_of(&path.clone(), |name| {
        let path = path.clone();
        judge("run.toml", name, move || families::read(&path, &[])).expect_err(name);
    });
}

#[test]
fn hostile_changes() {
    let dir = folder();
    write(&dir.path().join("text.txt"), text().as_bytes());
    write(&dir.path().join("run.toml"), VALID.as_bytes());
    let deep = format!("{}b=1", "a.".repeat(60_000));
    for (change, says) in [
        ("seed=18446744073709551615", "seed"),
        ("seed=18446744073709551616", "seed"),
        ("seed=-1", "seed"),
        ("train.batch=1979-05-27", "batch"),
        ("train.batch=100000000", "out of memory"),
        ("train.batch=20000000", "out of memory"),
        ("train.batch=2000000", "out of memory"),
        ("train.batch=9223372036854775807", "below 2^31"),
        ("model.context=1000000000", "parameters"),
        ("model.context=100000000", "context"),
        ("model.layers=100000", "layers"),
        ("model.heads=4000000", "parameters"),
        ("model.head_size=8000", "parameters"),
        ("model.head_size=9223372036854775807", "below 2^24"),
        ("model.dropout=nan", "dropout"),
        ("levels.0.train.lr=inf", "learning rate"),
        ("levels.0.train.lr=1e308", "diverged"),
        ("levels.18446744073709551616.train.steps=1", "list of 2"),
        ("levels.1.depth_scheme=[[0,18446744073709551615]]", "depth_scheme"),
        ("levels.1.depth_scheme=[[0,9223372036854775807]]", "9223372036854775807"),
        ("data.text=/dev/zero", "/dev/zero"),
        ("data.text=.", "folder"),
        ("data.tokenizer=bpe:18446744073709551616", "bpe"),
        ("data.held_out_every=9223372036854775807", "held_out_every"),
        (&deep, "parts"),
        ("=", "empty"),
    ] {
        let (at, changes) = (dir.path().to_path_buf(), vec![change.to_string()]);
        let shown = &change[..change.len().min(60)];
        let message = judge("run.toml", shown, move || run(&at, &changes)).expect_err(shown);
        assert!(message.contains(says), "{shown}: {message}");
    }
    let many: Vec<String> = (0..5000)
        .map(|i| format!("[[levels]]\nlayers = {}\nalpha = 0.5\ntrain = {{ steps = 1, lr = 1 }}\n", 9000 - i))
        .collect();
    let (head, _) = VALID.split_once("[scratch]").expect("a baseline");
    write(&dir.path().join("run.toml"), [head, &many.concat()].concat().as_bytes());
    let at = dir.path().to_path_buf();
    let message = judge("run.toml", "many levels", move || run(&at, &[])).expect_err("many levels");
    assert!(message.contains("levels: 5002"), "{message}");
}
