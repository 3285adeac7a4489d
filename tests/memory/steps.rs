//! Promise: a run takes no more memory after thousands of steps than after ten.

use std::cell::Cell;
use vcycle::device::cpu::Cpu;
use vcycle::families;
use vcycle::run::folder::RunInfo;
use vcycle::run::{Tools, train};
use vcycle::runlog::progress::Progress;

/// Returns the anonymous resident memory of this process in bytes. File-backed pages are left out: those of the
/// executable become resident when their code first runs.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line RssAnon");
    line.trim().trim_end_matches("kB").trim().parse::<usize>().expect("a number") << 10
}

pub fn memory_stays_flat_for_3000_steps() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("text.txt");
    let text: String = (0..4000).map(|i| format!("the {} of {}\n", i % 97, i % 13)).collect();
    std::fs::write(&path, text).expect("written");
    let config = format!(
        r#"
        [model]
        family = "gpt"
        layers = 1
        heads = 2
        head_size = 4
        context = 16
        dropout = 0.1
        [data]
        text = "{}"
        tokenizer = "byte"
        [train]
        batch = 2
        eval_every = 5
        eval_batches = 1
        checkpoint_every = 500
        [[levels]]
        train = {{ steps = 3000, lr = 1e-3 }}
        "#,
        path.display()
    );
    let config = families::parse(&config, &[]).expect("a configuration");
    // One thread: when a second one first gets work, and allocates memory for it, is nondeterministic and may be after
    // the tenth step.
    let mut device = Cpu::new(1);
    let mut progress = Progress::new(true);
    let (steps, tenth, most) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let stop = || {
        steps.set(steps.get() + 1);
        if steps.get() == 10 {
            tenth.set(resident());
        } else if steps.get() > 10 && steps.get() % 10 == 0 {
            most.set(most.get().max(resident()));
        }
        false
    };
    let cache = dir.path().join("data");
    let tools = Tools { device: &mut device, cache: &cache, progress: &mut progress, stop: &stop };
    let about = RunInfo::this_process("cpu", 1, String::new());
    train(&config, &about, &dir.path().join("out"), tools).expect("a run");
    assert_eq!(steps.get(), 3000);
    // 600 evaluations are kept in memory, 56 bytes each, and the allocator takes memory from the system in larger
    // pieces. A leak of one row of activations per step would be 30 times this.
    let growth = most.get().saturating_sub(tenth.get());
    assert!(
        growth <= 256 << 10,
        "memory grew by {growth} bytes after the tenth step, when it was {} bytes",
        tenth.get()
    );
}
