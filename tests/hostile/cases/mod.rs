//! Promise: inputs that this program or similar ones once misread are read as intended, or refused with a reason. Small
//! input files, with the sources of their expected values, are in folders beside this file; the tests make the others.

mod checkpoints;
mod fetched;
mod images;
mod labels;
mod names;
mod pictures;
mod said;
mod settings;
mod tables;
mod texts;
mod token_files;
mod tokens;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// A temporary copy of a folder beside this file.
fn place(name: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/cases").join(name), dir.path());
    dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).expect("a copy") }
    }
}

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(&path, bytes).expect("written");
    path
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

/// Exit code, standard output and standard error of a command in `dir`.
fn vcycle(dir: &Path, args: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
    let done = command.args(args.split(' ')).current_dir(dir).output().expect("the binary runs");
    let [out, notes] = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
    (done.status.code(), out, notes)
}

/// Standard output and standard error of a command that must succeed.
#[track_caller]
fn ok(dir: &Path, args: &str) -> (String, String) {
    let (code, out, notes) = vcycle(dir, args);
    assert_eq!(code, Some(0), "{args}: {notes}");
    (out, notes)
}

/// Asserts that a command fails with exit code 2 and a one-line error that contains all of `parts`.
#[track_caller]
fn refused(dir: &Path, args: &str, parts: &[&str]) {
    let (code, _, notes) = vcycle(dir, args);
    assert_eq!(code, Some(2), "{args}: {notes}");
    let error = notes.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{notes}"));
    assert!(notes.ends_with(&format!("{error}\n")), "the error is longer than a line: {notes}");
    assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} are not in: {error}");
}

/// The number after `name` in the output of a command.
#[track_caller]
fn printed(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}
