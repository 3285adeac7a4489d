//! Promise: no signal costs more than a person asked for. SIGINT, SIGTERM and SIGHUP, alone, repeated or together, end a run
//! with a checkpoint of its last step; a second Ctrl-C ends it at once; what was ignored stays ignored; and whatever ends a
//! run, it goes on to the same bits.

use super::resources::support::{
    Ended, Running, checkpoints, dispose, end, limit, saved, until, vcycle, weights, workplace,
};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Steps of tens of milliseconds, and so many of them that none of these tests sees the end.
const SLOW: &str = r#"
[model]
family = "gpt"
layers = 2
heads = 4
head_size = 32
context = 128
[data]
text = "text.txt"
tokenizer = "byte"
[train]
batch = 8
eval_every = 100000
eval_batches = 1
checkpoint_every = 100000
[[levels]]
train = { steps = 100000, lr = 1e-3 }
"#;

fn slow() -> TempDir {
    let dir = workplace();
    std::fs::write(dir.path().join("run.toml"), SLOW).expect("written");
    dir
}

/// A run that trains: `metrics.jsonl` has its first line.
fn start(command: &mut Command, dir: &Path) -> Running {
    let mut running = Running::start(command);
    running.until_written(&dir.join("out/vcycle/metrics.jsonl"));
    running
}

fn train(dir: &Path, more: &[&str]) -> Command {
    let mut command = vcycle(dir, &["train", "run.toml", "--out", "out", "--threads", "1"]);
    command.args(more);
    command
}

/// Seconds of a step: long enough to send signals in the middle of it.
const LONG_STEPS: [&str; 2] = ["--set", "train.batch=256"];

/// Exit code 130, and a checkpoint of the step that it says it stopped after.
#[track_caller]
fn assert_saved(dir: &Path, ended: &Ended, case: &str) {
    let said = &ended.said;
    assert_eq!((ended.status.code(), ended.status.signal()), (Some(130), None), "{case}: {said}");
    let step = said.split_once("stopped after step ").and_then(|(_, rest)| rest.split_once(';'));
    let step: u64 = step.and_then(|(step, _)| step.parse().ok()).unwrap_or_else(|| panic!("{case}: no step: {said}"));
    assert!(said.contains("vcycle train --resume out"), "{case}: {said}");
    assert_eq!(saved(dir, "out"), Some(step), "{case}: {said}");
}

#[test]
fn one_signal_saves() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGXCPU] {
        let dir = slow();
        let running = start(&mut train(dir.path(), &[]), dir.path());
        running.signal(signal);
        assert_saved(dir.path(), &running.end(), &format!("signal {signal}"));
    }
}

/// As a closed terminal sends two SIGHUP, a service manager SIGTERM again, a launcher SIGINT to a process and to its group.
#[test]
fn a_burst_saves() {
    const INT: libc::c_int = libc::SIGINT;
    const TERM: libc::c_int = libc::SIGTERM;
    const HUP: libc::c_int = libc::SIGHUP;
    for burst in [&[HUP, HUP][..], &[TERM; 20], &[INT, INT], &[INT, TERM, HUP, INT, TERM, HUP], &[HUP, INT, HUP]] {
        // Only a burst that was one says something: this process may have had to wait in the middle of it.
        let sent_at_once = |_| {
            let dir = slow();
            let running = start(&mut train(dir.path(), &LONG_STEPS), dir.path());
            let begin = Instant::now();
            burst.iter().for_each(|signal| running.signal(*signal));
            let in_time = begin.elapsed() < Duration::from_millis(100);
            let ended = running.end();
            if in_time {
                assert_saved(dir.path(), &ended, &format!("{burst:?}"));
            }
            in_time
        };
        assert!((0..5).any(sent_at_once), "{burst:?}: never sent in a tenth of a second");
    }
}

