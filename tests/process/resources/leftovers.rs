//! A data preparation removes what killed preparations left behind, but not what a running one is writing.

use crate::resources::support::{Running, end, until, vcycle};
use std::path::{Path, PathBuf};

/// Writes a text that takes a while to prepare and differs for each `seed`.
fn text(path: &Path, seed: u64) {
    let mut random = seed;
    let mut word = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:x}", random >> 44)
    };
    let text: String = (0..400_000).map(|i| word() + if i % 10 == 0 { "\n" } else { " " }).collect();
    std::fs::write(path, text).expect("written");
}

fn temporaries(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(|path| path.to_string_lossy().ends_with(".tmp")).collect()
}

fn config(dir: &Path, name: &str, seed: u64) {
    text(&dir.join(format!("{name}.txt")), seed);
    let config = crate::resources::support::CONFIG
        .replace("text.txt", &format!("{name}.txt"))
        .replace("\"byte\"", "\"bpe:400\"");
    std::fs::write(dir.join(format!("{name}.toml")), config.replace("steps = 40", "steps = 1")).expect("written");
}

fn train(dir: &Path, name: &str) -> Running {
    Running::start(&mut vcycle(dir, &["train", &format!("{name}.toml"), "--out", name]))
}

#[test]
fn leftovers_in_the_cache_are_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let (dir, cache) = (dir.path(), dir.path().join("runs/data"));
    for (name, seed) in [("killed", 1), ("living", 2), ("next", 3)] {
        config(dir, name, seed);
    }
    let killed = train(dir, "killed");
    until("a temporary folder", || !temporaries(&cache).is_empty());
    drop(killed);
    let left = temporaries(&cache);
    assert_eq!(left.len(), 1, "the killed run should have left one temporary folder");

    // Stop this run in the middle of its preparation, so that the next run finds its temporary folder.
    let living = train(dir, "living");
    until("its own temporary folder", || temporaries(&cache).iter().any(|path| !left.contains(path)));
    living.signal(libc::SIGSTOP);
    assert!(!left[0].exists(), "the next preparation should remove what the killed one left");
    let own = temporaries(&cache);
    assert_eq!(own.len(), 1);
    train(dir, "next").end().success("next");
    assert_eq!(temporaries(&cache), own, "what a running process writes should stay");
    living.signal(libc::SIGCONT);
    living.end().success("living");
    assert_eq!(temporaries(&cache), Vec::<PathBuf>::new());
    end(&mut vcycle(dir, &["train", "killed.toml", "--out", "again", "--quiet"])).success("again");
}

#[test]
fn leftovers_of_data_prepare_are_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    text(&dir.join("text.txt"), 4);
    let command = |out: &str| vcycle(dir, &["data", "prepare", "text.txt", "--tokenizer", "bpe:400", "--out", out]);
    let killed = Running::start(&mut command("first"));
    until("a temporary folder", || !temporaries(dir).is_empty());
    drop(killed);
    assert_eq!(temporaries(dir).len(), 1);
    // A pipe with the name of a temporary folder, which vcycle would never create: it must be neither opened nor
    // removed.
    let pipe = std::process::Command::new("mkfifo").arg(dir.join(".vcycle-1-1.tmp")).status().expect("mkfifo");
    assert!(pipe.success());
    end(&mut command("second")).success("second");
    let left = temporaries(dir);
    assert_eq!(left, [dir.join(".vcycle-1-1.tmp")]);
    assert!(dir.join("second/data.json").exists() && !dir.join("first").exists());
}
