//! Promise: on bad input a sentence with file, place and remedy; exit code 2; no panic; nothing half-written.

use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const CONFIG: &str = r#"
[model]
family = "gpt"
layers = 2
heads = 2
head_size = 4
context = 16
[data]
text = "text.txt"
tokenizer = "byte"
[train]
batch = 2
eval_every = 5
[[levels]]
before = { steps = 2, lr = 1e-3 }
train = { steps = 2, lr = 1e-3 }
[[levels]]
layers = 1
heads = 1
alpha = 0.5
train = { steps = 2, lr = 1e-3 }
"#;

fn workplace() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let text: String = (0..2000).map(|i| format!("line {i} of the text\n")).collect();
    std::fs::write(dir.path().join("text.txt"), text).expect("written");
    std::fs::write(dir.path().join("run.toml"), CONFIG).expect("written");
    dir
}

/// The message of a command that must fail with code 2 and leave `out` unmade.
fn refused(dir: &Path, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).current_dir(dir).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    assert!(!dir.join("out").exists(), "{args:?} left a folder behind");
    text
}

fn refused_config(dir: &Path, from: &str, to: &str) -> String {
    assert!(CONFIG.contains(from), "{from:?} is part of the configuration");
    std::fs::write(dir.join("bad.toml"), CONFIG.replacen(from, to, 1)).expect("written");
    refused(dir, &["train", "bad.toml", "--out", "out"])
}

#[test]
fn configurations() {
    let dir = workplace();
    for (from, to, says) in [
        ("batch = 2", "batch = 2\nbatches = 3", &["bad.toml", "line", "batches"][..]),
        ("batch = 2", "batch = \"two\"", &["bad.toml", "batch", "line"]),
        ("batch = 2", "batch = 0", &["bad.toml", "at least 1"]),
        ("batch = 2", "batch = ", &["bad.toml", "line"]),
        ("family = \"gpt\"", "family = \"rnn\"", &["bad.toml", "rnn", "gpt"]),
        ("layers = 2", "layers = -2", &["bad.toml", "line"]),
        ("layers = 2", "layers = 0", &["layers"]),
        ("heads = 2", "heads = 0", &["heads"]),
        ("head_size = 4", "head_size = 9000000000", &["beyond reason"]),
        ("layers = 1", "layers = 3", &["levels[1]", "swap"]),
        ("layers = 1\nheads = 1", "layers = 2\nheads = 2", &["levels[1]", "no smaller"]),
        ("layers = 1\nheads = 1", "width_scheme = [[0, 0]]", &["levels[1]", "0 is in group 0"]),
        ("layers = 1\nheads = 1", "width_scheme = [[0]]", &["levels[1]", "1 is in no group"]),
        ("layers = 1\nheads = 1", "depth_scheme = [[0, 7]]", &["levels[1]", "7", "layers are 0 to 1"]),
        ("alpha = 0.5", "alpha = 1.5", &["levels[1]", "alpha", "0..=1"]),
        ("alpha = 0.5", "alpha = nan", &["levels[1]", "alpha"]),
        ("alpha = 0.5", "", &["levels[1]", "alpha", "missing"]),
        ("before = { steps = 2, lr = 1e-3 }", "", &["levels[0]", "before", "missing"]),
        ("lr = 1e-3", "lr = -1.0", &["levels[0]"]),
        ("lr = 1e-3", "lr = 1e-3, warmup = 50", &["levels[0]", "warmup"]),
        ("lr = 1e-3", "lr = 1e-3, decay = \"exp\"", &["decay", "exp", "cosine"]),
        ("text.txt", "absent.txt", &["absent.txt"]),
        ("tokenizer = \"byte\"", "tokenizer = \"bpe:12\"", &["bpe"]),
        ("tokenizer = \"byte\"", "tokenizer = \"nothing\"", &["nothing", "bpe"]),
        ("context = 16", "context = 1000000", &["token", "context"]),
        ("[data]", "[date]", &["bad.toml", "date"]),
    ] {
        let text = refused_config(dir.path(), from, to);
        for part in says {
            assert!(text.contains(part), "{to:?}: {text:?} does not mention {part:?}");
        }
    }
    let missing = refused(dir.path(), &["train", "none.toml", "--out", "out"]);
    assert!(missing.contains("none.toml"), "{missing}");
    for (change, says) in
        [("nothing", "="), ("levels.9.train.steps=1", "list of 2"), ("train.batch.size=1", "no table")]
    {
        let text = refused(dir.path(), &["train", "run.toml", "--out", "out", "--set", change]);
        assert!(text.contains(says), "{change}: {text}");
    }
}

#[test]
fn texts() {
    let dir = workplace();
    for (name, bytes, says) in [
        ("empty.txt", &b""[..], "empty"),
        ("blank.txt", b" \n \n", "whitespace"),
        ("latin.txt", b"one\ntwo caf\xe9\nthree\n", "line 2"),
        ("broken.zst", b"\x28\xb5\x2f\xfd broken", "broken.zst"),
    ] {
        std::fs::write(dir.path().join(name), bytes).expect("written");
        let text = refused(dir.path(), &["train", "run.toml", "--out", "out", "--set", &format!("data.text={name}")]);
        assert!(text.contains(name) && text.contains(says), "{name}: {text}");
    }
    let folder = refused(dir.path(), &["train", "run.toml", "--out", "out", "--set", "data.text=."]);
    assert!(folder.contains("folder") || folder.contains("directory"), "{folder}");
}

