//! Files that somebody writes to while they are mapped.

use crate::resources::support::{Running, end, saved, shorten, until, vcycle, weights};
use std::io::{Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const CONFIG: &str = r#"
[model]
family = "gpt"
layers = 1
heads = 2
head_size = 8
context = 16
[data]
train = ["train.bin"]
valid = ["valid.bin"]
vocab = 50
[train]
batch = 4
eval_every = 10
eval_batches = 1
[[levels]]
train = { steps = 100000000, lr = 1e-3, decay = "constant" }
"#;

/// nanoGPT's form: token after token, two bytes each.
fn tokens(count: usize, step: usize) -> Vec<u8> {
    (0..count).flat_map(|i| ((i * step % 47) as u16).to_le_bytes()).collect()
}

fn workplace() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    restore(dir.path());
    std::fs::write(dir.path().join("valid.bin"), tokens(4_000, 3)).expect("written");
    std::fs::write(dir.path().join("run.toml"), CONFIG).expect("written");
    dir
}

/// As it was, but for the time: that of a file from yesterday, which no write of today can have by chance.
fn restore(dir: &Path) {
    let path = dir.join("train.bin");
    std::fs::write(&path, tokens(40_000, 5)).expect("written");
    let ago = SystemTime::now() - Duration::from_secs(86_400);
    std::fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(ago)).expect("a time");
}

fn start(dir: &Path, more: &[&str]) -> Running {
    let mut command = vcycle(dir, &["train", "run.toml", "--out", "out", "--quiet", "--threads", "1"]);
    Running::start(command.args(more))
}

/// The run in `out`, cut down to what it has and a few steps, ends as one that nobody disturbed.
fn goes_on(dir: &Path) {
    restore(dir);
    let steps = saved(dir, "out").unwrap_or(0) + 5;
    shorten(dir, "out", steps);
    end(&mut vcycle(dir, &["train", "--resume", "out", "--quiet"])).success("resumed");
    let set = format!("levels.0.train.steps={steps}");
    end(&mut vcycle(dir, &["train", "run.toml", "--out", "whole", "--quiet", "--set", &set])).success("whole");
    assert!(weights(dir, "out") == weights(dir, "whole"), "the resumed run ended elsewhere");
}

#[test]
fn rewritten_in_place() {
    let dir = workplace();
    let dir = dir.path();
    let running = start(dir, &[]);
    until("a checkpoint", || saved(dir, "out").is_some());
    let mut file = std::fs::File::options().write(true).open(dir.join("train.bin")).expect("opened");
    file.rewind().and_then(|()| file.write_all(&tokens(40_000, 7))).expect("written");
    let ended = running.end();
    let said = ended.sentence("rewritten");
    assert!(said.contains("train.bin changed while it was in use: it was written to"), "{said}");
    assert!(said.contains("vcycle train --resume out") && saved(dir, "out").is_some(), "{said}");
    // Other data is no way to go on.
    let ended = end(&mut vcycle(dir, &["train", "--resume", "out", "--quiet"]));
    assert!(ended.sentence("other data").contains("restore the old data"), "{}", ended.said);
    goes_on(dir);
}

/// One token of 40,000, where no sample looks.
#[test]
fn resumed_with_a_file_that_differs_in_one_token() {
    let dir = workplace();
    let dir = dir.path();
    let running = start(dir, &[]);
    until("a checkpoint", || saved(dir, "out").is_some());
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().status.code(), Some(130));
    let mut changed = tokens(40_000, 5);
    changed[2 * 12_345] ^= 1;
    std::fs::write(dir.join("train.bin"), changed).expect("written");
    let ended = end(&mut vcycle(dir, &["train", "--resume", "out", "--quiet"]));
    let said = ended.sentence("one token");
    assert!(said.contains("data: the tokens changed since the checkpoint was written"), "{said}");
    goes_on(dir);
}

#[test]
fn cut_short() {
    for (case, more) in [
        // An evaluation may see it, or a thread that makes batches.
        ("with evaluations", &[][..]),
        ("with nothing but steps", &["--set", "train.eval_every=100000000"]),
    ] {
        let dir = workplace();
        let dir = dir.path();
        let mut running = start(dir, more);
        running.until_written(&dir.join("out/vcycle/metrics.jsonl"));
        if more.is_empty() {
            until("a checkpoint", || saved(dir, "out").is_some());
        }
        let file = std::fs::File::options().write(true).open(dir.join("train.bin")).expect("opened");
        file.set_len(0).expect("cut");
        let ended = running.end();
        let said = ended.sentence(case);
        assert!(said.contains("train.bin") && said.contains("vcycle train --resume out"), "{case}: {said}");
        assert!(more.is_empty() || said.contains("SIGBUS"), "{case}: {said}");
        goes_on(dir);
    }
}

#[test]
fn replaced_by_another_file_it_is_read_as_it_was() {
    let dir = workplace();
    let dir = dir.path();
    let running = start(dir, &[]);
    until("a checkpoint", || saved(dir, "out").is_some());
    std::fs::write(dir.join("new.bin"), tokens(30_000, 7)).expect("written");
    std::fs::rename(dir.join("new.bin"), dir.join("train.bin")).expect("renamed");
    let before = saved(dir, "out");
    until("two more checkpoints", || saved(dir, "out") > before.map(|step| step + 20));
    running.signal(libc::SIGTERM);
    assert_eq!(running.end().status.code(), Some(130));
    goes_on(dir);
}

#[test]
fn images_cut_short() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/data/digits.csv.gz");
    let config = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/deit-tiny.toml")).expect("text");
    std::fs::write(dir.join("run.toml"), config.replace("data/digits.csv.gz", digits)).expect("written");
    let mut running = start(dir, &["--set", "levels.0.before.steps=100000000", "--set", "train.eval_every=100000000"]);
    running.until_written(&dir.join("out/vcycle/metrics.jsonl"));
    let cache = std::fs::read_dir(dir.join("runs/data")).expect("a folder").flatten().map(|entry| entry.path());
    let shard = cache.into_iter().find(|path| path.extension().is_some_and(|e| e == "images")).expect("a shard");
    std::fs::File::options().write(true).open(&shard).and_then(|file| file.set_len(64)).expect("cut");
    let ended = running.end();
    let said = ended.sentence("images");
    assert!(said.contains(".images") && said.contains("SIGBUS"), "{said}");
    // A damaged cache is made anew.
    shorten_first(dir);
    end(&mut vcycle(dir, &["train", "--resume", "out", "--quiet"])).success("resumed");
}

fn shorten_first(dir: &Path) {
    let path = dir.join("out/config.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    std::fs::write(&path, text.replace("steps = 100000000", "steps = 6")).expect("written");
}

/// The other side of the next test: only with this variable set.
#[test]
fn child() {
    if std::env::var_os("OVERFLOW").is_none() {
        return;
    }
    fn deeper(n: u64) -> u64 {
        std::hint::black_box(if n == u64::MAX { 0 } else { deeper(n + 1) + std::hint::black_box(1) })
    }
    vcycle::signals::install();
    println!("{}", deeper(0));
}

/// Rust's own handler still tells of a stack that overflows.
#[test]
fn an_overflowing_stack_is_told_as_ever() {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "mapped::child", "--nocapture"]).env("OVERFLOW", "1");
    let ended = end(&mut command);
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{}", ended.said);
    assert!(ended.said.contains("has overflowed its stack"), "{}", ended.said);
}
