//! Promise: a kernel that was changed after the build is compiled and run in place of the one that was built.

use std::path::Path;
use std::process::Command;
use std::{fs, io};

/// A copy of the kernels' sources.
fn sources() -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) -> io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let to = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                copy(&entry.path(), &to)?
            } else {
                fs::copy(entry.path(), to).map(|_| ())?
            }
        }
        Ok(())
    }
    let dir = tempfile::tempdir().expect("a folder");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels"), &dir.path().join("kernels")).expect("a copy");
    dir
}

/// Replaces a text that occurs in a file.
fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).expect("a source");
    assert!(text.contains(from), "{} has no {from:?}", file.display());
    fs::write(file, text.replacen(from, to, 1)).expect("written");
}

/// Runs `vcycle kernels check NAME ARGS` with these sources. Returns the exit code and what it printed.
fn check(root: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
    let done =
        command.args(["kernels", "check"]).args(args).env("VCYCLE_ROOT", root).output().expect("the binary runs");
    (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

#[test]
fn changed_kernels_are_compiled_and_run() {
    let root = sources();
    let file = |name: &str| root.path().join("kernels").join(name);
    let (code, printed) = check(root.path(), &["column_sum"]);
    assert!(code == Some(0) && !printed.contains("changed since"), "nothing has changed, but: {printed}");

    // A missing barrier is reported at its line in the new source; kernels of other files are those of the build.
    let barrier = "__syncthreads();";
    let text = fs::read_to_string(file("column_sum.cu")).expect("a source");
    let line = text[..text.find(barrier).expect("a barrier")].lines().count();
    edit(&file("column_sum.cu"), barrier, "");
    let (code, printed) = check(root.path(), &["column_sum", "--shadow"]);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("changed since the build: kernels/column_sum.cu\n"), "{printed}");
    let place = (line..line + 10).any(|line| printed.contains(&format!("kernels/column_sum.cu:{line}:")));
    assert!(place && printed.contains("uninitialised"), "{printed}");
    let (code, printed) = check(root.path(), &["fill", "--shadow"]);
    assert_eq!(code, Some(0), "{printed}");

    // What does not compile is an error that says where.
    edit(&file("column_sum.cu"), "#pragma unroll", "flaot");
    let (code, printed) = check(root.path(), &["column_sum"]);
    assert!(code == Some(2) && printed.contains("does not compile") && printed.contains("flaot"), "{printed}");
    assert!(!printed.contains("panicked"), "{printed}");
}

/// A header that the build has not seen counts, too: editing it after the first run gives another verdict.
#[test]
fn a_new_header_counts() {
    let root = sources();
    let file = |name: &str| root.path().join("kernels").join(name);
    edit(&file("fill.cu"), "to<T>(value);", "to<T>(value * kNewFactor);");
    edit(&file("fill.cu"), "#include \"common/", "#include \"common/new.cuh\"\n#include \"common/");
    fs::write(file("common/new.cuh"), "constexpr float kNewFactor = 1.0f;\n").expect("written");
    let (code, printed) = check(root.path(), &["fill/naive"]);
    assert_eq!(code, Some(0), "{printed}");
    fs::write(file("common/new.cuh"), "constexpr float kNewFactor = 2.0f;\n").expect("written");
    let (code, printed) = check(root.path(), &["fill/naive"]);
    assert_eq!(code, Some(2), "{printed}");
}

/// All files that include a changed header are compiled again.
#[test]
fn a_changed_header_counts() {
    let root = sources();
    edit(&root.path().join("kernels/common/reduce.cuh"), "#pragma once", "#pragma once\n// changed");
    let (code, printed) = check(root.path(), &["global_norm"]);
    assert_eq!(code, Some(0), "{printed}");
    let (_, files) = printed.split_once("changed since the build: ").expect("a note");
    assert!(files.contains("kernels/layernorm.cu") && !files.contains("kernels/fill.cu"), "{printed}");
}
