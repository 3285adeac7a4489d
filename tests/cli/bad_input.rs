//! Promise: bad input gives a message that names the file, the place and a remedy, and exit code 2; no command panics
//! or leaves partial output.

use std::path::Path;
use std::process::{Command, Stdio};
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

fn vcycle(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
    command.args(args).current_dir(dir);
    command
}

/// Runs a command that must succeed. Returns standard output.
fn ok(dir: &Path, args: &[&str]) -> String {
    let out = vcycle(dir, args).output().expect("the binary runs");
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// Runs a command that must fail with exit code 2 and must not create `out`. Returns the message.
fn refused(dir: &Path, args: &[&str]) -> String {
    let out = vcycle(dir, args).output().expect("the binary runs");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    assert!(!dir.join("out").exists(), "{args:?} created a folder");
    text
}

/// Returns the message for [`CONFIG`] with one change.
fn refused_config(dir: &Path, from: &str, to: &str) -> String {
    assert!(CONFIG.contains(from), "{from:?} is not part of the configuration");
    std::fs::write(dir.join("bad.toml"), CONFIG.replacen(from, to, 1)).expect("written");
    refused(dir, &["train", "bad.toml", "--out", "out"])
}

#[test]
fn invalid_configurations_are_rejected() {
    let dir = workplace();
    for (from, to, expected) in [
        ("batch = 2", "batch = 2\nbatches = 3", &["bad.toml", "line", "batches"][..]),
        ("batch = 2", "batch = \"two\"", &["bad.toml", "batch", "line"]),
        ("batch = 2", "batch = 0", &["bad.toml", "at least 1"]),
        ("batch = 2", "batch = ", &["bad.toml", "line"]),
        ("batch = 2", "batch = 9223372036854775807", &["bad.toml", "train.batch", "below 2^31"]),
        ("batch = 2", "batch = 9000000000", &["bad.toml", "train.batch", "below 2^31"]),
        ("tokenizer = \"byte\"", "tokenizer = \"byte\"\nheld_out_every = 1", &["data.held_out_every is 1"]),
        ("tokenizer = \"byte\"", "tokenizer = \"byte\"\ndocument_prefix = \"##\"", &["data.document_prefix \"##\""]),
        ("family = \"gpt\"", "family = \"rnn\"", &["bad.toml", "rnn", "gpt"]),
        ("layers = 2", "layers = -2", &["bad.toml", "line"]),
        ("layers = 2", "layers = 0", &["layers"]),
        ("heads = 2", "heads = 0", &["heads"]),
        ("head_size = 4", "head_size = 9000000000", &["below 2^24"]),
        ("layers = 1", "layers = 3", &["levels[1]", "swap"]),
        ("layers = 1\nheads = 1", "layers = 2\nheads = 2", &["levels[1]", "not smaller"]),
        ("layers = 1\nheads = 1", "layers = 2\nheads = 1\ndepth_scheme = [[0, 1]]", &["levels[1]", "1 groups"]),
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
        for part in expected {
            assert!(text.contains(part), "{to:?}: {text:?} does not mention {part:?}");
        }
    }
    let missing = refused(dir.path(), &["train", "none.toml", "--out", "out"]);
    assert!(missing.contains("none.toml"), "{missing}");
    for (change, expected) in
        [("nothing", "="), ("levels.9.train.steps=1", "list of 2"), ("train.batch.size=1", "not a table")]
    {
        let text = refused(dir.path(), &["train", "run.toml", "--out", "out", "--set", change]);
        assert!(text.contains(expected), "{change}: {text}");
    }
    let text = refused(dir.path(), &["train", "run.toml", "--out", "out", "--seed", "9223372036854775808"]);
    assert!(text.contains("--seed") && text.contains("9223372036854775807"), "{text}");
    let seed = i64::MAX.to_string();
    ok(dir.path(), &["train", "run.toml", "--out", "seeded", "--quiet", "--seed", &seed]);
}

#[test]
fn stages_of_zero_steps_are_allowed() {
    let dir = workplace();
    let trains = |out: &'static str, keys: &[&'static str]| {
        let sets = keys.iter().flat_map(|key| ["--set", key]);
        let args: Vec<&str> = ["train", "run.toml", "--out", out, "--quiet"].into_iter().chain(sets).collect();
        let printed = ok(dir.path(), &args);
        assert!(printed.contains("held-out loss") && !printed.contains("NaN"), "{keys:?}: {printed}");
    };
    let all = ["levels.0.before.steps=0", "levels.0.train.steps=0", "levels.1.train.steps=0"];
    trains("one", &all[2..]);
    trains("all", &[&all[..], &["scratch.steps=0", "scratch.lr=1e-3"]].concat());
    let text = refused(
        dir.path(),
        &["train", "run.toml", "--out", "out", "--set", all[1], "--set", "levels.0.train.warmup=1"],
    );
    assert!(text.contains("levels[0]") && text.contains("warmup"), "{text}");
}

