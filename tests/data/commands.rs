//! Promise: `vcycle data` works as its help text says, and runs train on prepared data and on token files as on text.

use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const CONFIG: &str = r#"
[model]
family = "gpt"
layers = 1
heads = 2
head_size = 4
context = 16
[train]
batch = 2
eval_every = 5
[[levels]]
train = { steps = 4, lr = 1e-3 }
[data]
"#;

fn vcycle(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).current_dir(dir).output().expect("the binary runs")
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let out = vcycle(dir, args);
    assert!(out.status.success(), "{args:?} failed: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// Asserts that a command fails with code 2 and does not create `out`. Returns its error message.
fn refused(dir: &Path, args: &[&str]) -> String {
    let out = vcycle(dir, args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
    assert!(!text.contains("panicked") && !dir.join("out").exists(), "{args:?}: {text}");
    text
}

fn train(dir: &Path, data: &str, out: &str) -> String {
    std::fs::write(dir.join("run.toml"), format!("{CONFIG}{data}\n")).expect("written");
    ok(dir, &["train", "run.toml", "--out", out])
}

fn weights(dir: &Path, run: &str) -> Vec<u8> {
    std::fs::read(dir.join(run).join("vcycle/model/model.safetensors")).expect("weights")
}

/// A folder with a text in which each line is a document, and the folder `prep` prepared from it.
fn workplace() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let text: String = (0..300).map(|i| format!("line {i} of the text\n")).collect();
    std::fs::write(dir.path().join("text.txt"), text).expect("written");
    let args = ["--tokenizer", "byte", "--document-prefix", "line ", "--shard-tokens", "3000", "--out", "prep"];
    let printed = ok(dir.path(), &[&["data", "prepare", "text.txt"][..], &args].concat());
    assert!(printed.contains("270 documents, 2 files") && printed.contains("data.prepared = \"prep\""), "{printed}");
    dir
}

fn u16_tokens(dir: &Path, split: &str) -> Vec<u8> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir.join("prep")).expect("a folder").map(|e| e.expect("a file")).collect();
    names.sort_by_key(std::fs::DirEntry::file_name);
    let files = names.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(split));
    let shards = files.map(|entry| vcycle::data::tokens::shard::Shard::open(&entry.path()).expect("a shard"));
    shards.flat_map(|s| (0..s.len()).flat_map(|i| (s.token(i) as u16).to_le_bytes()).collect::<Vec<u8>>()).collect()
}

#[test]
fn prepared_data_and_its_files_train_alike() {
    let dir = workplace();
    let at = dir.path();
    train(at, "prepared = \"prep\"", "prepared");
    assert!(at.join("prepared/vcycle/model/tokenizer.json").exists());
    let files = "train = [\"prep/train-00000.bin\", \"prep/train-00001.bin\"]\nvalid = [\"prep/valid-00000.bin\"]";
    let printed = train(at, files, "files");
    assert_eq!(weights(at, "prepared"), weights(at, "files"));
    // Without a tokenizer, the model cannot generate text.
    assert!(!printed.contains("try:") && !at.join("files/vcycle/model/tokenizer.json").exists(), "{printed}");
    let text = refused(at, &["generate", "files/vcycle/model", "--prompt", "line"]);
    assert!(text.contains("has no tokenizer.json") && text.contains("data.tokenizer"), "{text}");
    train(at, &format!("{files}\ntokenizer = \"prep/tokenizer.json\""), "with");
    assert_eq!(weights(at, "prepared"), weights(at, "with"));
    assert!(ok(at, &["generate", "with/vcycle/model", "--prompt", "line"]).starts_with("line"));
    assert!(ok(at, &["eval", "files/vcycle/model", "--data", "prep/valid-00000.bin"]).contains("perplexity"));
    // The cache of a text is a prepared folder too.
    train(at, "text = \"text.txt\"\ntokenizer = \"byte\"\ndocument_prefix = \"line \"", "text");
    let cache = std::fs::read_dir(at.join("runs/data")).expect("a cache").next().expect("a folder").expect("a folder");
    train(at, &format!("prepared = {:?}", cache.path()), "cached");
    assert_eq!(weights(at, "text"), weights(at, "cached"));
}

#[test]
fn token_files_of_other_programs_train() {
    let dir = workplace();
    let at = dir.path();
    std::fs::create_dir(at.join("nano")).expect("a folder");
    std::fs::write(at.join("nano/0.bin"), u16_tokens(at, "train")).expect("written");
    let valid = u16_tokens(at, "valid");
    let mut llm_c = [20_240_520u32, 1, valid.len() as u32 / 2].map(u32::to_le_bytes).concat();
    llm_c.resize(1024, 0);
    llm_c.extend(&valid);
    std::fs::write(at.join("valid.bin"), llm_c).expect("written");
    let files = "train = [\"nano\"]\nvalid = [\"valid.bin\"]";
    train(at, &format!("{files}\nvocab = 256"), "run");
    train(at, &format!("{files}\ntokenizer = \"prep/tokenizer.json\""), "tokenizer");
    assert_eq!(weights(at, "run"), weights(at, "tokenizer"));
    let shown = ok(at, &["data", "show", "valid.bin"]);
    assert!(shown.contains("llm.c") && shown.contains("not stated; the largest id is 120"), "{shown}");
    assert!(ok(at, &["eval", "run/vcycle/model", "--data", "valid.bin"]).contains("perplexity"));
    for (data, says) in [
        (files, "nano/0.bin does not say how large its vocabulary is; set data.vocab"),
        (&format!("{files}\nvocab = 100"), "is not below the vocabulary size 100"),
        (&format!("{files}\nvocab = 0"), "data.vocab: 0 is not in"),
        (&format!("{files}\nvocab = 100\ntokenizer = \"prep/tokenizer.json\""), "raise it to 256"),
        (&format!("{files}\nvocab = 256\ntokenizer = \"none.json\""), "none.json"),
        ("train = [\"prep\"]\nvalid = [\"valid.bin\"]\nvocab = 256", "data.prepared"),
        ("train = [\"prep/train-00000.bin\"]\nvalid = [\"prep/valid-00000.bin\"]\nvocab = 99", "vocabulary of 256"),
    ] {
        std::fs::write(at.join("bad.toml"), format!("{CONFIG}{data}\n")).expect("written");
        let text = refused(at, &["train", "bad.toml", "--out", "out"]);
        assert!(text.contains(says), "{data}: {text:?} does not mention {says:?}");
    }
}

