//! Promise: no signal loses more work than it has to. SIGINT, SIGTERM and SIGHUP, alone, repeated or together, end a
//! run with a checkpoint of its last step. A second Ctrl-C exits at once. An ignored signal stays ignored. However a
//! run ended, resuming it gives the same bits as a run that was never interrupted.

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

/// Steps that take tens of milliseconds, and too many of them for a test to reach the last one.
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

/// Starts a run and waits until it trains: `metrics.jsonl` has its first line.
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

/// Options that make a step take seconds: long enough to send signals in the middle of it.
const LONG_STEPS: [&str; 2] = ["--set", "train.batch=256"];

/// Asserts exit code 130 and a checkpoint of the step that the run reports to have stopped after.
#[track_caller]
fn assert_saved(dir: &Path, ended: &Ended, case: &str) {
    let output = &ended.output;
    assert_eq!((ended.status.code(), ended.status.signal()), (Some(130), None), "{case}: {output}");
    let step = output.split_once("stopped after step ").and_then(|(_, rest)| rest.split_once(';'));
    let step: u64 = step.and_then(|(step, _)| step.parse().ok()).unwrap_or_else(|| panic!("{case}: no step: {output}"));
    assert!(output.contains("vcycle train --resume out"), "{case}: {output}");
    assert_eq!(saved(dir, "out"), Some(step), "{case}: {output}");
}

#[test]
fn one_signal_saves_a_checkpoint() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGXCPU] {
        let dir = slow();
        let running = start(&mut train(dir.path(), &[]), dir.path());
        running.signal(signal);
        assert_saved(dir.path(), &running.end(), &format!("signal {signal}"));
    }
}

/// Such bursts occur: a closed terminal sends SIGHUP twice, a service manager repeats SIGTERM, and a launcher sends
/// SIGINT to a process and to its group.
#[test]
fn a_burst_of_signals_saves_a_checkpoint() {
    const INT: libc::c_int = libc::SIGINT;
    const TERM: libc::c_int = libc::SIGTERM;
    const HUP: libc::c_int = libc::SIGHUP;
    for burst in [&[HUP, HUP][..], &[TERM; 20], &[INT, INT], &[INT, TERM, HUP, INT, TERM, HUP], &[HUP, INT, HUP]] {
        // Only a fast burst counts: this process may have been descheduled in the middle of it.
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
        assert!((0..5).any(sent_at_once), "{burst:?}: could not be sent within a tenth of a second");
    }
}

/// Sends a signal, and another one after a person could have read the answer to the first.
fn twice(running: &Running, signals: [libc::c_int; 2]) {
    running.signal(signals[0]);
    until("the answer to the signal", || running.output().contains("a checkpoint written"));
    let answered = Instant::now();
    until("a pause", || answered.elapsed() > Duration::from_millis(250));
    running.signal(signals[1]);
}

#[test]
fn a_second_ctrl_c_exits_at_once() {
    let dir = slow();
    let dir = dir.path();
    let running = start(&mut train(dir, &LONG_STEPS), dir);
    twice(&running, [libc::SIGINT; 2]);
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.output);
    assert!(ended.output.contains("exited at once") && ended.output.contains("--resume out"), "{}", ended.output);
    assert_eq!(saved(dir, "out"), None, "it wrote a checkpoint");
}

#[test]
fn other_repeated_signals_still_save_a_checkpoint() {
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
        assert!(!running.output().contains("stopping"), "{}", running.output());
        running.signal(if signal == libc::SIGTERM { libc::SIGINT } else { libc::SIGTERM });
        assert_saved(dir, &running.end(), &format!("signal {signal}"));
    }
}

