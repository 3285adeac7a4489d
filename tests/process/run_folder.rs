//! Promise: a run folder belongs to one process. A run that is interrupted, or whose disk fills up, prints how to
//! resume it, and resuming works.

use super::resources::support;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CONFIG: &str = r#"
[model]
family = "gpt"
layers = 2
heads = 2
head_size = 8
context = 16
[data]
text = "text.txt"
tokenizer = "byte"
[train]
batch = 4
eval_every = 10
eval_batches = 1
[[levels]]
train = { steps = 40, lr = 1e-3 }
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

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let out = vcycle(dir, args).output().expect("the binary runs");
    assert!(out.status.success(), "{args:?}: {}", text(&out));
    text(&out)
}

/// A run that is too long to finish and has written a checkpoint. Killed when dropped.
struct Running(Child);

impl Running {
    fn start(dir: &Path) -> Self {
        let long = ["--set", "levels.0.train.steps=100000000", "--quiet", "--threads", "1"];
        let mut command = vcycle(dir, &["train", "run.toml", "--out", "out"]);
        let child = command.args(long).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let begin = Instant::now();
        while std::fs::read_dir(dir.join("out/vcycle/checkpoints")).map_or(0, Iterator::count) == 0 {
            assert!(begin.elapsed() < Duration::from_secs(60), "no checkpoint in a minute");
            std::thread::sleep(Duration::from_millis(5));
        }
        Running(child)
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.0.id().to_string()]).status().expect("kill");
        assert!(sent.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_second_run_in_a_folder_is_refused_and_names_the_first() {
    let dir = workplace();
    let running = Running::start(dir.path());
    for args in [&["train", "--resume", "out"][..], &["train", "run.toml", "--out", "out"]] {
        let out = vcycle(dir.path(), args).output().expect("the binary runs");
        let output = text(&out);
        assert_eq!(out.status.code(), Some(2), "{output}");
        assert!(output.contains("out is in use by") && output.contains(&running.0.id().to_string()), "{output}");
    }
    drop(running);
    // The lock is released when its process ends, even if it was killed.
    let out = vcycle(dir.path(), &["train", "run.toml", "--out", "out"]).output().expect("the binary runs");
    assert!(text(&out).contains("vcycle train --resume out"), "{}", text(&out));
}

#[test]
fn an_interrupted_run_saves_and_prints_how_to_resume() {
    for signal in ["-INT", "-TERM"] {
        let dir = workplace();
        let mut running = Running::start(dir.path());
        running.signal(signal);
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = running.0.try_wait().expect("a child") {
                break status;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{signal}: still running after a minute");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(130));
        let mut output = String::new();
        let mut out = running.0.stdout.take().expect("piped");
        std::io::Read::read_to_string(&mut out, &mut output).expect("text");
        assert!(output.contains("stopped after step") && output.contains("vcycle train --resume out"), "{output}");
        let step: u64 = output.split_whitespace().find_map(|w| w.trim_end_matches(';').parse().ok()).expect("a step");
        let newest = dir.path().join(format!("out/vcycle/checkpoints/stage-1-step-{step:08}"));
        assert!(newest.exists(), "{} is missing", newest.display());
    }
}

#[test]
fn resuming_a_finished_run_changes_nothing() {
    let dir = workplace();
    ok(dir.path(), &["train", "run.toml", "--out", "out", "--quiet"]);
    let weights = std::fs::read(dir.path().join("out/vcycle/model/model.safetensors")).expect("weights");
    let output = ok(dir.path(), &["train", "--resume", "out"]);
    assert!(output.contains("already finished"), "{output}");
    assert_eq!(weights, std::fs::read(dir.path().join("out/vcycle/model/model.safetensors")).expect("weights"));
}

#[test]
fn invalid_resumes_are_refused() {
    let dir = workplace();
    let refused = |args: &[&str]| {
        let out = vcycle(dir.path(), args).output().expect("the binary runs");
        assert_eq!(out.status.code(), Some(2), "{}", text(&out));
        text(&out)
    };
    assert!(refused(&["train", "--resume", "nowhere"]).contains("nowhere is not a run folder"));
    assert!(refused(&["train", "--resume", "out", "run.toml"]).contains("cannot be used with"));
    assert!(refused(&["train"]).contains("CONFIG"));
    ok(dir.path(), &["train", "run.toml", "--out", "out", "--quiet"]);
    std::fs::remove_dir_all(dir.path().join("out/vcycle/model")).expect("removed");
    let config = dir.path().join("out/config.toml");
    let whole = std::fs::read_to_string(&config).expect("a configuration");
    for (from, to, says) in [
        ("layers = 2", "layers = 1", "model.layers: 2 -> 1"),
        ("tokenizer = \"byte\"", "tokenizer = \"char\"", "data.tokenizer: \"byte\" -> \"char\""),
        ("seed = 1", "seed = x", "config.toml"),
    ] {
        assert!(whole.contains(from), "{whole}");
        std::fs::write(&config, whole.replacen(from, to, 1)).expect("written");
        let output = refused(&["train", "--resume", "out"]);
        assert!(output.contains(says), "{to}: {output}");
    }
    std::fs::write(&config, &whole).expect("written");
    let output = refused(&["train", "--resume", "out", "--device", "reference"]);
    assert!(output.contains("resume with the --device that the run was started on"), "{output}");
    ok(dir.path(), &["train", "--resume", "out"]);
}

/// A limit on the file size simulates a full disk: writing fails in the middle of a checkpoint, while the metrics are
/// still below the limit.
#[test]
fn a_full_disk_leaves_no_partial_checkpoint_and_a_run_that_resumes() {
    let dir = workplace();
    let whole = ["train", "run.toml", "--out", "whole", "--set", "train.checkpoint_every=15", "--quiet"];
    ok(dir.path(), &whole);
    // The same run, whose first checkpoint does not fit on the disk.
    let first = ["train", "run.toml", "--out", "out", "--set", "train.checkpoint_every=15", "--quiet"];
    let tensors = dir.path().join("whole/vcycle/checkpoints/stage-1-step-00000040/tensors.safetensors");
    let kilobytes = std::fs::metadata(&tensors).expect("a checkpoint").len() / 1024;
    // `support::vcycle` leaves SIGXFSZ at its default, as a shell's `ulimit -f` does: unhandled, it would kill the
    // process without a message.
    let limited = |kilobytes: u64, args: &[&str]| {
        let mut command = support::vcycle(dir.path(), args);
        support::limit(&mut command, libc::RLIMIT_FSIZE, kilobytes * 1024);
        support::end(&mut command)
    };
    let ended = limited(kilobytes / 2, &first);
    let output = ended.error("a full disk");
    assert!(output.contains("tensors.safetensors") && output.contains("was not written"), "{output}");
    assert!(output.contains("ulimit -f") && output.contains("no checkpoint was written yet"), "{output}");
    // No partial checkpoint is left, and resuming repeats the steps that were not saved.
    let checkpoints = dir.path().join("out/vcycle/checkpoints");
    assert_eq!(std::fs::read_dir(&checkpoints).expect("a folder").count(), 0, "a partial checkpoint was left");
    limited(kilobytes * 2, &["train", "--resume", "out", "--quiet"]).success("enough space");
    let weights =
        |run: &str| std::fs::read(dir.path().join(run).join("vcycle/model/model.safetensors")).expect("weights");
    assert!(weights("out") == weights("whole"), "the resumed run has different weights");
}

/// As above, but the run has an earlier checkpoint.
#[test]
fn a_disk_that_fills_up_later_keeps_earlier_checkpoints() {
    let dir = workplace();
    let mut running = Running::start(dir.path());
    running.signal("-INT");
    running.0.wait().expect("stopped");
    let checkpoints = dir.path().join("out/vcycle/checkpoints");
    let listed = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&checkpoints).expect("a folder").flatten().map(|e| e.file_name()).collect();
        names.sort();
        names
    };
    let before = listed();
    assert!(!before.is_empty());
    let mut command = support::vcycle(dir.path(), &["train", "--resume", "out", "--quiet"]);
    support::limit(&mut command, libc::RLIMIT_FSIZE, 20 << 10);
    let ended = support::end(&mut command);
    let output = ended.error("a full disk");
    assert!(
        output.contains("resume with `vcycle train --resume out`") && output.contains("has everything up"),
        "{output}"
    );
    assert_eq!(listed(), before, "earlier checkpoints were changed");
    drop(running);
}
