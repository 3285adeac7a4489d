//! Promise: `vcycle train`, `vcycle compare` (text and JSON) and report.html all report the same, correct savings:
//! those at the first evaluation of level 1 whose loss is no higher than the baseline's lowest loss, for FLOPs and
//! seconds separately.

mod fixtures;
mod run;

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Runs a command that must succeed. Returns standard output.
fn ok(dir: &Path, args: &[&str]) -> String {
    let done =
        Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).current_dir(dir).output().expect("the binary runs");
    assert!(done.status.success(), "{args:?} failed: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("UTF-8")
}

/// Returns the output of `vcycle compare --json -`.
fn json_of(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&ok(dir, &[&["compare", "--json", "-"], args].concat())).expect("JSON")
}

/// Returns the first line that begins with `begins`, its words separated by single spaces.
fn row(text: &str, begins: &str) -> String {
    let line = text.lines().find(|line| line.trim_start().starts_with(begins));
    let line = line.unwrap_or_else(|| panic!("no line begins with {begins}: {text}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the cells after the first one of a row in a page's table.
fn cells(page: &str, first: &str) -> Vec<String> {
    let begin = format!("<tr><td>{first}</td>");
    let row = page.split_once(&begin).unwrap_or_else(|| panic!("no row {first}")).1;
    let row = row.split_once("</tr>").expect("an end").0;
    row.split("<td>").skip(1).map(|cell| cell.trim_end_matches("</td>").to_string()).collect()
}

/// One evaluation: stage, level, step, billions of FLOPs, seconds, loss.
type Point = (usize, usize, u64, u64, f64, f64);

fn write(path: &Path, points: &[Point]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let line = |&(stage, level, step, billions, seconds, loss): &Point| {
        let flops = billions * 1_000_000_000;
        json!({"event": "eval", "stage": stage, "level": level, "step": step, "flops": flops, "hardware_flops": flops,
            "seconds": seconds, "valid_loss": loss, "tokens": 100})
    };
    let text: String = points.iter().map(|point| format!("{}\n", line(point))).collect();
    std::fs::write(path, text).expect("written");
}