/// Sends a signal, and another once a person could have read what the first one said.
fn twice(running: &Running, signals: [libc::c_int; 2]) {
    running.signal(signals[0]);
    until("an answer", || running.said().contains("a checkpoint written"));
    let answered = Instant::now();
    until("time passes", || answered.elapsed() > Duration::from_millis(250));
    running.signal(signals[1]);
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    let dir = slow();
    let dir = dir.path();
    let running = start(&mut train(dir, &LONG_STEPS), dir);
    twice(&running, [libc::SIGINT; 2]);
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.said);
    assert!(ended.said.contains("exited at once") && ended.said.contains("--resume out"), "{}", ended.said);
    assert_eq!(saved(dir, "out"), None, "it did wait");
}

#[test]
fn anything_else_that_comes_later_waits() {
    for signals in [[libc::SIGTERM; 2], [libc::SIGHUP; 2], [libc::SIGINT, libc::SIGTERM], [libc::SIGTERM, libc::SIGINT]]
    {
        let dir = slow();
        let running = start(&mut train(dir.path(), &LONG_STEPS), dir.path());
        twice(&running, signals);
        assert_saved(dir.path(), &running.end(), &format!("{signals:?}"));
    }
}

#[test]
fn an_ignored_signal_stays_ignored() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        let dir = workplace();
        let dir = dir.path();
        let mut command = train(dir, &["--set", "levels.0.train.steps=100000000"]);
        dispose(&mut command, signal, libc::SIG_IGN);
        let running = start(&mut command, dir);
        running.signal(signal);
        let before = saved(dir, "out");
        until("two more checkpoints", || saved(dir, "out") > before.map(|step| step + 20).or(Some(20)));
        assert!(!running.said().contains("stopping"), "{}", running.said());
        running.signal(if signal == libc::SIGTERM { libc::SIGINT } else { libc::SIGTERM });
        assert_saved(dir, &running.end(), &format!("signal {signal}"));
    }
}

/// The command itself, as people type it.
#[test]
fn nohup() {
    let dir = workplace();
    let dir = dir.path();
    let mut command = Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_vcycle")).args(["train", "run.toml", "--out", "out", "--threads", "1"]);
    command.args(["--set", "levels.0.train.steps=100000000"]).current_dir(dir).stdin(Stdio::null());
    let running = start(&mut command, dir);
    running.signal(libc::SIGHUP);
    running.signal(libc::SIGHUP);
    let before = saved(dir, "out");
    until("two more checkpoints", || saved(dir, "out") > before.map(|step| step + 20).or(Some(20)));
    running.signal(libc::SIGTERM);
    assert_saved(dir, &running.end(), "nohup");
}

#[test]
fn before_the_first_step_there_is_nothing_to_wait_for() {
    let dir = workplace();
    let dir = dir.path();
    let mut random = 5u64;
    let mut word = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:x}", random >> 44)
    };
    let text: String = (0..400_000).map(|i| word() + if i % 10 == 0 { "\n" } else { " " }).collect();
    std::fs::write(dir.join("text.txt"), text).expect("written");
    let running = Running::start(&mut train(dir, &["--set", "data.tokenizer=bpe:400"]));
    until("a preparation", || std::fs::read_dir(dir.join("runs/data")).map_or(0, Iterator::count) > 0);
    running.signal(libc::SIGTERM);
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.said);
    assert!(ended.said.contains("stopped before training began") && !dir.join("out").exists(), "{}", ended.said);
}

/// SIGQUIT is the system's: no checkpoint, and the run goes on from the one before.
#[test]
fn quit_ends_at_once() {
    let dir = workplace();
    let dir = dir.path();
    let mut command = train(dir, &["--set", "levels.0.train.steps=100000000"]);
    dispose(&mut command, libc::SIGQUIT, libc::SIG_DFL);
    limit(&mut command, libc::RLIMIT_CORE, 0);
    let running = start(&mut command, dir);
    until("a checkpoint", || saved(dir, "out").is_some());
    running.signal(libc::SIGQUIT);
    let ended = running.end();
    assert_eq!(ended.status.signal(), Some(libc::SIGQUIT), "{}", ended.said);
    finish(dir, "steps = 100000000", "levels.0.train.steps");
}

