//! Promise: the commands do what their help says, on real files, alone and in sequence.

use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

fn vcycle(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).current_dir(dir).output().expect("the binary runs")
}

/// Runs a command that must succeed. Returns standard output.
fn ok(dir: &Path, args: &[&str]) -> String {
    let out = vcycle(dir, args);
    assert!(out.status.success(), "{args:?} failed: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// Creates a folder with a small text and a three-level configuration.
fn workplace() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let text: String = (0..4000).map(|i| format!("the {} of the {} states\n", i % 97, i % 13)).collect();
    std::fs::write(dir.path().join("text.txt"), text).expect("written");
    let config = r#"
        [model]
        family = "gpt"
        layers = 4
        heads = 4
        head_size = 4
        context = 16
        dropout = 0.1
        [data]
        text = "text.txt"
        tokenizer = "char"
        [train]
        batch = 2
        eval_every = 4
        eval_batches = 3
        recompute = true
        [[levels]]
        before = { steps = 3, lr = 1e-3, warmup = 1, decay = "constant" }
        train = { steps = 6, lr = 1e-3 }
        [[levels]]
        layers = 2
        heads = 2
        alpha = 0.5
        before = { steps = 3, lr = 2e-3, decay = "wsd" }
        train = { steps = 5, lr = 2e-3, decay = "linear" }
        [[levels]]
        layers = 1
        heads = 1
        alpha = 0.25
        train = { steps = 4, lr = 4e-3 }
    "#;
    std::fs::write(dir.path().join("three.toml"), config).expect("written");
    dir
}

fn events(dir: &Path, run: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join(run).join("metrics.jsonl")).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn train_generate_and_eval_with_three_levels() {
    let dir = workplace();
    let out = ok(
        dir.path(),
        &["train", "three.toml", "--out", "run", "--set", "scratch.steps=8", "--set", "scratch.lr=1e-3"],
    );
    assert!(out.contains("saved:") && out.contains("run/vcycle/model"), "{out}");
    let all = events(dir.path(), "run/vcycle");
    let steps: Vec<_> = all.iter().filter(|e| e["event"] == "step").collect();
    let levels: Vec<u64> = steps.iter().map(|e| e["level"].as_u64().expect("a level")).collect();
    assert_eq!(levels, [vec![1; 3], vec![2; 3], vec![3; 4], vec![2; 5], vec![1; 6]].concat());
    let flops: Vec<u64> = all.iter().map(|e| e["flops"].as_u64().expect("flops")).collect();
    assert!(flops.is_sorted() && flops[flops.len() - 1] > 0);
    let operators: Vec<&str> =
        all.iter().filter(|e| e["event"] == "operator").filter_map(|e| e["name"].as_str()).collect();
    assert_eq!(operators, ["coalesce", "coalesce", "interpolate", "interpolate"]);
    assert!(events(dir.path(), "run/scratch").iter().filter(|e| e["event"] == "step").count() == 8);
    // The trained model can generate, also from prompts longer than its context, and be evaluated.
    let model = "run/vcycle/model";
    let long = "the states ".repeat(20);
    let continued = ok(dir.path(), &["generate", model, "--prompt", &long, "--tokens", "20"]);
    assert!(continued.starts_with(&long) && continued.trim_end().len() > long.len(), "{continued}");
    assert!(ok(dir.path(), &["generate", model, "--prompt", "the ", "--tokens", "20"]).starts_with("the "));
    let report = ok(dir.path(), &["eval", model, "--data", "text.txt"]);
    assert!(report.contains("perplexity:") && report.contains("bits per byte:"), "{report}");
    // Each of the 4,000 lines has six words.
    assert!(report.contains("per word (all losses over 24000 words)"), "{report}");
    // By default the windows do not overlap. With overlapping windows the same tokens are scored.
    assert_eq!(ok(dir.path(), &["eval", model, "--data", "text.txt", "--stride", "16"]), report);
    let closer = ok(dir.path(), &["eval", model, "--data", "text.txt", "--stride", "4"]);
    let scored = |report: &str| report.lines().find(|line| line.starts_with("tokens scored:")).map(str::to_string);
    assert!(scored(&closer) == scored(&report) && closer != report, "{closer}");
    for (stride, words) in [("17", "more than the model's context of 16"), ("0", "--stride")] {
        let refused = vcycle(dir.path(), &["eval", model, "--data", "text.txt", "--stride", stride]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(2) && text.contains(words), "{text}");
    }
    std::fs::write(dir.path().join("lines.txt"), "the 3 of the 5 states\n\nof the states\n").expect("written");
    let known = ok(dir.path(), &["eval", model, "--data", "lines.txt", "--last-word"]);
    // The last word, with its space, has seven characters, each a token.
    assert!(known.contains("words scored:         2 (14 tokens)") && known.contains("accuracy:"), "{known}");
}

#[test]
fn a_run_repeats_bit_for_bit_on_any_number_of_threads() {
    let dir = workplace();
    for (out, threads) in [("a", "1"), ("b", "3")] {
        ok(dir.path(), &["train", "three.toml", "--out", out, "--threads", threads, "--seed", "7", "--quiet"]);
    }
    ok(dir.path(), &["train", "three.toml", "--out", "c", "--seed", "8", "--quiet"]);
    let weights =
        |run: &str| std::fs::read(dir.path().join(run).join("vcycle/model/model.safetensors")).expect("weights");
    assert_eq!(weights("a"), weights("b"));
    assert_ne!(weights("a"), weights("c"), "another seed must give another model");
}

#[test]
fn operator_commands_map_checkpoints_down_and_up_three_levels() {
    let dir = workplace();
    ok(dir.path(), &["train", "three.toml", "--out", "run", "--quiet"]);
    let (big, at) = ("run/vcycle/model", dir.path());
    let config = |model: &str| std::fs::read_to_string(at.join(model).join("config.json")).expect("a config");
    let marked = config(big).replace("\"eos_token_id\": null", "\"eos_token_id\": 7");
    assert!(marked.contains("\"eos_token_id\": 7"), "{marked}");
    std::fs::write(at.join(big).join("config.json"), marked).expect("written");
    ok(
        at,
        &["coalesce", big, "--layers", "2", "--heads", "2", "--width", "exact", "--depth", "identity", "--out", "m2"],
    );
    std::fs::write(at.join("s.json"), r#"{"width_scheme": [[0, 1]], "depth_scheme": [[0, 1]]}"#).expect("written");
    ok(at, &["coalesce", "m2", "--scheme", "s.json", "--out", "m3"]);
    let record = std::fs::read_to_string(at.join("m2/vcycle.json")).expect("a record");
    assert!(config("m2").contains("\"eos_token_id\": 7") && config("m2").contains("\"bos_token_id\": null"));
    assert!(record.contains("exact") && record.contains("identity") && record.contains("\"parent\""), "{record}");
    ok(at, &["decoalesce", "m3", "--out", "up2"]);
    ok(at, &["decoalesce", "m2", "--shares", "random", "--seed", "3", "--out", "up1"]);
    ok(at, &["decoalesce", "m2", "--like", big, "--width", "paper", "--depth", "copy", "--out", "paper"]);
    ok(at, &["interpolate", big, "m2", "--alpha", "0.5", "--out", "mixed"]);
    // Width `exact` and depth `identity` keep the function: m2 and the model grown from it have the same printed
    // scores.
    let score = |model: &str| ok(at, &["eval", model, "--data", "text.txt"]);
    assert_eq!(score("m2"), score("up1"));
    assert_ne!(score("m2"), score("paper"));
    assert_ne!(score(big), score("mixed"));
}

#[test]
fn operators_omit_a_vocabulary_of_unknown_case_with_a_note() {
    let dir = workplace();
    let at = dir.path();
    ok(at, &["train", "three.toml", "--out", "run", "--quiet"]);
    let big = "run/vcycle/model";
    std::fs::remove_file(at.join(big).join("tokenizer.json")).expect("removed");
    std::fs::write(at.join(big).join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n").expect("written");
    let run = |args: &[&str], noted: bool| {
        let out = vcycle(at, args);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{text}");
        let notes: Vec<&str> = text.lines().filter(|line| line.contains("vocab.txt")).collect();
        assert_eq!(notes.len(), usize::from(noted), "{text}");
        assert!(notes.iter().all(|note| note.starts_with("note: ") && note.contains("do_lower_case")), "{text}");
    };
    let has = |model: &str| at.join(model).join("tokenizer.json").exists();
    run(&["coalesce", big, "--layers", "2", "--heads", "2", "--out", "small"], true);
    run(&["interpolate", big, "small", "--alpha", "0.5", "--out", "mixed"], true);
    std::fs::copy(at.join(big).join("vocab.txt"), at.join("small/vocab.txt")).expect("copied");
    run(&["decoalesce", "small", "--out", "grown"], true);
    assert!(!has("small") && !has("mixed") && !has("grown"));
    std::fs::write(at.join(big).join("tokenizer_config.json"), r#"{"do_lower_case": true}"#).expect("written");
    run(&["coalesce", big, "--layers", "2", "--heads", "2", "--out", "with"], false);
    assert!(has("with"));
}

#[test]
fn the_tiny_configuration_trains_and_all_configurations_parse() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a folder");
    let run = out.path().join("run");
    let config = root.join("configs/gpt-tiny.toml");
    let printed =
        ok(root, &["train", config.to_str().expect("UTF-8"), "--out", run.to_str().expect("UTF-8"), "--quiet"]);
    assert!(printed.contains("model:"), "{printed}");
    assert!(ok(root, &["info"]).contains("devices:"));
    for file in std::fs::read_dir(root.join("configs")).expect("configs") {
        let path = file.expect("a file").path();
        vcycle::families::read(&path, &[]).expect("a valid configuration");
    }
}