#[test]
fn exactly_one_data_source_with_its_own_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path();
    for (data, says) in [
        ("", "no data source"),
        ("tokenizer = \"byte\"", "no data source"),
        ("text = \"a.txt\"", "data.tokenizer: missing"),
        ("text = \"a.txt\"\nprepared = \"p\"", "data.text and data.prepared are given"),
        ("prepared = \"p\"\ntrain = []\nvalid = []", "data.prepared and data.train are given"),
        ("prepared = \"p\"\ntokenizer = \"byte\"", "data.tokenizer: only applies to data.text or data.train"),
        ("prepared = \"p\"\nvocab = 7", "data.vocab: only applies to data.train"),
        ("prepared = \"p\"", "cannot read p/data.json"),
        ("train = [\"a.bin\"]", "data.valid: missing"),
        ("valid = [\"a.bin\"]", "data.train: missing"),
        ("train = []\nvalid = []", "data.train: no token file"),
        ("train = [\"a.bin\"]\nvalid = [\"a.bin\"]\nheld_out_every = 5", "data.held_out_every: only applies to"),
        ("text = \"a.txt\"\ntokenizer = \"byte\"\nfield = \"body\"", "data.field: only applies to JSON lines"),
        ("train = \"a.bin\"\nvalid = []", "bad.toml"),
        ("text = \"a.txt\"\ntokenizer = \"byte\"\ntokens = 7", "tokens"),
    ] {
        std::fs::write(at.join("bad.toml"), format!("{CONFIG}{data}\n")).expect("written");
        let text = refused(at, &["train", "bad.toml", "--out", "out"]);
        assert!(text.contains(says), "{data}: {text:?} does not mention {says:?}");
    }
}

#[test]
fn show_describes_files_and_detects_damage() {
    let dir = workplace();
    let at = dir.path();
    let shown = ok(at, &["data", "show", "prep/train-00001.bin", "--tokens", "5"]);
    for part in ["version 2", "256", "after the end of one", "their text: "] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    let shown = ok(at, &["data", "show", "prep"]);
    assert!(shown.contains("text.txt") && shown.contains("match their hashes"), "{shown}");
    let path = at.join("prep/valid-00000.bin");
    let mut bytes = std::fs::read(&path).expect("a shard");
    bytes[64] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let text = refused(at, &["data", "show", "prep"]);
    assert!(text.contains("valid-00000.bin: damaged"), "{text}");
    for (name, says) in [("none.bin", "cannot read"), ("runs", "cannot read")] {
        assert!(refused(at, &["data", "show", name]).contains(says), "{name}");
    }
    std::fs::write(at.join("empty.bin"), "").expect("written");
    let shown = ok(at, &["data", "show", "empty.bin"]);
    assert!(shown.contains("tokens:       0"), "{shown}");
}

#[test]
fn prepare_refuses_invalid_arguments() {
    let dir = workplace();
    let at = dir.path();
    std::fs::write(at.join("bad.jsonl"), "{\"text\": \"a\"}\n{\"text\": 7}\n").expect("written");
    for (args, says) in [
        (&["text.txt", "--tokenizer", "word"][..], "unknown tokenizer"),
        (&["text.txt", "--tokenizer", "byte", "--held-out-every", "1"], "--held-out-every is 1"),
        (&["text.txt", "--tokenizer", "byte", "--document-prefix", "##"], "no line starts with --document-prefix"),
        (&["text.txt", "--tokenizer", "byte", "--separator", "a", "--document-prefix", "b"], "cannot be used with"),
        (&["text.txt", "--tokenizer", "byte", "--field", "body"], "--field is the key of JSON lines"),
        (&["text.txt", "--tokenizer", "byte", "--shard-tokens", "0"], "--shard-tokens"),
        (&["bad.jsonl", "--tokenizer", "byte"], "bad.jsonl: line 2: \"text\" is not a string"),
        (&["none.txt", "--tokenizer", "byte"], "cannot read none.txt"),
        (&[".", "--tokenizer", "byte"], "folder"),
    ] {
        let text = refused(at, &[&["data", "prepare", "--out", "out", "--quiet"][..], args].concat());
        assert!(text.contains(says), "{args:?}: {text:?} does not mention {says:?}");
    }
    let text = refused(at, &["data", "prepare", "text.txt", "--tokenizer", "byte", "--out", "prep"]);
    assert!(text.contains("prep exists already"), "{text}");
}
