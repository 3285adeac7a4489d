//! Hand-written runs, in which seconds are not proportional to FLOPs.

use super::{Point, cells, json_of, ok, row, write};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;
use vcycle::report::run::BranchLog;
use vcycle::report::savings::Savings;

/// Best at step 100, before its end: 4.0 after 1000e9 FLOPs and 50 s.
const SCRATCH: [Point; 4] =
    [(1, 1, 0, 0, 0.0, 7.0), (1, 1, 50, 500, 40.0, 5.0), (1, 1, 100, 1000, 50.0, 4.0), (1, 1, 120, 1200, 90.0, 4.1)];

/// Level 2 is far below 4.0 at step 40, which does not count. Level 1 reaches exactly 4.0 at step 75, after 610e9 FLOPs
/// and 45 s, which saves 39 % and 10 %. It is best at step 80 and worse at its end.
const CYCLE: [Point; 8] = [
    (1, 1, 0, 0, 0.0, 7.0),
    (1, 1, 10, 100, 2.0, 6.5),
    (2, 2, 10, 110, 3.0, 6.6),
    (2, 2, 40, 250, 9.0, 3.0),
    (3, 1, 40, 260, 9.5, 4.6),
    (3, 1, 75, 610, 45.0, 4.0),
    (3, 1, 80, 700, 47.5, 3.8),
    (3, 1, 90, 800, 49.0, 3.9),
];

/// Passes 4.0 at step 60, after 900e9 FLOPs (10 % less) but 65 s (30 % more).
const SLOW: [Point; 3] = [(1, 1, 0, 0, 0.0, 7.0), (1, 1, 30, 450, 30.0, 4.0001), (1, 1, 60, 900, 65.0, 3.9)];

/// Comes within 0.01 of 4.0 and ends further above it.
const NEVER: [Point; 3] = [(1, 1, 0, 0, 0.0, 7.0), (1, 1, 60, 400, 20.0, 4.01), (1, 1, 90, 600, 30.0, 4.0123)];

fn run(vcycle: &[Point], scratch: &[Point]) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    write(&dir.path().join("run/vcycle/metrics.jsonl"), vcycle);
    write(&dir.path().join("run/scratch/metrics.jsonl"), scratch);
    dir
}

fn page(dir: &Path) -> String {
    ok(dir, &["report", "run"]);
    std::fs::read_to_string(dir.join("run/report.html")).expect("a page")
}

/// Returns what `vcycle train` prints about the savings of a run.
fn printed(dir: &Path) -> Option<String> {
    let points = |name: &str| {
        BranchLog::read(&dir.join("run").join(name).join("metrics.jsonl"), name).expect("metrics").points()
    };
    Savings::of(&points("vcycle"), &points("scratch")).map(|savings| savings.to_string())
}

#[test]
fn an_equal_loss_counts_and_seconds_are_saved_independently_of_flops() {
    let dir = run(&CYCLE, &SCRATCH);
    let text = printed(dir.path()).expect("savings");
    assert_eq!(row(&text, "baseline (scratch) at"), "baseline (scratch) at its best 4.0000 1.000e12 50.0");
    assert_eq!(row(&text, "V-cycle on"), "V-cycle on reaching the baseline's best loss 4.0000 6.100e11 45.0");
    assert_eq!(row(&text, "V-cycle at"), "V-cycle at its best 3.8000 7.000e11 47.5");
    assert!(text.contains("saved: 39.0 % of the FLOPs and 10.0 % of the seconds"), "{text}");

    let text = ok(dir.path(), &["compare", "run"]);
    assert_eq!(row(&text, "run/vcycle"), "run/vcycle 3.8000 80 700e9 47.5 3.9000 90 800e9 49.0");
    assert_eq!(row(&text, "run/scratch"), "run/scratch 4.0000 100 1.00e12 50.0 4.1000 120 1.20e12 90.0");
    let (_, against) = text
        .split_once("reaching the best loss of run/scratch: 4.0000, after 1.00e12 FLOPs and 50.0 s")
        .expect("a baseline");
    assert_eq!(row(against, "run/vcycle"), "run/vcycle 75 610e9 39.0 % 45.0 10.0 %");

    let json = json_of(dir.path(), &["run"]);
    let mark = |step: u64, billions: u64, seconds: f64, loss: f64| json!({"step": step, "flops": billions * 1_000_000_000, "seconds": seconds, "loss": loss});
    let pair = &json["pairs"][0];
    assert_eq!(
        (&pair["run"], &pair["baseline"], &pair["target"]),
        (&json!("run/vcycle"), &json!("run/scratch"), &json!(4.0))
    );
    assert_eq!(pair["reached"], mark(75, 610, 45.0, 4.0));
    // 1 - 610 / 1000 and 1 - 45 / 50; 3.8 - 4.0 and 3.9 - 4.0.
    for (key, wanted) in [("flops_saved", 0.39), ("seconds_saved", 0.1), ("best_above", -0.2), ("final_above", -0.1)] {
        let found = pair[key].as_f64().expect("a number");
        assert!((found - wanted).abs() < 1e-12, "{key}: {found}, not {wanted}");
    }
    assert_eq!(
        (&json["runs"][0]["best"], &json["runs"][0]["final"]),
        (&mark(80, 700, 47.5, 3.8), &mark(90, 800, 49.0, 3.9))
    );
    assert_eq!(json["runs"][1]["best"], mark(100, 1000, 50.0, 4.0));

    let page = page(dir.path());
    assert!(page.contains("(held-out loss 4.0000) with 39.0 % fewer FLOPs and in 10.0 % less time."), "{page}");
    assert_eq!(cells(&page, "baseline (scratch) at its best"), ["4.0000", "1.00e12", "", "50.0", ""]);
    assert_eq!(
        cells(&page, "V-cycle on reaching the baseline&#39;s best loss"),
        ["4.0000", "610e9", "39.0 %", "45.0", "10.0 %"]
    );
    assert_eq!(cells(&page, "V-cycle at its best"), ["3.8000", "700e9", "30.0 %", "47.5", "5.0 %"]);
}

