//! Promise: BERT and DeiT train in V-cycles like GPT: a stopped and resumed run ends with the same bits, `vcycle eval
//! --run` scores the models, and the operator commands map them. Keys and data that do not fit the family are rejected,
//! naming the key or file.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use vcycle::config::Config;
use vcycle::device::cpu::Cpu;
use vcycle::device::ops::StepState;
use vcycle::device::{Device, read_floats};
use vcycle::families;
use vcycle::hub::{checkpoint, tensors};
use vcycle::model::Model;
use vcycle::model::deit::{Deit, DeitConfig, Distillation};
use vcycle::model::feed::Inputs;
use vcycle::model::store::Store;
use vcycle::run::folder::RunInfo;
use vcycle::run::{Outcome, Tools, resume, train};
use vcycle::runlog::progress::Progress;
use vcycle::tape::{Mode, Tape};

const FAMILIES: [&str; 2] = ["bert", "deit"];

fn vcycle(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).output().expect("the binary runs")
}

fn ok(args: &[&str]) -> String {
    let done = vcycle(args);
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Trains in `dir`, stopping after every `every` steps and resuming.
fn run(config: &Config, dir: &Path, every: usize) {
    let mut device = Cpu::new(1);
    let mut progress = Progress::new(true);
    let about = RunInfo::this_process("cpu", 1, String::new());
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
fn a_stopped_and_resumed_run_ends_with_the_same_bits() {
    for family in FAMILIES {
        let dir = tempfile::tempdir().expect("a folder");
        let config = format!("configs/{family}-tiny.toml");
        let changes = ["model.dropout=0.1", "train.accumulate=2"].map(str::to_string);
        let config = Config::read(config.as_ref(), &changes).expect("a configuration");
        let weights = |name: &str, every: usize| {
            let run_dir = dir.path().join(name);
            run(&config, &run_dir, every);
            ["vcycle", "scratch"]
                .map(|branch| fs::read(run_dir.join(branch).join("model/model.safetensors")).expect("weights"))
        };
        assert!(weights("whole", usize::MAX) == weights("parts", 3), "{family}");
    }
}

/// Returns `count` as a percentage of `all`, rounded to two decimals.
fn percent(count: usize, all: usize) -> f64 {
    format!("{:.2}", 100.0 * count as f64 / all as f64).parse().expect("a number")
}

/// Evaluates a vision transformer image by image, from its logits. Returns the number of held-out images, their mean
/// loss, and for how many of them the label has the highest score or one of the five highest.
fn score_by_hand(model: &Path, config: &Path, cache: &Path) -> (usize, f64, [usize; 2]) {
    let device = &mut Cpu::new(1);
    let checkpoint::Loaded { model, store, .. } = checkpoint::load(model, device).expect("a model");
    let config = families::read(config, &[]).expect("a configuration");
    let source = families::open(&config, cache, &mut |_| {}).expect("data").source(&config).expect("a source");
    let state = StepState::tensor(device.alloc(size_of::<StepState>()).expect("memory"));
    let float = device.float();
    let mut inputs = Inputs::new(device, &*model, (1, 0).into(), float).expect("memory");
    let (mut tape, mut vars) = (Tape::new(float, state), Vec::new());
    let mut fields = source.allocate(1).expect("memory");
    let (mut images, mut loss, mut hits) = (0, 0.0, [0; 2]);
    while source.held_out_batch(images, &mut fields).expect("an image").is_some() {
        inputs.write(device, &fields, 0).expect("written");
        tape.begin(Mode::Evaluate);
        store.declare_frozen(&mut tape, &mut vars);
        let given = inputs.declare(&mut tape);
        let (_, scores) = model.evaluation(&mut tape, &vars, given);
        let [Some(scores), None] = scores else { panic!("expected scores of one head") };
        tape.keep(scores);
        tape.run(device).expect("a forward pass");
        let logits = read_floats(device, &tape.value(scores).expect("kept")).expect("scores");
        let label = fields[1].as_ints()[0] as usize;
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        hits[0] += usize::from(order[0] == label);
        hits[1] += usize::from(order[..5].contains(&label));
        loss += logits.iter().map(|logit| logit.exp()).sum::<f64>().ln() - logits[label];
        images += 1;
    }
    (images, loss / images as f64, hits)
}

mod eval_and_the_operator_commands_work {
    #[test]
    fn for_bert() {
        super::eval_and_map("bert");
    }

    #[test]
    fn for_deit() {
        super::eval_and_map("deit");
    }
}

fn eval_and_map(family: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let config = format!("configs/{family}-tiny.toml");
    let output = ok(&[
        "train",
        &config,
        "--quiet",
        "--set",
        "train.eval_batches=0",
        "--set",
        "train.eval_every=1000",
        "--out",
        &path("run"),
    ]);
    assert!(output.contains("vcycle eval") && output.contains("--run"), "{output}");
    let model = path("run/vcycle/model");
    let output = ok(&["eval", &model, "--run", &config, "--batch", "4"]);
    let number = |what: &str| -> f64 {
        let line = output.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what} in {output}"));
        let rest = line.strip_prefix(what).expect("the name");
        rest.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
    };
    // The last held-out loss of the run itself.
    let metrics = fs::read_to_string(dir.path().join("run/vcycle/metrics.jsonl")).expect("metrics");
    let records = metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a record"));
    let last = records.filter_map(|r| r["valid_loss"].as_f64()).next_back().expect("an evaluation");
    // Means over batches of a different size differ by f32 rounding, and four decimals are printed.
    assert!((number("loss:") - last).abs() < 2e-4, "{family}: {output} but the run ended with {last}");
    if family == "deit" {
        let (images, loss, [top1, top5]) = score_by_hand(model.as_ref(), config.as_ref(), dir.path());
        assert_eq!(number("labels scored:"), images as f64);
        // Percentages are printed with two decimals.
        assert!(number("top-1:") == percent(top1, images) && number("top-5:") == percent(top5, images), "{output}");
        assert!((number("loss:") - loss).abs() < 1e-4, "{output} but by hand {loss}");
        // Otherwise the test would show little: top 5 of ten classes, with a model that has begun to learn.
        assert!(0 < top1 && top1 < top5 && top5 < images, "{top1} and {top5} of {images}");
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

/// As in `DeiTForImageClassification` of transformers, the distillation token takes part in attention but has no
/// classifier.
#[test]
fn a_distillation_token_needs_no_head() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let mut device = Cpu::new(1);
    let config = DeitConfig {
        image: 8,
        patch: 2,
        channels: 1,
        classes: 10,
        width: 32,
        heads: 2,
        layers: 2,
        ffn: 128,
        eps: 1e-6,
        init_std: 0.3,
        distillation: Distillation::Head,
        dropout: 0.0,
        drop_path: 0.0,
    };
    let with = Deit::new(config.clone()).expect("a model");
    let store = Store::new(with.table().clone(), &mut device).expect("memory");
    store.initialise(&mut device, 3).expect("weights");
    let head = with.table().find("head_dist.weight", None).expect("a head");
    store.write(&mut device, head, &[0.0; 320]).expect("written");
    fs::create_dir(path("with")).expect("a folder");
    checkpoint::save(path("with").as_ref(), &with, &store, &mut device).expect("saved");

    let without = Deit::new(DeitConfig { distillation: Distillation::Token, ..config }).expect("a model");
    let same = Store::new(without.table().clone(), &mut device).expect("memory");
    for i in 0..same.table.params.len() {
        assert_eq!(same.table.params[i].name(), store.table.params[i].name());
        let values = store.read(&mut device, i).expect("values");
        same.write(&mut device, i, &values).expect("written");
    }
    fs::create_dir(path("without")).expect("a folder");
    checkpoint::save(path("without").as_ref(), &without, &same, &mut device).expect("saved");
    let names = |model: &str| -> Vec<String> {
        let read = tensors::read(&dir.path().join(model).join("model.safetensors")).expect("tensors");
        let mut names: Vec<String> = read.into_iter().map(|tensor| tensor.name).collect();
        names.sort_unstable();
        names
    };
    let saved = names("without");
    for name in ["classifier.weight", "deit.embeddings.distillation_token", "deit.encoder.layer.1.output.dense.bias"] {
        assert!(saved.iter().any(|saved| saved == name), "{name} is not in {saved:?}");
    }

    // A head with zero weights has a loss of ln 10 and does not change the ranking.
    let text = fs::read_to_string("configs/deit-tiny.toml").expect("a configuration");
    fs::write(path("run.toml"), text.replace("patch = 2", "patch = 2\ndistilled = true")).expect("written");
    let score = |model: &str| {
        let output = ok(&["eval", &path(model), "--run", &path("run.toml")]);
        let number = |what: &str| -> f64 {
            let line =
                output.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what} in {output}"));
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
        };
        [number("loss:"), number("top-1:"), number("top-5:")]
    };
    let ([two, ranks @ ..], [one, same_ranks @ ..]) = (score("with"), score("without"));
    assert!((two - (one + 10f64.ln()) / 2.0).abs() < 1.5e-4 && ranks == same_ranks, "{two} and {one}");
    let refused = vcycle(&["eval", &path("without"), "--run", "configs/deit-tiny.toml"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("takes other inputs"));

    // The operators keep the tensor names and the architecture.
    ok(&["coalesce", &path("without"), "--layers", "1", "--heads", "1", "--out", &path("small")]);
    ok(&["decoalesce", &path("small"), "--out", &path("grown")]);
    ok(&["interpolate", &path("without"), &path("small"), "--alpha", "0.25", "--out", &path("mixed")]);
    assert!(names("grown") == saved && names("mixed") == saved);
    assert!(fs::read_to_string(path("small/config.json")).expect("a file").contains("\"DeiTForImageClassification\""));
    ok(&["eval", &path("small"), "--run", &path("run.toml")]);
}

#[test]
fn keys_and_data_that_do_not_fit_the_family_are_rejected() {
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
        assert!(!Path::new(&out).exists(), "{family} {change}: a run folder was left behind");
    }
}
