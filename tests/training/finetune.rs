//! Promise: `vcycle train` trains BERT on labelled texts, from initial weights or from a checkpoint, for classification
//! or regression, with or without V-cycles; metrics are computed on the held-out file; conflicting settings are
//! rejected by key.

use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;
use vcycle::config::Config;
use vcycle::data::text::read_text;
use vcycle::device::cpu::Cpu;
use vcycle::eval::metrics::TaskMetrics;
use vcycle::run::folder::RunInfo;
use vcycle::run::{Outcome, Tools, resume, train};
use vcycle::runlog::progress::Progress;

const EXAMPLE: &str = "configs/bert-finetune-tiny.toml";

fn vcycle(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).output().expect("the binary runs")
}

/// Runs a command that must succeed. Returns standard output and standard error.
fn ok(args: &[&str]) -> (String, String) {
    let done = vcycle(args);
    let [out, notes] = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
    assert!(done.status.success(), "{args:?}: {notes}");
    (out, notes)
}

struct Workplace(TempDir);

impl Workplace {
    fn new() -> Self {
        Workplace(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// Trains `config` with changes in the folder `name`. Returns standard error, where the notes are.
    fn train(&self, name: &str, config: &str, changes: &[&str]) -> String {
        let out = self.path(name);
        let mut args = vec!["train", config, "--threads", "2", "--out", &out];
        changes.iter().for_each(|change| args.extend(["--set", change]));
        ok(&args).1
    }

    /// Returns the evaluations of a branch.
    fn evaluations(&self, branch: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.0.path().join(branch).join("metrics.jsonl")).expect("metrics");
        let all = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a record"));
        all.filter(|record| record["event"] == "eval").collect()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.path().join(name)).expect("a file")).expect("JSON")
    }

    /// Returns the bytes of every tensor of a model.
    fn tensors(&self, model: &str) -> BTreeMap<String, Vec<u8>> {
        let bytes = fs::read(self.0.path().join(model).join("model.safetensors")).expect("weights");
        let all = SafeTensors::deserialize(&bytes).expect("tensors");
        all.iter().map(|(name, view)| (name.to_string(), view.data().to_vec())).collect()
    }

    /// Writes the sentences of the example with their year as a target between 0 and 2. Returns the changes that train
    /// on them.
    fn regression(&self) -> Vec<String> {
        for split in ["train", "valid"] {
            let text = read_text(Path::new(&format!("data/sotu-century.{split}.tsv.zst"))).expect("sentences");
            let rows = text.lines().skip(1).map(|line| {
                let cells: Vec<&str> = line.split('\t').collect();
                let year: f64 = cells[0].parse().expect("a year");
                format!("{}\t{}\n", (year - 1800.0) / 100.0, cells[2])
            });
            fs::write(self.path(split), rows.collect::<String>()).expect("written");
        }
        let [train, valid] = ["train", "valid"].map(|split| self.path(split));
        vec![format!("data.task={{train=\"{train}\", valid=\"{valid}\", sentence=2, label=1, regression=true}}")]
    }

    /// Trains a masked language model of the same sizes as the example's for two steps. Returns the changes that start
    /// from it.
    fn checkpoint(&self) -> Vec<String> {
        self.train(
            "base",
            "configs/bert-tiny.toml",
            &[
                "levels=[{train={steps=2,lr=1e-3}}]",
                "scratch={steps=1,lr=1e-3}",
                "data.tokenizer=bpe:512",
                "model.context=64",
            ],
        );
        let from = self.path("base/vcycle/model");
        vec![format!("model={{family=\"bert\", from=\"{from}\", context=48}}"), format!("data.tokenizer={from}")]
    }
}

fn number(record: &Value, name: &str) -> f64 {
    record["measures"][name].as_f64().unwrap_or_else(|| panic!("{name} in {record}"))
}

/// Returns the number after a name in the output of a command.
fn printed(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}