#[test]
fn fewer_flops_but_more_time() {
    let dir = run(&SLOW, &SCRATCH);
    let text = printed(dir.path()).expect("savings");
    assert!(text.contains("saved: 10.0 % of the FLOPs and -30.0 % of the seconds"), "{text}");
    let text = ok(dir.path(), &["compare", "run"]);
    let (_, against) = text.split_once("reaching the best loss of").expect("a baseline");
    assert_eq!(row(against, "run/vcycle"), "run/vcycle 60 900e9 10.0 % 65.0 -30.0 %");
    let page = page(dir.path());
    assert!(page.contains("with 10.0 % fewer FLOPs and in 30.0 % more time."), "{page}");
    assert_eq!(
        cells(&page, "V-cycle on reaching the baseline&#39;s best loss"),
        ["3.9000", "900e9", "10.0 %", "65.0", "-30.0 %"]
    );
}

#[test]
fn a_target_that_is_never_reached() {
    let dir = run(&NEVER, &SCRATCH);
    let text = printed(dir.path()).expect("both were evaluated");
    assert!(!text.contains("on reaching"), "{text}");
    // The best loss, 4.01, minus 4.0.
    assert!(text.contains("saved: nothing") && text.contains("0.0100 above the baseline's best loss"), "{text}");
    let text = ok(dir.path(), &["compare", "run"]);
    assert!(text.contains("never reaches it: ends 0.0123 above, 0.0100 above at its best"), "{text}");
    let pair = &json_of(dir.path(), &["run"])["pairs"][0];
    assert_eq!(["reached", "flops_saved", "seconds_saved"].map(|key| &pair[key]), [&Value::Null; 3]);
    let page = page(dir.path());
    assert!(
        page.contains("Nothing is saved: the V-cycle stays 0.0100 above the best loss of the baseline, 4.0000."),
        "{page}"
    );
    assert!(!page.contains("<td>V-cycle on reaching the baseline&#39;s best loss</td>"));
    assert_eq!(cells(&page, "V-cycle at its best"), ["4.0100", "400e9", "20.0"]);
    // A run whose last evaluation is its best has only one figure.
    let dir = run(&NEVER[..2], &SCRATCH);
    let text = ok(dir.path(), &["compare", "run"]);
    assert!(text.contains("never reaches it: ends 0.0100 above\n"), "{text}");
}