/// Lets the run in `out` end a few steps after its checkpoint: as one that nobody disturbed. `steps` is its long stage.
fn finish(dir: &Path, steps: &str, key: &str) {
    // Of all stages; what comes before the long one is 40 steps where there are others.
    let before = if std::fs::read_to_string(dir.join("run.toml")).expect("text").contains("before") { 40 } else { 0 };
    let more = saved(dir, "out").unwrap_or(0).saturating_sub(before) + 5;
    let path = dir.join("out/config.toml");
    let text = std::fs::read_to_string(&path).expect("text");
    assert!(text.contains(steps), "{text}");
    std::fs::write(&path, text.replace(steps, &format!("steps = {more}"))).expect("written");
    end(&mut vcycle(dir, &["train", "--resume", "out", "--quiet"])).success("resumed");
    let set = format!("{key}={more}");
    end(&mut vcycle(dir, &["train", "run.toml", "--out", "whole", "--quiet", "--set", &set])).success("whole");
    assert!(weights(dir, "out") == weights(dir, "whole"), "the resumed run ended elsewhere");
}

/// Nobody reads, on one stream or on both: the run goes on, ends, or stops, as ever.
#[test]
fn closed_outputs_cost_nothing() {
    for (out, err) in [(true, false), (false, true), (true, true)] {
        let dir = workplace();
        let dir = dir.path();
        // A pipe whose reader is gone: SIGPIPE, if somebody let it.
        let gone = || {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop(reader);
            Stdio::from(writer)
        };
        let with = |command: &mut Command| {
            command.stdout(if out { gone() } else { Stdio::null() }).stderr(if err { gone() } else { Stdio::null() });
            command.spawn().expect("the binary runs")
        };
        let mut child = with(&mut vcycle(dir, &["train", "run.toml", "--out", "done"]));
        let mut status = None;
        until("an end", || {
            status = child.try_wait().expect("a child");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(0), "stdout closed: {out}, stderr closed: {err}");
        assert!(dir.join("done/vcycle/model/model.safetensors").exists() && dir.join("done/report.html").exists());

        let mut child = with(&mut train(dir, &["--set", "levels.0.train.steps=100000000"]));
        until("a checkpoint", || saved(dir, "out").is_some());
        // SAFETY: a child that was not waited for still has its number.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
        let mut status = None;
        until("an end", || {
            status = child.try_wait().expect("a child");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(130), "stdout closed: {out}, stderr closed: {err}");
    }
}

/// A terminal: what a person types into, and what the run sees.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: writes the two descriptors; the rest may be null.
    let opened = unsafe {
        libc::openpty(&raw mut ours, &raw mut theirs, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut())
    };
    assert_eq!(opened, 0, "no terminal");
    // SAFETY: both were just opened, and nobody else has them.
    let [ours, theirs] = [ours, theirs].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: the descriptor is open. The child must not hold its own terminal open.
    unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    (ours, theirs)
}

/// A run in a terminal of its own, and the other end of that.
fn in_a_terminal(dir: &Path, more: &[&str]) -> (Running, File) {
    let (ours, theirs) = terminal();
    let mut command = train(dir, more);
    let fd = theirs.as_raw_fd();
    // SAFETY: between fork and exec this calls `setsid`, `ioctl` and `dup2` alone, which are plain system calls.
    unsafe {
        command.pre_exec(move || match libc::setsid() >= 0 && libc::ioctl(fd, libc::TIOCSCTTY, 0) == 0 {
            // Standard output stays a file, which the tests read.
            true if libc::dup2(fd, 0) == 0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let running = start(&mut command, dir);
    drop(theirs);
    (running, File::from(ours))
}

#[test]
fn a_closed_terminal_saves() {
    let dir = slow();
    let (running, ours) = in_a_terminal(dir.path(), &LONG_STEPS);
    drop(ours);
    // The shell of the terminal sends another one.
    running.signal(libc::SIGHUP);
    assert_saved(dir.path(), &running.end(), "a closed terminal");
}

#[test]
fn ctrl_c_typed_once_saves_and_typed_twice_ends() {
    for times in [1, 2] {
        let dir = slow();
        let (running, mut ours) = in_a_terminal(dir.path(), &LONG_STEPS);
        ours.write_all(b"\x03").expect("typed");
        until("an answer", || running.said().contains("a checkpoint written"));
        if times == 2 {
            let answered = Instant::now();
            until("time passes", || answered.elapsed() > Duration::from_millis(250));
            ours.write_all(b"\x03").expect("typed");
        }
        let ended = running.end();
        match times {
            1 => assert_saved(dir.path(), &ended, "typed once"),
            _ => assert!(ended.said.contains("exited at once"), "{}", ended.said),
        }
    }
}

/// Three stages; the last one has no end.
const STAGES: &str = r#"
[model]
family = "gpt"
layers = 2
heads = 2
head_size = 8
context = 16
dropout = 0.1
[data]
text = "text.txt"
tokenizer = "byte"
[train]
batch = 4
eval_every = 40
eval_batches = 1
checkpoint_every = 15
[[levels]]
before = { steps = 20, lr = 1e-3, decay = "constant" }
train = { steps = 100000000, lr = 1e-3, decay = "constant", optimizer = "transfer" }
[[levels]]
layers = 1
heads = 1
alpha = 0.5
train = { steps = 20, lr = 1e-3, decay = "constant", optimizer = "transfer" }
"#;

/// Kills a run so many times, at moments and in bursts that `seed` decides, and compares its end.
fn killed(signal: libc::c_int, times: u64, seed: u64) {
    let dir = workplace();
    let dir = dir.path();
    std::fs::write(dir.join("run.toml"), STAGES).expect("written");
    let mut state = seed;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..times {
        let mut command = match dir.join("out/config.toml").exists() {
            true => vcycle(dir, &["train", "--resume", "out", "--threads", "1"]),
            false => {
                // Killed before it was a run.
                let _ = std::fs::remove_dir_all(dir.join("out"));
                train(dir, &[])
            }
        };
        let running = Running::start(&mut command);
        let (begin, moment) = (Instant::now(), Duration::from_micros(random(200_000)));
        until("its moment", || begin.elapsed() >= moment);
        for _ in 0..=random(3) {
            running.signal(signal);
        }
        let ended = running.end();
        let fine = match signal {
            libc::SIGKILL => ended.status.signal() == Some(signal),
            // Before the binary listens, the system ends it.
            _ => ended.status.code() == Some(130) || ended.status.signal() == Some(signal),
        };
        assert!(fine, "signal {signal}: {:?}: {}", ended.status, ended.said);
    }
    // From the very beginning, where nothing was saved.
    if !dir.join("out/config.toml").exists() {
        let _ = std::fs::remove_dir_all(dir.join("out"));
        let running = start(&mut train(dir, &[]), dir);
        running.signal(libc::SIGTERM);
        running.end();
    }
    finish(dir, "steps = 100000000", "levels.0.train.steps");
    assert!(checkpoints(dir, "out").iter().all(|path| path.join("sums.json").exists()));
    let left = std::fs::read_dir(dir.join("out/vcycle/checkpoints")).expect("a folder").flatten();
    assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().ends_with(".tmp")), "leftovers");
}

const ENDINGS: [libc::c_int; 4] = [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

#[test]
fn killed_at_random_moments() {
    for (number, signal) in ENDINGS.into_iter().enumerate() {
        killed(signal, 6, 11 + number as u64);
    }
}

/// Takes minutes.
#[test]
#[ignore = "exhaustive: a hundred kills by each signal"]
fn killed_a_hundred_times_by_each_signal() {
    for (number, signal) in ENDINGS.into_iter().enumerate() {
        let begin = Instant::now();
        killed(signal, 100, 1_000 + number as u64);
        println!("signal {signal}: 100 kills in {:.0} s", begin.elapsed().as_secs_f64());
    }
}
