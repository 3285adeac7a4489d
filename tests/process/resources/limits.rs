//! Limits on handles, memory and time. That on the size of files stands for a full disk in `tests/process/run_folder.rs`.

use crate::resources::support::{Ended, checkpoints, end, limit, saved, vcycle, weights, workplace};
use std::path::Path;

const WHOLE: [&str; 5] = ["train", "run.toml", "--out", "whole", "--quiet"];

/// What a message says of checkpoints is so, and the run goes on to the bits of one that was never in need.
fn goes_on(dir: &Path, run: &str, ended: &Ended, case: &str) {
    let said = ended.sentence(case);
    let count = checkpoints(dir, run).len();
    if said.contains("has everything up to") {
        let step = saved(dir, run).unwrap_or_else(|| panic!("{case}: there is no checkpoint: {said}"));
        assert!(said.contains(&format!("up to step {step};")), "{case}: {said}");
    }
    assert!(count == 0 || !said.contains("no checkpoint was written yet"), "{case}: {said}");
    if !dir.join(run).join("config.toml").exists() {
        assert!(!said.contains("--resume"), "{case}: {said}");
        return;
    }
    end(&mut vcycle(dir, &["train", "--resume", run, "--quiet"])).success(case);
    assert!(weights(dir, run) == weights(dir, "whole"), "{case}: the resumed run ended elsewhere");
}

#[test]
fn out_of_handles() {
    let dir = workplace();
    let dir = dir.path();
    end(&mut vcycle(dir, &WHOLE)).success("whole");
    let (mut without, mut finished) = (0, 0);
    // With fewer not even the system's own libraries are found.
    for handles in 4..=14 {
        let run = format!("run{handles}");
        let mut command = vcycle(dir, &["train", "run.toml", "--out", &run, "--quiet"]);
        limit(&mut command, libc::RLIMIT_NOFILE, handles);
        let ended = end(&mut command);
        if ended.status.success() {
            finished += 1;
            continue;
        }
        assert!(ended.said.contains("ulimit -n"), "{handles}: {}", ended.said);
        without += u32::from(ended.said.contains("no checkpoint was written yet"));
        goes_on(dir, &run, &ended, &format!("{handles} handles"));
    }
    assert!(without > 0 && finished > 0, "{without} without a checkpoint, {finished} finished: the test shows little");
}

/// From the least that the binary starts with to what a run takes.
#[test]
fn out_of_memory() {
    let dir = workplace();
    let dir = dir.path();
    end(&mut vcycle(dir, &WHOLE)).success("whole");
    let fits = |args: &[&str], bytes: u64| {
        let mut command = vcycle(dir, args);
        limit(&mut command, libc::RLIMIT_AS, bytes);
        end(&mut command).status.success()
    };
    let (mut low, mut high) = (0, 1 << 30);
    assert!(fits(&["--version"], high), "a gigabyte is enough to start");
    while high - low > 1 << 18 {
        let middle = low + (high - low) / 2;
        if fits(&["--version"], middle) { high = middle } else { low = middle }
    }
    let (least, mut refused) = (high, 0);
    // Small steps at first, where every single part of the start may fail.
    let sizes = (1..12).map(|n| n << 19).chain((3..22).map(|n| n << 21));
    for (number, more) in sizes.enumerate() {
        let run = format!("run{number}");
        let mut command = vcycle(dir, &["train", "run.toml", "--out", &run, "--quiet", "--threads", "2"]);
        limit(&mut command, libc::RLIMIT_AS, least + more);
        let ended = end(&mut command);
        let case = format!("{least} and {more} bytes");
        if ended.status.success() {
            assert!(weights(dir, &run) == weights(dir, "whole"), "{case}: other weights");
            continue;
        }
        refused += 1;
        goes_on(dir, &run, &ended, &case);
    }
    assert!(refused > 5, "only {refused} were refused: the test shows little");
}

/// A model that no machine has memory for is refused before anything is written.
#[test]
fn memory_that_is_not_there_is_foreseen() {
    let dir = workplace();
    let sizes = ["--set", "model.layers=20", "--set", "model.heads=64", "--set", "model.head_size=64"];
    let mut command = vcycle(dir.path(), &["train", "run.toml", "--out", "out", "--quiet"]);
    command.args(sizes);
    // Its parameters alone are 16 GB.
    limit(&mut command, libc::RLIMIT_AS, 4 << 30);
    let ended = end(&mut command);
    let said = ended.sentence("a large model");
    assert!(said.contains("out of memory") && said.contains("smaller"), "{said}");
    assert!(!dir.path().join("out").exists(), "{said}");
}
