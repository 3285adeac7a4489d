//! Files that are changed while a run has them memory-mapped.

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

/// Tokens in nanoGPT's format: two bytes each, without a header.
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

/// Writes the original file, with yesterday's modification time, so that no later write can have the same one.
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

/// Returns whether a training step was logged. Before the first one, an evaluation checks the files, and would report a
/// change itself.
fn steps_began(dir: &Path) -> bool {
    let metrics = std::fs::read_to_string(dir.join("out/vcycle/metrics.jsonl"));
    metrics.is_ok_and(|text| text.contains("\"event\":\"step\""))
}

/// Resumes the run in `out` to a few steps past its checkpoint and asserts that its weights equal those of a run that
/// was never disturbed.
fn assert_resumes(dir: &Path) {
    restore(dir);
    let steps = saved(dir, "out").unwrap_or(0) + 5;
    shorten(dir, "out", steps);
    end(&mut vcycle(dir, &["train", "--resume", "out", "--quiet"])).success("resumed");
    let set = format!("levels.0.train.steps={steps}");
    end(&mut vcycle(dir, &["train", "run.toml", "--out", "whole", "--quiet", "--set", &set])).success("whole");
    assert!(weights(dir, "out") == weights(dir, "whole"), "the resumed run has different weights");
}

#[test]
fn a_file_rewritten_in_place_stops_the_run() {
    let dir = workplace();
    let dir = dir.path();
    let running = start(dir, &[]);
    until("a checkpoint", || saved(dir, "out").is_some());
    let mut file = std::fs::File::options().write(true).open(dir.join("train.bin")).expect("opened");
    file.rewind().and_then(|()| file.write_all(&tokens(40_000, 7))).expect("written");
    let ended = running.end();
    let output = ended.error("rewritten");
    assert!(output.contains("train.bin changed while it was in use: it was written to"), "{output}");
    assert!(output.contains("vcycle train --resume out") && saved(dir, "out").is_some(), "{output}");
    // Resuming with different data is refused.
    let ended = end(&mut vcycle(dir, &["train", "--resume", "out", "--quiet"]));
    assert!(ended.error("other data").contains("restore the old data"), "{}", ended.output);
    assert_resumes(dir);
}

/// Changes one of 40,000 tokens, which no sampled check of the file looks at.
#[test]
fn resuming_with_one_changed_token_is_refused() {
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
    let output = ended.error("one token");
    assert!(output.contains("data: the tokens changed since the checkpoint was written"), "{output}");
    assert_resumes(dir);
}

#[test]
fn a_truncated_file_stops_the_run() {
    for (case, more) in [
        // An evaluation may notice it, or a thread that makes batches.
        ("with evaluations", &[][..]),
        ("with training steps only", &["--set", "train.eval_every=100000000"]),
    ] {
        let dir = workplace();
        let dir = dir.path();
        let running = start(dir, more);
        until("a training step", || steps_began(dir));
        if more.is_empty() {
            until("a checkpoint", || saved(dir, "out").is_some());
        }
        let file = std::fs::File::options().write(true).open(dir.join("train.bin")).expect("opened");
        file.set_len(0).expect("cut");
        let ended = running.end();
        let output = ended.error(case);
        assert!(output.contains("train.bin") && output.contains("vcycle train --resume out"), "{case}: {output}");
        assert!(more.is_empty() || output.contains("SIGBUS"), "{case}: {output}");
        assert_resumes(dir);
    }
}

#[test]
fn a_run_keeps_reading_the_file_that_was_replaced() {
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
    assert_resumes(dir);
}

#[test]
fn a_truncated_image_shard_stops_the_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/data/digits.csv.gz");
    let config = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/deit-tiny.toml")).expect("text");
    std::fs::write(dir.join("run.toml"), config.replace("data/digits.csv.gz", digits)).expect("written");
    let running = start(dir, &["--set", "levels.0.before.steps=100000000", "--set", "train.eval_every=100000000"]);
    until("a training step", || steps_began(dir));
    let cache = std::fs::read_dir(dir.join("runs/data")).expect("a folder").flatten().map(|entry| entry.path());
    let shard = cache.into_iter().find(|path| path.extension().is_some_and(|e| e == "images")).expect("a shard");
    std::fs::File::options().write(true).open(&shard).and_then(|file| file.set_len(64)).expect("cut");
    let ended = running.end();
    let output = ended.error("images");
    assert!(output.contains(".images") && output.contains("SIGBUS"), "{output}");
    // A damaged cache is built again.
    shorten_first(dir);
    end(&mut vcycle(dir, &["train", "--resume", "out", "--quiet"])).success("resumed");
}

fn shorten_first(dir: &Path) {
    let path = dir.join("out/config.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    std::fs::write(&path, text.replace("steps = 100000000", "steps = 6")).expect("written");
}

/// The child process of the next test. Does nothing unless `OVERFLOW` is set.
#[test]
fn child_with_a_stack_overflow() {
    if std::env::var_os("OVERFLOW").is_none() {
        return;
    }
    fn deeper(n: u64) -> u64 {
        std::hint::black_box(if n == u64::MAX { 0 } else { deeper(n + 1) + std::hint::black_box(1) })
    }
    vcycle::signals::install();
    println!("{}", deeper(0));
}

/// Rust's own SIGSEGV handler still reports a stack overflow.
#[test]
fn a_stack_overflow_is_still_reported() {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "resources::mapped::child_with_a_stack_overflow", "--nocapture"]).env("OVERFLOW", "1");
    let ended = end(&mut command);
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{}", ended.output);
    assert!(ended.output.contains("has overflowed its stack"), "{}", ended.output);
}
