//! Promise: what a run saved is told alike, and rightly, by `vcycle train`, `vcycle compare` in text and JSON, and report.html: from the
//! first evaluation of level 1 whose loss is no higher than the baseline's lowest, in FLOPs and in seconds by themselves.

mod fixtures;
mod run;

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// What a command that succeeds prints.
fn ok(dir: &Path, args: &[&str]) -> String {
    let done =
        Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).current_dir(dir).output().expect("the binary runs");
    assert!(done.status.success(), "{args:?} failed: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("UTF-8")
}

fn json_of(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&ok(dir, &[&["compare", "--json", "-"], args].concat())).expect("JSON")
}

/// A line of a table, its cells parted by one space.
fn row(text: &str, begins: &str) -> String {
    let line = text.lines().find(|line| line.trim_start().starts_with(begins));
    let line = line.unwrap_or_else(|| panic!("{begins} begins no line of {text}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The rows of a page's table, as lists of cells.
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