/// A baseline whose best loss is that of its initial weights has learnt nothing, so that no savings can be computed.
#[test]
fn a_baseline_that_never_improved() {
    let worse: [Point; 3] = [(1, 1, 0, 0, 0.0, 3.5), (1, 1, 50, 500, 40.0, 5.0), (1, 1, 100, 900, 41.0, 3.5)];
    let dir = run(&CYCLE, &worse);
    assert_eq!(printed(dir.path()), None);
    let text = ok(dir.path(), &["compare", "run"]);
    assert!(
        text.contains("run/scratch never improved on its initial weights, so nothing is compared with it"),
        "{text}"
    );
    assert_eq!(json_of(dir.path(), &["run"])["pairs"], json!([]));
    let page = page(dir.path());
    assert!(!page.contains("Savings") && !page.contains("saved"), "{page}");
    assert!(page.contains("run/vcycle: held-out loss 3.9000 after 800e9 FLOPs and 49.0 s"), "{page}");
}

/// Of equal losses the first counts as the best, as it took the least compute.
#[test]
fn a_repeated_best_loss_counts_from_its_first_occurrence() {
    let again: [Point; 4] =
        [(1, 1, 0, 0, 0.0, 7.0), (1, 1, 40, 400, 50.0, 4.0), (1, 1, 60, 600, 55.0, 4.5), (1, 1, 80, 800, 60.0, 4.0)];
    let dir = run(&CYCLE, &again);
    let json = json_of(dir.path(), &["run"]);
    assert_eq!(json["runs"][1]["best"]["step"], 40);
    // 610e9 compared with 400e9 FLOPs, and 45 s with 50 s.
    let text = printed(dir.path()).expect("savings");
    assert!(text.contains("saved: -52.5 % of the FLOPs and 10.0 % of the seconds"), "{text}");
    assert!(page(dir.path()).contains("with 52.5 % more FLOPs and in 10.0 % less time."));
}

#[test]
fn several_baselines_each_with_its_own_target() {
    let dir = run(&CYCLE, &SCRATCH);
    let at = dir.path();
    write(&at.join("slow.jsonl"), &SLOW);
    write(&at.join("never.jsonl"), &NEVER);
    let args = ["run", "slow.jsonl", "never.jsonl", "--baseline", "run/scratch", "--baseline", "slow"];
    let json = json_of(at, &args);
    assert_eq!(json["baselines"], json!(["run/scratch", "slow"]));
    let reached = |pair: &Value| (pair["run"].clone(), pair["baseline"].clone(), pair["reached"]["step"].clone());
    let pairs: Vec<_> = json["pairs"].as_array().expect("a list").iter().map(reached).collect();
    let pair = |run: &str, baseline: &str, step: Value| (json!(run), json!(baseline), step);
    assert_eq!(
        pairs,
        [
            pair("run/vcycle", "run/scratch", json!(75)),
            pair("slow", "run/scratch", json!(60)),
            pair("never", "run/scratch", Value::Null),
            // Against a loss of 3.9: the V-cycle reaches it at step 80 with 3.8; the other two never do.
            pair("run/vcycle", "slow", json!(80)),
            pair("run/scratch", "slow", Value::Null),
            pair("never", "slow", Value::Null),
        ]
    );
    // 700e9 compared with 900e9 FLOPs, and 47.5 s with 65 s: 22.2 % and 26.9 %.
    let text = ok(at, &[&["compare"], &args[..]].concat());
    let (first, second) =
        text.split_once("reaching the best loss of slow: 3.9000, after 900e9 FLOPs and 65.0 s").expect("a second");
    assert_eq!(row(second, "run/vcycle"), "run/vcycle 80 700e9 22.2 % 47.5 26.9 %");
    assert_eq!(row(second, "run/scratch"), "run/scratch never reaches it: ends 0.2000 above, 0.1000 above at its best");
    let (_, first) = first.split_once("reaching the best loss of run/scratch").expect("a first");
    assert_eq!(row(first, "slow"), "slow 60 900e9 10.0 % 65.0 -30.0 %");
}

/// In a run that was stopped in level 2, the evaluations of level 2 are neither best nor final.
#[test]
fn a_run_that_was_stopped_in_level_2() {
    let dir = run(&CYCLE[..4], &SCRATCH);
    let json = json_of(dir.path(), &["run"]);
    assert_eq!((&json["runs"][0]["best"]["loss"], &json["runs"][0]["final"]["loss"]), (&json!(6.5), &json!(6.5)));
    // FLOPs and seconds of the run include those of level 2.
    assert_eq!((&json["runs"][0]["flops"], &json["runs"][0]["seconds"]), (&json!(250_000_000_000u64), &json!(9.0)));
    assert_eq!(json["pairs"][0]["reached"], Value::Null);
    assert!(printed(dir.path()).expect("both were evaluated").contains("2.5000 above"));
    assert!(page(dir.path()).contains("stays 2.5000 above"));
}