/// Starts the run with the `nohup` command itself.
#[test]
fn a_run_under_nohup_ignores_sighup() {
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
fn a_signal_before_training_exits_without_a_run_folder() {
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
    assert_eq!(ended.status.code(), Some(130), "{}", ended.output);
    assert!(ended.output.contains("stopped before training began") && !dir.join("out").exists(), "{}", ended.output);
}

/// SIGQUIT keeps its default action: no checkpoint is written, and the run resumes from the previous one.
#[test]
fn sigquit_ends_the_process_at_once() {
    let dir = workplace();
    let dir = dir.path();
    let mut command = train(dir, &["--set", "levels.0.train.steps=100000000"]);
    dispose(&mut command, libc::SIGQUIT, libc::SIG_DFL);
    limit(&mut command, libc::RLIMIT_CORE, 0);
    let running = start(&mut command, dir);
    until("a checkpoint", || saved(dir, "out").is_some());
    running.signal(libc::SIGQUIT);
    let ended = running.end();
    assert_eq!(ended.status.signal(), Some(libc::SIGQUIT), "{}", ended.output);
    finish(dir, "steps = 100000000", "levels.0.train.steps");
}

/// Resumes the run in `out` to a few steps past its checkpoint and asserts that its weights equal those of a run that
/// was never interrupted. `steps` is the setting of the long stage in `config.toml`, `key` its configuration key.
fn finish(dir: &Path, steps: &str, key: &str) {
    // Checkpoints count the steps of all stages. With `STAGES`, 40 steps come before the long stage.
    let before = if std::fs::read_to_string(dir.join("run.toml")).expect("text").contains("before") { 40 } else { 0 };
    let more = saved(dir, "out").unwrap_or(0).saturating_sub(before) + 5;
    let path = dir.join("out/config.toml");
    let text = std::fs::read_to_string(&path).expect("text");
    assert!(text.contains(steps), "{text}");
    std::fs::write(&path, text.replace(steps, &format!("steps = {more}"))).expect("written");
    end(&mut vcycle(dir, &["train", "--resume", "out", "--quiet"])).success("resumed");
    let set = format!("{key}={more}");
    end(&mut vcycle(dir, &["train", "run.toml", "--out", "whole", "--quiet", "--set", &set])).success("whole");
    assert!(weights(dir, "out") == weights(dir, "whole"), "the resumed run has different weights");
}

/// With no reader on stdout, stderr or both, a run still finishes, and still stops on a signal.
#[test]
fn closed_outputs_do_not_affect_a_run() {
    for (out, err) in [(true, false), (false, true), (true, true)] {
        let dir = workplace();
        let dir = dir.path();
        // A pipe without a reader: writing to it raises SIGPIPE, unless that is ignored.
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
        // SAFETY: the child has not been waited for, so its process id is still its own.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
        let mut status = None;
        until("an end", || {
            status = child.try_wait().expect("a child");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(130), "stdout closed: {out}, stderr closed: {err}");
    }
}

/// Opens a pseudo-terminal: the end that a person would type into, and the end that the run sees.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    // SAFETY: `openpty` writes the two descriptors; the other pointers may be null.
    let opened = unsafe {
        libc::openpty(&raw mut ours, &raw mut theirs, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut())
    };
    assert_eq!(opened, 0, "no terminal");
    // SAFETY: both were just opened, and nothing else owns them.
    let [ours, theirs] = [ours, theirs].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: the descriptor is open. The child must not hold its own terminal open.
    unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
    (ours, theirs)
}

/// Starts a run in a terminal of its own. Returns the run and the other end of the terminal.
fn in_a_terminal(dir: &Path, more: &[&str]) -> (Running, File) {
    let (ours, theirs) = terminal();
    let mut command = train(dir, more);
    let fd = theirs.as_raw_fd();
    // SAFETY: between fork and exec this calls `setsid`, `ioctl` and `dup2` alone, which are plain system calls.
    unsafe {
        command.pre_exec(move || match libc::setsid() >= 0 && libc::ioctl(fd, libc::TIOCSCTTY, 0) == 0 {
            // Standard output stays the file that the tests read.
            true if libc::dup2(fd, 0) == 0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let running = start(&mut command, dir);
    drop(theirs);
    (running, File::from(ours))
}

#[test]
fn a_closed_terminal_saves_a_checkpoint() {
    let dir = slow();
    let (running, ours) = in_a_terminal(dir.path(), &LONG_STEPS);
    drop(ours);
    // The terminal's shell sends another SIGHUP.
    running.signal(libc::SIGHUP);
    assert_saved(dir.path(), &running.end(), "a closed terminal");
}

#[test]
fn ctrl_c_typed_once_saves_and_typed_twice_exits() {
    for times in [1, 2] {
        let dir = slow();
        let (running, mut ours) = in_a_terminal(dir.path(), &LONG_STEPS);
        ours.write_all(b"\x03").expect("typed");
        until("the answer to the signal", || running.output().contains("a checkpoint written"));
        if times == 2 {
            let answered = Instant::now();
            until("a pause", || answered.elapsed() > Duration::from_millis(250));
            ours.write_all(b"\x03").expect("typed");
        }
        let ended = running.end();
        match times {
            1 => assert_saved(dir.path(), &ended, "typed once"),
            _ => assert!(ended.output.contains("exited at once"), "{}", ended.output),
        }
    }
}

/// Three stages; the last one is too long to finish.
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

/// Kills a run `times` times, at moments and in bursts chosen by `seed`, then compares its final weights with those of
/// a run that was never interrupted.
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
                // It was killed before the run folder was complete.
                let _ = std::fs::remove_dir_all(dir.join("out"));
                train(dir, &[])
            }
        };
        let running = Running::start(&mut command);
        let (begin, moment) = (Instant::now(), Duration::from_micros(random(200_000)));
        until("the time to kill it", || begin.elapsed() >= moment);
        for _ in 0..=random(3) {
            running.signal(signal);
        }
        let ended = running.end();
        let fine = match signal {
            libc::SIGKILL => ended.status.signal() == Some(signal),
            // Before the handlers are installed, the signal's default action ends the process.
            _ => ended.status.code() == Some(130) || ended.status.signal() == Some(signal),
        };
        assert!(fine, "signal {signal}: {:?}: {}", ended.status, ended.output);
    }
    // If every process was killed too early to create the run, start it now.
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
fn runs_killed_at_random_moments_resume_to_the_same_weights() {
    for (number, signal) in ENDINGS.into_iter().enumerate() {
        killed(signal, 6, 11 + number as u64);
    }
}

/// Takes minutes.
#[test]
#[ignore = "exhaustive: a hundred kills by each signal"]
fn runs_killed_a_hundred_times_by_each_signal_resume_to_the_same_weights() {
    for (number, signal) in ENDINGS.into_iter().enumerate() {
        let begin = Instant::now();
        killed(signal, 100, 1_000 + number as u64);
        println!("signal {signal}: 100 kills in {:.0} s", begin.elapsed().as_secs_f64());
    }
}