#[test]
fn unusable_texts_are_rejected() {
    let dir = workplace();
    for (name, bytes, expected) in [
        ("empty.txt", &b""[..], "empty"),
        ("blank.txt", b" \n \n", "whitespace"),
        ("latin.txt", b"one\ntwo caf\xe9\nthree\n", "line 2"),
        ("broken.zst", b"\x28\xb5\x2f\xfd broken", "broken.zst"),
    ] {
        std::fs::write(dir.path().join(name), bytes).expect("written");
        let text = refused(dir.path(), &["train", "run.toml", "--out", "out", "--set", &format!("data.text={name}")]);
        assert!(text.contains(name) && text.contains(expected), "{name}: {text}");
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
    ok(dir, &["train", "run.toml", "--out", "run", "--quiet"]);
}

#[test]
fn damaged_checkpoints_are_rejected() {
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
fn invalid_arguments_are_rejected() {
    let dir = workplace();
    let at = dir.path();
    trained(at);
    let model = "run/vcycle/model";
    let file = |name: &str, text: &str| std::fs::write(at.join(name), text).expect("written");
    file("repeat.json", r#"{"width_scheme": [[0, 0], [1]]}"#);
    file("unknown.json", r#"{"widths": [[0, 1]]}"#);
    file("broken.json", r#"{"width_scheme": [[0, 1"#);
    for (args, expected) in [
        (&["--scheme", "repeat.json"][..], "0 is in group 0"),
        (&["--scheme", "unknown.json"], "widths"),
        (&["--scheme", "broken.json"], "broken.json"),
        (&["--scheme", "absent.json"], "absent.json"),
        (&["--layers", "2", "--heads", "2"], "smaller --layers or --heads"),
        (&["--layers", "3", "--heads", "1"], "swap the models"),
        (&["--layers", "0", "--heads", "1"], "no layers"),
        (&["--layers", "1", "--heads", "0"], "no heads"),
    ] {
        let text = refused(at, &[&["coalesce", model, "--out", "out"], args].concat());
        assert!(text.contains(expected), "{args:?}: {text}");
    }
    let text = refused(at, &["decoalesce", model, "--out", "out"]);
    assert!(text.contains("--like"), "{text}");
    ok(at, &["coalesce", model, "--layers", "1", "--heads", "1", "--out", "small"]);
    for (alpha, expected) in [("1.5", "alpha"), ("-0.1", "alpha"), ("nan", "alpha")] {
        let text = refused(at, &["interpolate", model, "small", &format!("--alpha={alpha}"), "--out", "out"]);
        assert!(text.contains(expected), "{text}");
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

#[test]
fn records_with_wrong_sizes_are_rejected() {
    let dir = workplace();
    let at = dir.path();
    trained(at);
    ok(at, &["coalesce", "run/vcycle/model", "--layers", "1", "--heads", "1", "--out", "small"]);
    let path = at.join("small/vcycle.json");
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("a record")).expect("JSON");
    for (key, value, expected) in [
        ("heads", 4611686018427387904u64, "heads"),
        ("heads", 1 << 40, "2^31"),
        ("heads", 0, "heads"),
        ("layers", 0, "layers"),
        ("layers", u64::MAX, "layers"),
        ("head_size", 8, "parent.head_size is 8"),
        ("head_size", 0, "parent.head_size is 0"),
    ] {
        let mut edited = record.clone();
        edited["parent"][key] = value.into();
        std::fs::write(&path, edited.to_string()).expect("written");
        let text = refused(at, &["decoalesce", "small", "--out", "out"]);
        assert!(text.contains("vcycle.json: ") && text.contains(expected), "{key} = {value}: {text}");
    }
    let mut edited = record.clone();
    edited["scheme"]["width_scheme"] = serde_json::json!([[0, 4611686018427387904u64]]);
    std::fs::write(&path, edited.to_string()).expect("written");
    let text = refused(at, &["decoalesce", "small", "--out", "out"]);
    assert!(text.contains("width_scheme") && text.contains("4611686018427387904"), "{text}");
}

#[test]
fn a_like_model_of_other_sizes_is_rejected() {
    let dir = workplace();
    let at = dir.path();
    trained(at);
    let model = "run/vcycle/model";
    ok(at, &["coalesce", model, "--layers", "1", "--heads", "1", "--out", "small"]);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(at.join(model).join("config.json")).expect("a config")).expect("JSON");
    std::fs::create_dir(at.join("like")).expect("a folder");
    for (changes, expected) in [
        (&[("n_embd", 16.0)][..], "head size is 8"),
        (&[("vocab_size", 300.0)], "wte.weight of [300, 8]"),
        (&[("n_positions", 17.0)], "wpe.weight of [17, 8]"),
        (&[("n_inner", 40.0)], "c_fc.bias of [40]"),
        (&[("layer_norm_epsilon", 1e-6)], "LayerNorm eps is 1e-6"),
        (&[("n_head", 1099511627776.0), ("n_embd", 4398046511104.0)], "n_"),
    ] {
        let mut like = config.clone();
        for &(key, value) in changes {
            like[key] = if value < 1.0 { value.into() } else { (value as u64).into() };
        }
        std::fs::write(at.join("like/config.json"), like.to_string()).expect("written");
        let text = refused(at, &["decoalesce", "small", "--like", "like", "--out", "out"]);
        assert!(text.contains("like") && text.contains(expected), "{changes:?}: {text}");
    }
    // More heads than fit in memory, then fewer heads than the smaller model has.
    let file = |changes: &[(&str, u64)]| {
        let mut like = config.clone();
        changes.iter().for_each(|&(key, value)| like[key] = value.into());
        std::fs::write(at.join("like/config.json"), like.to_string()).expect("written");
    };
    file(&[("n_layer", 2), ("n_head", 50000), ("n_embd", 200000)]);
    let text = refused(at, &["decoalesce", "small", "--like", "like", "--out", "out"]);
    assert!(text.contains("like"), "{text}");
    file(&[("n_head", 1), ("n_embd", 4)]);
    let text = refused(at, &["decoalesce", model, "--like", "like", "--out", "out"]);
    assert!(text.contains("--like like: ") && text.contains("swap the models"), "{text}");
}

#[test]
fn short_texts_and_mismatched_tokenizers_are_handled() {
    let dir = workplace();
    let at = dir.path();
    trained(at);
    let model = "run/vcycle/model";
    let temporary = at.join("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    let eval = |data: &str| {
        let args = ["eval", model, "--data", data];
        // The variables in which operating systems look for the temporary folder.
        let out = vcycle(at, &args).envs(["TMPDIR", "TMP", "TEMP"].map(|key| (key, &temporary))).output();
        let out = out.expect("the binary runs");
        assert_eq!(
            std::fs::read_dir(&temporary).expect("a folder").count(),
            0,
            "{data}: a temporary file was left behind"
        );
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    std::fs::write(at.join("one.txt"), "a").expect("written");
    vcycle::data::tokens::shard::write_shard(&at.join("none.bin"), &[], 256).expect("written");
    for (data, expected) in [("one.txt", "one.txt has 1 token,"), ("none.bin", "none.bin has 0 tokens,")] {
        let (code, text) = eval(data);
        assert!(code == Some(2) && text.contains(expected) && text.contains("at least 2"), "{text}");
    }
    std::fs::write(at.join("two.txt"), "ab").expect("written");
    for data in ["two.txt", "text.txt"] {
        let (code, text) = eval(data);
        assert_eq!(code, Some(0), "{data}: {text}");
    }
    // The model's vocabulary may be larger than the tokenizer's, as many are padded. No token without text is sampled.
    ok(at, &["train", "run.toml", "--out", "char", "--quiet", "--set", "data.tokenizer=char"]);
    let tokenizer = |from: &str, to: &str| {
        std::fs::copy(at.join(from).join("tokenizer.json"), at.join(to).join("tokenizer.json")).expect("copied")
    };
    let byte = std::fs::read(at.join(model).join("tokenizer.json")).expect("a tokenizer");
    tokenizer("char/vcycle/model", model);
    for temperature in ["5", "0"] {
        let all = ["--top-k", "0", "--temperature", temperature, "--tokens", "100"];
        let text = ok(at, &[&["generate", model, "--prompt", "line 1"][..], &all].concat());
        assert!(text.starts_with("line 1") && text.len() > 50, "{text}");
    }
    // If the tokenizer's vocabulary is larger, some texts have tokens that the model does not know.
    std::fs::write(at.join("char/vcycle/model/tokenizer.json"), byte).expect("written");
    for args in [
        &["generate", "char/vcycle/model", "--prompt", "\u{e9}"][..],
        &["eval", "char/vcycle/model", "--data", "run.toml"],
    ] {
        let text = refused(at, args);
        assert!(text.contains("tokenizer.json returns token") && text.contains("trained with"), "{text}");
    }
}

#[test]
fn a_closed_standard_output_is_not_an_error() {
    let dir = workplace();
    let at = dir.path();
    trained(at);
    let model = "run/vcycle/model";
    for args in [
        &["generate", model, "--prompt", "line", "--tokens", "1000000000"][..],
        &["eval", model, "--data", "text.txt"],
        &["coalesce", model, "--layers", "1", "--heads", "1", "--out", "small"],
        &["train", "run.toml", "--out", "again", "--quiet"],
        &["info"],
    ] {
        let mut child =
            vcycle(at, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        drop(child.stdout.take());
        let out = child.wait_with_output().expect("the binary ends");
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && text.is_empty(), "{args:?}: {:?} {text}", out.status);
    }
    assert!(at.join("small/model.safetensors").exists() && at.join("again/vcycle/model/config.json").exists());
}
