//! Promise: a run's folder belongs to one process; a run that is interrupted, or whose disk fills up, says how to go on, and
//! does.

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

/// A run that would take for ever, once it has written a checkpoint. Killed when dropped.
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
fn the_second_run_in_a_folder_is_refused_by_name() {
    let dir = workplace();
    let running = Running::start(dir.path());
    for args in [&["train", "--resume", "out"][..], &["train", "run.toml", "--out", "out"]] {
        let out = vcycle(dir.path(), args).output().expect("the binary runs");
        let said = text(&out);
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(said.contains("out is in use by") && said.contains(&running.0.id().to_string()), "{said}");
    }
    drop(running);
    // The lock went with its process, however that ended.
    let out = vcycle(dir.path(), &["train", "run.toml", "--out", "out"]).output().expect("the binary runs");
    assert!(text(&out).contains("vcycle train --resume out"), "{}", text(&out));
}

#[test]
fn interrupted_saves_and_says_how_to_go_on() {
    for signal in ["-INT", "-TERM"] {
        let dir = workplace();
        let mut running = Running::start(dir.path());
        running.signal(signal);
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = running.0.try_wait().expect("a child") {
                break status;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{signal}: still running a minute later");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(130));
        let mut said = String::new();
        let mut out = running.0.stdout.take().expect("piped");
        std::io::Read::read_to_string(&mut out, &mut said).expect("text");
        assert!(said.contains("stopped after step") && said.contains("vcycle train --resume out"), "{said}");
        let step: u64 = said.split_whitespace().find_map(|w| w.trim_end_matches(';').parse().ok()).expect("a step");
        let newest = dir.path().join(format!("out/vcycle/checkpoints/stage-1-step-{step:08}"));
        assert!(newest.exists(), "{} is missing", newest.display());
    }
}

#[test]
fn a_finished_run_resumed_is_finished() {
    let dir = workplace();
    ok(dir.path(), &["train", "run.toml", "--out", "out", "--quiet"]);
    let weights = std::fs::read(dir.path().join("out/vcycle/model/model.safetensors")).expect("weights");
    let said = ok(dir.path(), &["train", "--resume", "out"]);
    assert!(said.contains("already finished"), "{said}");
    assert_eq!(weights, std::fs::read(dir.path().join("out/vcycle/model/model.safetensors")).expect("weights"));
}

#[test]
fn what_cannot_be_resumed_is_refused() {
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
        let said = refused(&["train", "--resume", "out"]);
        assert!(said.contains(says), "{to}: {said}");
    }
    std::fs::write(&config, &whole).expect("written");
    let said = refused(&["train", "--resume", "out", "--device", "reference"]);
    assert!(said.contains("resume with the --device that the run was started on"), "{said}");
    ok(dir.path(), &["train", "--resume", "out"]);
}

/// The limit on the size of a file stands for a full disk: writing fails in the middle of a checkpoint, with the metrics
/// still small.
#[test]
fn a_full_disk_leaves_the_earlier_checkpoint_and_a_run_that_goes_on() {
    let dir = workplace();
    let whole = ["train", "run.toml", "--out", "whole", "--set", "train.checkpoint_every=15", "--quiet"];
    ok(dir.path(), &whole);
    // A run that was stopped after its first checkpoint, on a disk with room.
    let first = ["train", "run.toml", "--out", "out", "--set", "train.checkpoint_every=15", "--quiet"];
    let tensors = dir.path().join("whole/vcycle/checkpoints/stage-1-step-00000040/tensors.safetensors");
    let kilobytes = std::fs::metadata(&tensors).expect("a checkpoint").len() / 1024;
    // The signal at its default, as a shell's `ulimit -f` leaves it: it would end the process without a word.
    let limited = |kilobytes: u64, args: &[&str]| {
        let mut command = support::vcycle(dir.path(), args);
        support::limit(&mut command, libc::RLIMIT_FSIZE, kilobytes * 1024);
        support::end(&mut command)
    };
    let ended = limited(kilobytes / 2, &first);
    let said = ended.sentence("a full disk");
    assert!(said.contains("tensors.safetensors") && said.contains("was not written"), "{said}");
    assert!(said.contains("ulimit -f") && said.contains("no checkpoint was written yet"), "{said}");
    // Nothing half-written, and what the first try did not save is done again.
    let checkpoints = dir.path().join("out/vcycle/checkpoints");
    assert_eq!(std::fs::read_dir(&checkpoints).expect("a folder").count(), 0, "half a checkpoint was left");
    limited(kilobytes * 2, &["train", "--resume", "out", "--quiet"]).success("with room");
    let weights =
        |run: &str| std::fs::read(dir.path().join(run).join("vcycle/model/model.safetensors")).expect("weights");
    assert!(weights("out") == weights("whole"), "the resumed run ended elsewhere");
}

/// As above, with a checkpoint of the same run already there.
#[test]
fn a_disk_that_fills_up_later_leaves_what_was_saved() {
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
    let said = ended.sentence("a full disk");
    assert!(said.contains("resume with `vcycle train --resume out`") && said.contains("has everything up"), "{said}");
    assert_eq!(listed(), before, "earlier checkpoints changed");
    drop(running);
}
