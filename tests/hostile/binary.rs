//! The binary itself, limited to 2 GiB of address space, on a sample of every kind of file.

use crate::judge::{assert_useful, folder, write};
use crate::safetensors::save_model;
use crate::tokenizer::added_token;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vcycle::data::tokenizer::Tokenizer;

const DEADLINE: Duration = Duration::from_secs(30);

/// Runs the binary. Returns its standard output or, if it failed with exit code 2, its standard error.
pub fn vcycle(dir: &Path, args: &[&str]) -> Result<String, String> {
    let mut command = if cfg!(unix) {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -v 2097152; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_vcycle")]);
        limited
    } else {
        Command::new(env!("CARGO_BIN_EXE_vcycle"))
    };
    let (out, err) = (dir.join("stdout.txt"), dir.join("stderr.txt"));
    let to = |path: &Path| Stdio::from(std::fs::File::create(path).expect("a file"));
    command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(to(&out)).stderr(to(&err));
    let (mut child, begin) = (command.spawn().expect("the binary runs"), Instant::now());
    let status = loop {
        match child.try_wait().expect("a child") {
            Some(status) => break status,
            None if begin.elapsed() > DEADLINE => {
                // Fails if it has just ended.
                let _ = child.kill();
                panic!("{args:?}: still running after {DEADLINE:?}");
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let read = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).expect("a file")).into_owned();
    let (printed, message) = (read(&out), read(&err));
    assert!(!message.contains("panicked"), "{args:?}: {message}");
    match status.code() {
        Some(0) => Ok(printed),
        Some(2) => Err(message),
        code => panic!("{args:?}: ended with {code:?}: {message}"),
    }
}

#[test]
fn hostile_files() {
    let dir = folder();
    let at = dir.path();
    let text: String = (0..300).map(|i| format!("line {i} of the text\n")).collect();
    write(&at.join("text.txt"), text.as_bytes());
    save_model(&at.join("model"), 2, 2);
    let tokenizer = at.join("model/tokenizer.json");
    Tokenizer::from_spec("byte", "").expect("a tokenizer").save(&tokenizer).expect("saved");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&tokenizer).expect("bytes")).expect("JSON");
    let refused = |file: &str, args: &[&str]| {
        let shown: Vec<&str> = args.iter().map(|a| &a[..a.len().min(60)]).collect();
        let message = vcycle(at, args).expect_err(&format!("{shown:?}"));
        assert_useful(file, &format!("{shown:?}"), &message);
        assert!(!at.join("out").exists(), "{shown:?} left a folder behind");
    };
    let config = "[model]\nfamily = \"gpt\"\nlayers = 1\nheads = 1\nhead_size = 4\ncontext = 16\n[data]\ntext = \"text.txt\"\n\
                  tokenizer = \"byte\"\n[train]\nbatch = 2\neval_every = 5\n[[levels]]\ntrain = { steps = 1, lr = 1e-3 }\n";
    write(&at.join("run.toml"), config.as_bytes());
    let train = |change: &str| refused("run.toml", &["train", "run.toml", "--out", "out", "--set", change]);
    train(&format!("{}b=1", "a.".repeat(60_000)));
    train("seed=18446744073709551616");
    train("levels.0.train.lr=nan");
    let train = |file: &str, change: &str| refused(file, &["train", "run.toml", "--out", "out", "--set", change]);
    train("train.batch", "train.batch=100000000");
    train("out of memory", "model.heads=2000");
    write(&at.join("far.json"), with_token(&json, u32::MAX).as_bytes());
    train("far.json", "data.tokenizer=far.json");
    write(&at.join("broken.zst"), b"\x28\xb5\x2f\xfd\x00\x58\xff\xff\xff");
    train("broken.zst", "data.text=broken.zst");
    let generate = |file: &str| refused(file, &["generate", "model", "--prompt", "a"]);
    write(&tokenizer, with_token(&json, u32::MAX).as_bytes());
    generate("tokenizer.json");
    // The tokenizers library panics on this one, which must not reach the user.
    let mut panics = json.clone();
    panics["normalizer"] = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    write(&tokenizer, panics.to_string().as_bytes());
    generate("tokenizer.json");
    write(&tokenizer, b"[[[[[[");
    generate("tokenizer.json");
    let weights = at.join("model/model.safetensors");
    let bytes = std::fs::read(&weights).expect("bytes");
    write(&weights, &bytes[..bytes.len() - 1]);
    generate("model.safetensors");
    refused("model.safetensors", &["coalesce", "model", "--layers", "1", "--out", "out"]);
    write(&weights, &bytes);
    if cfg!(unix) {
        std::fs::remove_file(&tokenizer).expect("removed");
        let made = Command::new("mkfifo").arg(&tokenizer).status();
        if made.is_ok_and(|status| status.success()) {
            refused("tokenizer.json", &["coalesce", "model", "--layers", "1", "--out", "out"]);
            refused("tokenizer.json", &["train", "model/tokenizer.json", "--out", "out"]);
        }
    }
}

/// The JSON of a tokenizer with one more token, which has this id.
fn with_token(json: &serde_json::Value, id: u32) -> String {
    let mut json = json.clone();
    json["added_tokens"] = serde_json::json!([added_token(id.into())]);
    json["model"]["vocab"]["<t>"] = id.into();
    json.to_string()
}
