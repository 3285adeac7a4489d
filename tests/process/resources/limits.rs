//! Limits on open files and memory. For the limit on file sizes see `tests/process/run_folder.rs`, where it simulates a
//! full disk.

use crate::resources::support::{Ended, checkpoints, end, limit, saved, vcycle, weights, workplace};
use std::path::Path;

const WHOLE: [&str; 5] = ["train", "run.toml", "--out", "whole", "--quiet"];

/// Asserts that the error tells the truth about checkpoints, and that the resumed run ends with the same weights as an
/// unlimited one.
fn assert_resumes(dir: &Path, run: &str, ended: &Ended, case: &str) {
    let output = ended.error(case);
    let count = checkpoints(dir, run).len();
    if output.contains("has everything up to") {
        let step = saved(dir, run).unwrap_or_else(|| panic!("{case}: there is no checkpoint: {output}"));
        assert!(output.contains(&format!("up to step {step};")), "{case}: {output}");
    }
    assert!(count == 0 || !output.contains("no checkpoint was written yet"), "{case}: {output}");
    if !dir.join(run).join("config.toml").exists() {
        assert!(!output.contains("--resume"), "{case}: {output}");
        return;
    }
    end(&mut vcycle(dir, &["train", "--resume", run, "--quiet"])).success(case);
    assert!(weights(dir, run) == weights(dir, "whole"), "{case}: the resumed run has different weights");
}

#[test]
fn runs_out_of_file_descriptors_resume() {
    let dir = workplace();
    let dir = dir.path();
    end(&mut vcycle(dir, &WHOLE)).success("whole");
    let (mut without, mut finished) = (0, 0);
    // With fewer, the system cannot even load the shared libraries.
    for files in 4..=14 {
        let run = format!("run{files}");
        let mut command = vcycle(dir, &["train", "run.toml", "--out", &run, "--quiet"]);
        limit(&mut command, libc::RLIMIT_NOFILE, files);
        let ended = end(&mut command);
        if ended.status.success() {
            finished += 1;
            continue;
        }
        assert!(ended.output.contains("ulimit -n"), "{files} files: {}", ended.output);
        without += u32::from(ended.output.contains("no checkpoint was written yet"));
        assert_resumes(dir, &run, &ended, &format!("{files} files"));
    }
    assert!(
        without > 0 && finished > 0,
        "too few outcomes covered: {without} runs without a checkpoint, {finished} finished"
    );
}

/// Tries limits from the smallest at which the binary starts up to what a run needs.
#[test]
fn runs_out_of_memory_resume() {
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
    // Small steps at first, so that each part of the startup fails in some case.
    let sizes = (1..12).map(|n| n << 19).chain((3..22).map(|n| n << 21));
    for (number, more) in sizes.enumerate() {
        let run = format!("run{number}");
        let mut command = vcycle(dir, &["train", "run.toml", "--out", &run, "--quiet", "--threads", "2"]);
        limit(&mut command, libc::RLIMIT_AS, least + more);
        let ended = end(&mut command);
        let case = format!("{least} + {more} bytes");
        if ended.status.success() {
            assert!(weights(dir, &run) == weights(dir, "whole"), "{case}: different weights");
            continue;
        }
        refused += 1;
        assert_resumes(dir, &run, &ended, &case);
    }
    assert!(refused > 5, "only {refused} runs were refused");
}

/// A model that no machine has memory for is refused before anything is written.
#[test]
fn a_model_too_large_for_memory_is_refused_early() {
    let dir = workplace();
    let sizes = ["--set", "model.layers=20", "--set", "model.heads=64", "--set", "model.head_size=64"];
    let mut command = vcycle(dir.path(), &["train", "run.toml", "--out", "out", "--quiet"]);
    command.args(sizes);
    // Its parameters alone are 16 GB.
    limit(&mut command, libc::RLIMIT_AS, 4 << 30);
    let ended = end(&mut command);
    let output = ended.error("a large model");
    assert!(output.contains("out of memory") && output.contains("smaller"), "{output}");
    assert!(!dir.path().join("out").exists(), "{output}");
}
