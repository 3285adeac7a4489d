//! Promise: BERT and DeiT train in V-cycles as GPT does: stopped and resumed with the same bits, scored by `vcycle eval --run`, mapped by
//! the commands; and what does not belong to a family, or is not its data, is refused by key or file.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use vcycle::device::cpu::Cpu;
use vcycle::train::config::Config;
use vcycle::train::folder::About;
use vcycle::train::progress::Progress;
use vcycle::train::run::{Outcome, Tools, resume, train};

const FAMILIES: [&str; 2] = ["bert", "deit"];

fn vcycle(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).output().expect("the binary runs")
}

fn ok(args: &[&str]) -> String {
    let done = vcycle(args);
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A run in `dir`, stopped after every `every` steps and gone on with.
fn run(config: &Config, dir: &Path, every: usize) {
    let mut device = Cpu::new(1);
    let mut progress = Progress::new(true);
    let about = About::this_process("cpu", 1, String::new());
    let mut first = true;
    loop {
        let steps = std::cell::Cell::new(0);
        let stop = || {
            steps.set(steps.get() + 1);
            steps.get() == every
        };
        let cache = dir.parent().expect("a folder").join("cache");
        let tools = Tools { device: &mut device, cache: &cache, progress: &mut progress, stop: &stop };
        let outcome = if first { train(config, &about, dir, tools) } else { resume(dir, tools) };
        first = false;
        if let Outcome::Finished { .. } = outcome.expect("a run") {
            return;
        }
    }
}

#[test]
fn a_run_that_is_stopped_ends_with_the_same_bits() {
    for family in FAMILIES {
        let dir = tempfile::tempdir().expect("a folder");
        let config = format!("configs/{family}-tiny.toml");
        let changes = ["model.dropout=0.1", "train.accumulate=2"].map(str::to_string);
        let config = Config::read(config.as_ref(), &changes).expect("a configuration");
        let weights = |name: &str, every: usize| {
            let run_dir = dir.path().join(name);
            run(&config, &run_dir, every);
            ["vcycle", "scratch"]
                .map(|side| fs::read(run_dir.join(side).join("model/model.safetensors")).expect("weights"))
        };
        assert!(weights("whole", usize::MAX) == weights("parts", 3), "{family}");
    }
}

#[test]
fn models_are_scored_and_mapped_by_the_commands() {
    for family in FAMILIES {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!("configs/{family}-tiny.toml");
        let said = ok(&["train", &config, "--quiet", "--set", "train.eval_batches=0", "--out", &path("run")]);
        assert!(said.contains("vcycle eval") && said.contains("--run"), "{said}");
        let model = path("run/vcycle/model");
        let said = ok(&["eval", &model, "--run", &config, "--batch", "4"]);
        let number = |what: &str| -> f64 {
            let line = said.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what} in {said}"));
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
        };
        // The held-out loss that the run itself ended with.
        let metrics = fs::read_to_string(dir.path().join("run/vcycle/metrics.jsonl")).expect("metrics");
        let records = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a record"));
        let last = records.filter_map(|r| r["valid_loss"].as_f64()).next_back().expect("an evaluation");
        // Means over batches of other sizes differ by the roundings of f32, and four digits are printed.
        assert!((number("loss:") - last).abs() < 2e-4, "{family}: {said} beside {last}");
        if family == "deit" {
            assert!(number("top-1:") <= number("top-5:") && number("top-5:") <= 100.0, "{said}");
        }
        ok(&["coalesce", &model, "--layers", "1", "--heads", "1", "--out", &path("small")]);
        ok(&["decoalesce", &path("small"), "--out", &path("grown")]);
        ok(&["interpolate", &model, &path("small"), "--alpha", "0.5", "--out", &path("mixed")]);
        ok(&["eval", &path("mixed"), "--run", &config]);
        let refused = vcycle(&["eval", &path("small"), "--data", "README.md"]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && text.contains("is not a GPT-2"), "{text}");
        let other = if family == "bert" { "configs/deit-tiny.toml" } else { "configs/bert-tiny.toml" };
        let refused = vcycle(&["eval", &model, "--run", other]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && text.contains("takes other inputs"), "{text}");
    }
}

#[test]
fn what_does_not_belong_to_a_family_is_refused() {
    let empty = tempfile::tempdir().expect("a folder");
    let folder = format!("data.images.train.files={{format=\"folder\",folder=\"{}\",size=8}}", empty.path().display());
    for (family, change, words) in [
        ("gpt", "masking={}", &["masking", "leave it out"][..]),
        ("gpt", "model.norm=pre", &["model.norm"]),
        ("gpt", "train.label_smoothing=0.1", &["train.label_smoothing"]),
        ("bert", "model.image=8", &["model.image"]),
        ("bert", "masking.rate=1.5", &["masking.rate", "1.5"]),
        ("bert", "model.context=2", &["context"]),
        ("bert", "rules.depth=split", &["split", "norm"]),
        ("bert", "augment={}", &["augment"]),
        ("deit", "model.context=8", &["model.context"]),
        ("deit", "model.patch=3", &["3", "8"]),
        ("deit", "model.drop_path=1.0", &["model.drop_path"]),
        ("deit", "data.text=README.md", &["text", "images"]),
        ("deit", "data.images.held_out_every=1", &["held_out_every"]),
        ("deit", "data.images.train.files.file=nowhere.csv", &["nowhere.csv"]),
        ("deit", "data.images.train.files.file=README.md", &["README.md", "line 1"]),
        ("deit", "view.std=[0.0]", &["view.std"]),
        ("deit", folder.as_str(), &["folder"]),
    ] {
        let out = empty.path().join("run").display().to_string();
        let config = format!("configs/{family}-tiny.toml");
        let done = vcycle(&["train", &config, "--quiet", "--set", change, "--out", &out]);
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{family} {change}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{family} {change}: {text}");
        assert!(!Path::new(&out).exists(), "{family} {change}: nothing is left");
    }
}