fn as_strs(changes: &[String]) -> Vec<&str> {
    changes.iter().map(String::as_str).collect()
}

#[test]
fn the_example_configuration_beats_chance() {
    let place = Workplace::new();
    let notes = place.train("run", EXAMPLE, &[]);
    let all = place.evaluations("run/vcycle");
    let (first, last) = (&all[0], &all[all.len() - 1]);
    // Half of the 318 sentences are from each century, so guessing has a standard deviation of 2.8 %.
    assert!((number(first, "accuracy") - 0.5).abs() < 0.1, "{first}");
    assert!(number(last, "accuracy") > 0.65 && number(last, "f1") > 0.6, "{last}");
    assert!(number(last, "matthews") > 0.3 && number(last, "matthews") > number(first, "matthews"), "{last}");
    assert!(last["valid_loss"].as_f64().is_some_and(|loss| loss < first["valid_loss"].as_f64().unwrap_or(0.0)));
    assert_eq!(last["tokens"], 318);
    // Each evaluation is reported.
    assert_eq!(notes.matches("accuracy").count(), all.len(), "{notes}");
    // `vcycle eval` on the saved model agrees.
    let (output, _) = ok(&["eval", &place.path("run/vcycle/model"), "--run", EXAMPLE, "--batch", "7"]);
    for name in ["accuracy", "f1", "matthews"] {
        assert!(
            (printed(&output, &format!("{name}:")) - number(last, name)).abs() < 1e-4,
            "{output} but the run ended with {last}"
        );
    }
    let config = place.json("run/vcycle/model/config.json");
    assert_eq!(config["architectures"][0], "BertForSequenceClassification");
    assert_eq!(config["id2label"].as_object().map(serde_json::Map::len), Some(2));
    // TensorBoard events and the report are written as for any run.
    assert!(place.0.path().join("run/vcycle/tensorboard").is_dir() && place.0.path().join("run/report.html").exists());
    // The model does not fit a configuration for a different task.
    let refused = vcycle(&["eval", &place.path("run/vcycle/model"), "--run", "configs/bert-tiny.toml"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn regression_learns_to_predict_numbers() {
    let place = Workplace::new();
    let changes = place.regression();
    place.train("run", EXAMPLE, &as_strs(&changes));
    let all = place.evaluations("run/vcycle");
    let last = &all[all.len() - 1];
    // 318 predictions that are independent of the labels have a correlation within 0.06 of zero as a rule.
    assert!(number(last, "pearson") > 0.3 && number(last, "spearman") > 0.3, "{last}");
    // Better than predicting the mean: years are spread evenly over two centuries, a variance of one third.
    assert!(last["valid_loss"].as_f64().is_some_and(|loss| loss < 0.3), "{last}");
    let config = place.path("run/config.toml");
    let (output, _) = ok(&["eval", &place.path("run/vcycle/model"), "--run", &config]);
    assert!(output.contains("mean squared error"), "{output}");
    assert!(
        (printed(&output, "pearson:") - number(last, "pearson")).abs() < 1e-4,
        "{output} but the run ended with {last}"
    );
    assert_eq!(place.json("run/vcycle/model/config.json")["id2label"].as_object().map(serde_json::Map::len), Some(1));
}

/// The losses of the same steps agree on emulated kernels and on the cpu.
#[cfg(emulated)]
#[test]
fn emulated_kernels_match_the_cpu() {
    let place = Workplace::new();
    let mut changes = place.regression();
    changes.extend(["levels=[{train={steps=3,lr=1e-3}}]", "train.batch=4", "train.eval_batches=3"].map(str::to_owned));
    let losses = |name: &str, device: &str| -> Vec<f64> {
        let out = place.path(name);
        let mut args = vec!["train", EXAMPLE, "--quiet", "--device", device, "--out", &out];
        changes.iter().for_each(|change| args.extend(["--set", change.as_str()]));
        ok(&args);
        let text = fs::read_to_string(place.path(&format!("{name}/vcycle/metrics.jsonl"))).expect("metrics");
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a record"));
        records.filter_map(|record| record["loss"].as_f64().or(record["valid_loss"].as_f64())).collect()
    };
    let (here, there) = (losses("cpu", "cpu"), losses("emulator", "emulator"));
    assert_eq!((here.len(), there.len()), (5, 5));
    assert!(here.iter().zip(&there).all(|(a, b)| (a - b).abs() < 1e-4 * a.max(0.1)), "{here:?} {there:?}");
}

#[test]
fn a_checkpoint_provides_all_weights_except_the_head() {
    let place = Workplace::new();
    let mut changes = place.checkpoint();
    // A learning rate too small to change any weight of this size.
    changes.push("levels=[{train={steps=1,lr=1e-30}}]".to_owned());
    let notes = place.train("run", EXAMPLE, &as_strs(&changes));
    let (base, found) = (place.tensors("base/vcycle/model"), place.tensors("run/vcycle/model"));
    for (name, values) in &found {
        let is_new = name.starts_with("classifier.") || name.starts_with("bert.pooler.");
        assert_eq!(base.get(name) == Some(values), !is_new, "{name}");
        assert_eq!(notes.contains(name.as_str()), is_new, "{name} in {notes}");
    }
    assert!(base.keys().filter(|name| name.starts_with("cls.")).all(|name| notes.contains(name.as_str())), "{notes}");
    assert_eq!(base.keys().filter(|name| name.starts_with("bert.")).count() + 4, found.len());
    // The context may be shorter than that of the checkpoint, whose position embeddings stay.
    assert_eq!(place.json("run/vcycle/model/config.json")["max_position_embeddings"], 64);
    // Starting from the fine-tuned model, no tensor is new.
    let again = place.path("run/vcycle/model");
    let notes = place.train(
        "again",
        EXAMPLE,
        &[
            &format!("model={{family=\"bert\", from=\"{again}\", context=48, heads=2}}"),
            &format!("data.tokenizer={again}"),
            "levels=[{train={steps=1,lr=1e-30}}]",
        ],
    );
    assert!(!notes.contains("new:"), "{notes}");
    for (name, values) in place.tensors("again/vcycle/model") {
        let numbers = |bytes: &[u8]| -> Vec<f32> {
            bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
        };
        // Biases that are zero do change, even at that rate.
        let close = numbers(&values).iter().zip(numbers(&found[&name])).all(|(a, b)| (a - b).abs() < 1e-28);
        assert!(close, "{name}");
    }
}

/// A V-cycle and its baseline start from the same weights, and a stopped and resumed run ends with the same bits.
#[test]
fn v_cycles_from_a_checkpoint_resume_with_the_same_bits() {
    let place = Workplace::new();
    let mut changes = place.checkpoint();
    let lower = "{layers=1, heads=1, alpha=0.5, train={steps=4,lr=1e-3}}";
    changes.push(format!("levels=[{{before={{steps=3,lr=1e-3}}, train={{steps=6,lr=1e-3}}}}, {lower}]"));
    changes.extend(["scratch={steps=4,lr=1e-3}", "train.eval_every=2", "train.accumulate=2"].map(str::to_owned));
    changes.push("model.dropout=0.1".to_owned());
    place.train("whole", EXAMPLE, &as_strs(&changes));
    let branches = ["vcycle", "scratch"].map(|branch| place.evaluations(&format!("whole/{branch}")));
    assert!(branches[0][0]["valid_loss"] == branches[1][0]["valid_loss"] && branches[0][0]["level"] == 1);
    assert!(branches[0].iter().any(|eval| eval["level"] == 2 && eval["measures"]["accuracy"].is_number()));
    let parts = place.0.path().join("parts");
    train_with_stops(&Config::read(EXAMPLE.as_ref(), &changes).expect("a configuration"), &parts, 3);
    for branch in ["vcycle", "scratch"] {
        assert!(
            place.tensors(&format!("whole/{branch}/model")) == place.tensors(&format!("parts/{branch}/model")),
            "{branch}"
        );
    }
}

/// Trains in `dir`, stopping after every `every` steps and resuming.
fn train_with_stops(config: &Config, dir: &Path, every: usize) {
    let (mut device, mut progress) = (Cpu::new(1), Progress::new(true));
    let about = RunInfo::this_process("cpu", 1, String::new());
    for number in 0.. {
        let steps = std::cell::Cell::new(0);
        let stop = || {
            steps.set(steps.get() + 1);
            steps.get() == every
        };
        let tools = Tools { device: &mut device, cache: dir, progress: &mut progress, stop: &stop };
        let outcome = if number == 0 { train(config, &about, dir, tools) } else { resume(dir, tools) };
        if let Outcome::Finished { measures, .. } = outcome.expect("a run") {
            assert!(number > 1, "the run was not stopped often enough");
            assert!(matches!(measures, Some(TaskMetrics::Classes { .. }) | None), "{measures:?}");
            return;
        }
    }
}

/// The message names the family, not the sizes that differ.
#[test]
fn a_checkpoint_of_another_family_is_refused() {
    let place = Workplace::new();
    place.checkpoint();
    let (from, out) = (place.path("base/vcycle/model"), place.path("run"));
    for (family, sizes) in [("deit", "image=8, patch=2"), ("gpt", "context=32")] {
        let model = format!("model={{family=\"{family}\", from=\"{from}\", layers=7, heads=5, {sizes}}}");
        let done = vcycle(&["train", &format!("configs/{family}-tiny.toml"), "--out", &out, "--set", &model]);
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{text}");
        let words = ["model.from", from.as_str(), "is a bert", &format!("model.family is {family}")];
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(!Path::new(&out).exists(), "{text}");
    }
}

/// The first evaluation of the new run equals the last evaluation of the run that wrote the checkpoint.
#[test]
fn every_family_can_start_from_its_own_checkpoint() {
    for (family, sizes) in [("gpt", ""), ("bert", ", context=32"), ("deit", ", image=8, patch=2, drop_path=0.1")] {
        let place = Workplace::new();
        let config = format!("configs/{family}-tiny.toml");
        let short = ["levels=[{train={steps=6,lr=1e-3}}]", "scratch={steps=1,lr=1e-3}"];
        place.train("base", &config, &short);
        let text = fs::read_to_string(&config).expect("a configuration");
        let context = text.lines().find(|line| line.starts_with("context")).unwrap_or_default();
        let sizes = if family == "gpt" { format!(", {context}") } else { sizes.to_owned() };
        let model = format!("model={{family=\"{family}\", from=\"{}\"{sizes}}}", place.path("base/vcycle/model"));
        let notes = place.train("on", &config, &[short[0], short[1], &model]);
        assert!(!notes.contains("new:"), "{notes}");
        let (before, after) = (place.evaluations("base/vcycle"), place.evaluations("on/vcycle"));
        assert_eq!(before[before.len() - 1]["valid_loss"], after[0]["valid_loss"], "{family}");
    }
}

#[test]
fn conflicting_settings_are_rejected() {
    let place = Workplace::new();
    let changes = place.checkpoint();
    let (from, out) = (place.path("base/vcycle/model"), place.path("run"));
    let model = |rest: &str| format!("model={{family=\"bert\", from=\"{from}\", context=48{rest}}}");
    let one_type = place.path("one-type");
    fs::create_dir(&one_type).expect("a folder");
    let mut config = place.json("base/vcycle/model/config.json");
    config["type_vocab_size"] = 1.into();
    fs::write(Path::new(&one_type).join("config.json"), config.to_string()).expect("written");
    for (changes, words) in [
        (vec!["masking={}".to_owned()], &["masking", "data.task"][..]),
        (vec!["data.text=data/sotu.txt.zst".to_owned()], &["data.text", "data.task"]),
        (vec!["data.vocab=3".to_owned()], &["data.vocab"]),
        (vec!["data.task.label=year2".to_owned()], &["data.task", "sotu-century.train", "year2", "century"]),
        (vec!["data.task.label=sentence".to_owned()], &["sotu-century.valid", "line 2", "is not one of"]),
        (vec!["data.task.regression=true".to_owned()], &["sotu-century.train", "line 2", "1800s"]),
        (vec!["data.task.valid=nowhere.tsv".to_owned()], &["nowhere.tsv"]),
        (vec!["data.task.columns=3".to_owned()], &["columns"]),
        (
            vec!["data={task={train=\"a\",valid=\"b\",sentence=1,label=2}}".to_owned()],
            &["data.tokenizer", "model.from"],
        ),
        (vec!["model.family=gpt".to_owned()], &["data.task"]),
        (vec!["model.heads=0".to_owned()], &["model.heads", "model.from"]),
        (vec!["model.from=nowhere".to_owned()], &["model.from", "nowhere"]),
        (vec![model(", layers=3"), changes[1].clone()], &["model.layers", "3", "2"]),
        (vec![model(", norm=\"pre\""), changes[1].clone()], &["model.norm"]),
        (vec![model("").replace("48", "65"), changes[1].clone()], &["model.context", "65", "64"]),
        // A tokenizer with 1024 tokens and the special ones; the checkpoint has half as many tokens.
        (vec![model("")], &["data.tokenizer", "1029", "517"]),
        (
            vec![
                format!("model={{family=\"bert\", from=\"{one_type}\", context=48}}"),
                "data.task.second=year".to_owned(),
            ],
            &["token types"],
        ),
    ] {
        let mut args = vec!["train", EXAMPLE, "--quiet", "--out", &out];
        changes.iter().for_each(|change| args.extend(["--set", change.as_str()]));
        let done = vcycle(&args);
        let text = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{changes:?}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{changes:?}: {text}");
        assert!(!Path::new(&out).exists(), "{changes:?}: a run folder was left behind");
    }
    let other = place.path("base/vcycle/model");
    let done =
        vcycle(&["train", "configs/gpt-tiny.toml", "--quiet", "--out", &out, "--set", &format!("model.from={other}")]);
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(2) && text.contains("model."), "{text}");
    // The user must supply the paths of this configuration.
    let done = vcycle(&["train", "configs/bert-finetune-sst2.toml", "--quiet", "--out", &out]);
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(
        done.status.code() == Some(2) && text.contains("model.from") && text.contains("bert-base-uncased"),
        "{text}"
    );
    // A checkpoint that lacks a tensor that is not part of a head.
    let (broken, tensors) = (place.path("broken"), place.tensors("base/vcycle/model"));
    fs::create_dir(&broken).expect("a folder");
    fs::copy(format!("{other}/config.json"), format!("{broken}/config.json")).expect("copied");
    let bytes = fs::read(format!("{other}/model.safetensors")).expect("weights");
    let all = SafeTensors::deserialize(&bytes).expect("tensors");
    let missing = "bert.encoder.layer.1.output.dense.bias";
    assert!(tensors.contains_key(missing));
    let kept: Vec<_> = all.iter().filter(|(name, _)| *name != missing).collect();
    let bytes = safetensors::serialize(kept, None).expect("bytes");
    fs::write(format!("{broken}/model.safetensors"), bytes).expect("written");
    let model = format!("model={{family=\"bert\", from=\"{broken}\", context=48}}");
    let done = vcycle(&["train", EXAMPLE, "--quiet", "--out", &out, "--set", &model, "--set", &changes[1]]);
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(2) && text.contains(missing) && text.contains("model.from"), "{text}");
}