#[test]
fn an_existing_folder_is_not_touched() {
    let dir = workplace();
    std::fs::create_dir(dir.path().join("mine")).expect("a folder");
    let text = refused(dir.path(), &["train", "run.toml", "--out", "mine"]);
    assert!(text.contains("mine") && text.contains("exists"), "{text}");
    assert_eq!(std::fs::read_dir(dir.path().join("mine")).expect("a folder").count(), 0);
}

fn trained(dir: &Path) {
    let out = Command::new(env!("CARGO_BIN_EXE_vcycle"))
        .args(["train", "run.toml", "--out", "run", "--quiet"])
        .current_dir(dir)
        .output()
        .expect("the binary runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn checkpoints() {
    let dir = workplace();
    let at = dir.path();
    trained(at);
    let (good, weights) = ("run/vcycle/model", at.join("run/vcycle/model/model.safetensors"));
    let bytes = std::fs::read(&weights).expect("weights");
    let copy = |name: &str, bytes: &[u8]| {
        let to = at.join(name);
        std::fs::create_dir_all(&to).expect("a folder");
        for file in ["config.json", "tokenizer.json"] {
            std::fs::copy(at.join(good).join(file), to.join(file)).expect("copied");
        }
        std::fs::write(to.join("model.safetensors"), bytes).expect("written");
    };
    let mut huge = bytes.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    copy("truncated", &bytes[..bytes.len() / 2]);
    copy("huge", &huge);
    copy("none", b"");
    for name in ["truncated", "huge", "none"] {
        for command in ["eval", "coalesce"] {
            let rest: &[&str] = if command == "eval" {
                &["--data", "text.txt"]
            } else {
                &["--layers", "1", "--heads", "1", "--out", "out"]
            };
            let text = refused(at, &[&[command, name], rest].concat());
            assert!(text.contains("model.safetensors"), "{name}: {text}");
        }
    }
    copy("other", &bytes);
    let config = std::fs::read_to_string(at.join(good).join("config.json")).expect("a config");
    std::fs::write(at.join("other/config.json"), config.replace("\"n_layer\": 2", "\"n_layer\": 3")).expect("written");
    let text = refused(at, &["generate", "other", "--prompt", "a"]);
    assert!(text.contains("missing tensors") && text.contains("h.2."), "{text}");
    std::fs::write(at.join("other/config.json"), config.replace("\"n_embd\": 8", "\"n_embd\": 16")).expect("written");
    let text = refused(at, &["generate", "other", "--prompt", "a"]);
    assert!(text.contains("wte.weight") && text.contains("config.json"), "{text}");
    let text = refused(at, &["eval", "nowhere", "--data", "text.txt"]);
    assert!(text.contains("nowhere"), "{text}");
}

#[test]
fn operators() {
    let dir = workplace();
    let at = dir.path();
    trained(at);
    let model = "run/vcycle/model";
    let file = |name: &str, text: &str| std::fs::write(at.join(name), text).expect("written");
    file("repeat.json", r#"{"width_scheme": [[0, 0], [1]]}"#);
    file("unknown.json", r#"{"widths": [[0, 1]]}"#);
    file("broken.json", r#"{"width_scheme": [[0, 1"#);
    for (args, says) in [
        (&["--scheme", "repeat.json"][..], "0 is in group 0"),
        (&["--scheme", "unknown.json"], "widths"),
        (&["--scheme", "broken.json"], "broken.json"),
        (&["--scheme", "absent.json"], "absent.json"),
        (&["--layers", "2", "--heads", "2"], "below them"),
        (&["--layers", "3", "--heads", "1"], "swap the models"),
        (&["--layers", "0", "--heads", "1"], "no layers"),
        (&["--layers", "1", "--heads", "0"], "no heads"),
    ] {
        let text = refused(at, &[&["coalesce", model, "--out", "out"], args].concat());
        assert!(text.contains(says), "{args:?}: {text}");
    }
    let text = refused(at, &["decoalesce", model, "--out", "out"]);
    assert!(text.contains("--like"), "{text}");
    let out = Command::new(env!("CARGO_BIN_EXE_vcycle"))
        .args(["coalesce", model, "--layers", "1", "--heads", "1", "--out", "small"])
        .current_dir(at)
        .output()
        .expect("the binary runs");
    assert!(out.status.success());
    for (alpha, says) in [("1.5", "alpha"), ("-0.1", "alpha"), ("nan", "alpha")] {
        let text = refused(at, &["interpolate", model, "small", &format!("--alpha={alpha}"), "--out", "out"]);
        assert!(text.contains(says), "{text}");
    }
    let text = refused(at, &["decoalesce", "small", "--seed", "3", "--out", "out"]);
    assert!(text.contains("--shares random"), "{text}");
    file("small/vcycle.json", "{}");
    let text = refused(at, &["decoalesce", "small", "--out", "out"]);
    assert!(text.contains("vcycle.json"), "{text}");
    let text = refused(at, &["generate", model, "--prompt", "", "--tokens", "3"]);
    assert!(text.contains("prompt"), "{text}");
    let text = refused(at, &["generate", model, "--prompt", "a", "--temperature=-1"]);
    assert!(text.contains("temperature"), "{text}");
    let text = refused(at, &["train", "run.toml", "--device", "tpu", "--out", "out"]);
    assert!(text.contains("tpu") && text.contains("cpu"), "{text}");
}
