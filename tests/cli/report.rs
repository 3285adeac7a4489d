//! Promise: comparisons of runs agree exactly with their metrics, in text, JSON, pictures and on the page; damage is
//! reported by line.

use super::xml;

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;
use xml::assert_well_formed;

fn vcycle(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).current_dir(dir).output().expect("the binary runs")
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let out = vcycle(dir, args);
    assert!(out.status.success(), "{args:?} failed: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// Runs a command that must fail with exit code 2. Returns the message.
fn fails(dir: &Path, args: &[&str]) -> String {
    let out = vcycle(dir, args);
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {error}");
    error
}

fn position(event: &str, stage: usize, level: usize, step: u64) -> Value {
    let flops = step * 1_000_000_000;
    // Not proportional to FLOPs: the first 60 steps take a quarter of a second each, later ones a second.
    let seconds = step.min(60) as f64 / 4.0 + step.saturating_sub(60) as f64;
    json!({"event": event, "stage": stage, "level": level, "step": step, "flops": flops, "hardware_flops": flops,
        "seconds": seconds})
}

fn with(mut event: Value, more: Value) -> Value {
    let (Value::Object(to), Value::Object(from)) = (&mut event, more) else { panic!("expected two objects") };
    to.extend(from);
    event
}

/// Returns evaluations given as (stage, level, step, loss).
fn evaluations(points: &[(usize, usize, u64, f64)]) -> Vec<Value> {
    let eval = |&(stage, level, step, loss): &(usize, usize, u64, f64)| {
        with(position("eval", stage, level, step), json!({"valid_loss": loss, "tokens": 100}))
    };
    points.iter().map(eval).collect()
}

fn write(path: &Path, lines: &[Value]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(path, text).expect("written");
}

/// Writes a run whose V-cycle reaches the best loss of its scratch run (4.0 at step 100) at step 75, and a trial that
/// never does.
fn runs() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let scratch = [(1, 1, 0, 7.0), (1, 1, 50, 5.0), (1, 1, 100, 4.0), (1, 1, 120, 4.1)];
    // Level 2 is better than the scratch run's best, which does not count.
    let cycle = [
        (1, 1, 0, 7.0),
        (1, 1, 10, 6.5),
        (2, 2, 10, 6.6),
        (2, 2, 40, 3.0),
        (3, 1, 40, 4.6),
        (3, 1, 75, 3.9),
        (3, 1, 80, 3.8),
    ];
    let trial = [(1, 1, 0, 7.0), (1, 1, 60, 4.01), (1, 1, 90, 4.0123)];
    write(&dir.path().join("run/scratch/metrics.jsonl"), &evaluations(&scratch));
    write(&dir.path().join("run/vcycle/metrics.jsonl"), &evaluations(&cycle));
    write(&dir.path().join("trial.jsonl"), &evaluations(&trial));
    dir
}

#[test]
fn savings_are_exact_and_misses_are_reported() {
    let dir = runs();
    let text = ok(dir.path(), &["compare", "run", "trial.jsonl"]);
    let row = |name: &str, text: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(name)).expect("a row");
        line.split_whitespace().map(str::to_string).collect()
    };
    assert_eq!(row("run/vcycle", &text).join(" "), "run/vcycle 3.8000 80 80.0e9 35.0 3.8000 80 80.0e9 35.0", "{text}");
    assert!(row("run/scratch", &text).join(" ").ends_with("4.0000 100 100e9 55.0 4.1000 120 120e9 75.0"), "{text}");
    let (_, against) = text
        .split_once("reaching the best loss of run/scratch: 4.0000, after 100e9 FLOPs and 55.0 s")
        .expect("a baseline");
    assert_eq!(row("run/vcycle", against).join(" "), "run/vcycle 75 75.0e9 25.0 % 30.0 45.5 %");
    assert!(against.contains("never reaches it: ends 0.0123 above, 0.0100 above at its best"), "{text}");

    ok(dir.path(), &["compare", "run", "trial.jsonl", "--json", "out.json"]);
    let read = std::fs::read_to_string(dir.path().join("out.json")).expect("written");
    let json: Value = serde_json::from_str(&read).expect("JSON");
    assert_eq!(read, ok(dir.path(), &["compare", "run", "trial.jsonl", "--json", "-"]));
    assert_eq!(json["baselines"], json!(["run/scratch"]));
    let pair = &json["pairs"][0];
    assert_eq!(pair["reached"], json!({"step": 75, "flops": 75_000_000_000u64, "seconds": 30.0, "loss": 3.9}));
    assert_eq!((pair["flops_saved"].as_f64(), pair["seconds_saved"].as_f64()), (Some(0.25), Some(1.0 - 30.0 / 55.0)));
    assert_eq!(json["pairs"][1]["reached"], Value::Null);
    assert_eq!(json["runs"][0]["best"]["loss"], 3.8);
}

#[test]
fn baselines_by_name_and_by_path() {
    let dir = runs();
    let at = dir.path();
    let baselines = |args: &[&str]| -> Value {
        let out = ok(at, &[&["compare", "--json", "-"], args].concat());
        serde_json::from_str::<Value>(&out).expect("JSON")["baselines"].clone()
    };
    assert_eq!(baselines(&["run", "trial.jsonl", "--baseline", "trial"]), json!(["trial"]));
    assert_eq!(
        baselines(&["trial.jsonl", "--baseline", "run"]),
        json!(["run/scratch"]),
        "the baseline of a run is its scratch branch"
    );
    assert_eq!(
        baselines(&["run/vcycle", "run", "--baseline", "run/vcycle", "--baseline", "trial.jsonl"]),
        json!(["run/vcycle", "trial"])
    );
    assert_eq!(
        baselines(&["trial.jsonl", "run/vcycle/metrics.jsonl"]),
        json!(["trial"]),
        "without a scratch run, the first run"
    );
    let error = fails(at, &["compare", "run", "--baseline", "nobody"]);
    assert!(error.contains("nobody") && error.contains("run/vcycle, run/scratch"), "{error}");
    // Two runs with the same name are distinguished by their paths; a run given twice counts once.
    write(&at.join("other/run/scratch/metrics.jsonl"), &evaluations(&[(1, 1, 0, 7.0), (1, 1, 10, 4.0)]));
    assert_eq!(baselines(&["run", "run/scratch", "other/run"]), json!(["run/scratch", "other/run/scratch"]));
}

#[test]
fn damage_is_reported_by_line_but_a_truncated_last_line_is_only_noted() {
    let dir = runs();
    let at = dir.path();
    let file = at.join("run/vcycle/metrics.jsonl");
    let whole = std::fs::read_to_string(&file).expect("metrics");
    std::fs::write(&file, &whole[..whole.len() - 9]).expect("written");
    let text = ok(at, &["compare", "run"]);
    assert!(text.contains("note: run/vcycle/metrics.jsonl: line 7, the last, is cut off"), "{text}");
    assert!(text.contains("3.9000"), "{text}");
    for (number, damage) in [(3, "{\"event\":\"eval\",\"stage\":2}"), (2, "not json"), (5, "\u{1}\u{0}"), (4, "[1,2]")]
    {
        let mut lines: Vec<&str> = whole.lines().collect();
        lines[number - 1] = damage;
        std::fs::write(&file, lines.join("\n")).expect("written");
        for command in ["compare", "report"] {
            let error = fails(at, &[command, "run"]);
            assert!(error.contains(&format!("run/vcycle/metrics.jsonl, line {number}: ")), "{error}");
        }
    }
    assert!(!at.join("run/report.html").exists());
    std::fs::write(&file, "").expect("written");
    assert!(fails(at, &["compare", "run"]).contains("holds no line of metrics"));
    write(&file, &evaluations(&[(2, 2, 10, 4.0)]));
    assert!(fails(at, &["compare", "run"]).contains("holds no evaluation of level 1"));
    write(&file, &[with(evaluations(&[(1, 1, 1, 4.0)])[0].clone(), json!({"seconds": -1.0})), json!({"event": "new"})]);
    assert!(fails(at, &["compare", "run"]).contains("line 1: -1 seconds"));
    std::fs::create_dir(at.join("empty")).expect("made");
    assert!(fails(at, &["compare", "empty"]).contains("empty holds no metrics"));
    assert!(fails(at, &["report", "missing"]).contains("missing is not a folder"));
    assert!(fails(at, &["report", "run/scratch"]).contains("give the folder above it"));
}

#[test]
fn the_picture_is_well_formed_and_labelled() {
    let dir = runs();
    let named = "a<b>&\"c'\u{7}";
    std::fs::rename(dir.path().join("trial.jsonl"), dir.path().join(format!("{named}.jsonl"))).expect("renamed");
    ok(dir.path(), &["compare", "run", &format!("{named}.jsonl"), "--plot", "pictures/out.svg"]);
    let svg = std::fs::read_to_string(dir.path().join("pictures/out.svg")).expect("written");
    assert_well_formed(&svg);
    for label in [
        "FLOPs",
        "seconds of training",
        "held-out loss (nats per token)",
        "run/vcycle: best 3.8000",
        "run/scratch: best 4.0000",
        "a&lt;b&gt;&amp;&quot;c&apos;\u{FFFD}: best 4.0100",
        "level 2 and below",
        "best loss of a baseline",
        "100e9",
        "role=\"img\"",
    ] {
        assert!(svg.contains(label), "{label} is missing");
    }
}

#[test]
fn any_curve_can_be_drawn() {
    let dir = tempfile::tempdir().expect("a folder");
    let huge =
        |loss: f64| with(evaluations(&[(1, 1, 1, loss)])[0].clone(), json!({"flops": u64::MAX, "seconds": 1e11}));
    let curves: [Vec<Value>; 6] = [
        evaluations(&[(1, 1, 0, 5.0)]),
        evaluations(&[(1, 1, 0, 5.0), (1, 1, 1, 5.0)]),
        evaluations(&[(1, 1, 0, 1e29), (1, 1, 1, -1e29)]),
        vec![huge(0.0), huge(1e-300)],
        [evaluations(&[(1, 1, 0, 2.0)]), vec![with(position("eval", 1, 1, 5), json!({"valid_loss": null}))]].concat(),
        evaluations(&[(1, 1, 0, 0.0), (9, 9, 1, 0.0), (usize::MAX, 1, u64::from(u32::MAX), 0.0)]),
    ];
    for (number, curve) in curves.iter().enumerate() {
        write(&dir.path().join(format!("{number}/vcycle/metrics.jsonl")), curve);
        let name = number.to_string();
        ok(dir.path(), &["compare", &name, "--plot", "out.svg"]);
        assert_well_formed(&std::fs::read_to_string(dir.path().join("out.svg")).expect("written"));
        ok(dir.path(), &["report", &name]);
    }
    let all: Vec<String> = (0..curves.len()).map(|n| n.to_string()).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let text = ok(dir.path(), &[&["compare", "--plot", "all.svg"], &all[..]].concat());
    assert!(text.contains("0/vcycle never improved on its initial weights"), "{text}");
}

/// Returns the lines of a whole branch, as `vcycle train` writes them, and one from a later version.
fn whole_branch(name: &str) -> Vec<Value> {
    let begin = json!({"name": "one", "steps": 900, "parameters": 940800, "layers": 4, "width": 128});
    let mut lines = vec![with(position("stage", 1, 1, 0), begin)];
    lines.extend(evaluations(&[(1, 1, 0, 7.0)]));
    lines.extend((1..=900).map(|step| {
        let norm = if step == 7 { Value::Null } else { json!(1.5) };
        with(position("step", 1, 1, step), json!({"lr": 1e-3, "loss": 7.0 - step as f64 / 300.0, "grad_norm": norm}))
    }));
    lines.extend(evaluations(&[(1, 1, 900, 4.0)]));
    let operations = json!([{"name": "linear", "calls": 10, "seconds": 2.0, "flops": 50_000_000_000u64},
        {"name": "<b>&new", "calls": 1, "seconds": 0.5, "flops": 0}]);
    let sample = json!({"prompt": "<script>", "text": "<script> alert('&amp;')</script>\u{0}"});
    let summary = json!({"resident_bytes": 1_048_576_000u64, "tokens_per_second": 12345.6, "waited_seconds": 0.25,
        "operations": operations, "sample": if name == "vcycle" { sample } else { Value::Null }});
    lines.push(with(position("summary", 1, 1, 900), summary));
    lines.push(json!({"event": "from a later version", "anything": []}));
    lines
}

#[test]
fn the_page_is_complete_escaped_and_self_contained() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("a<run>");
    for branch in ["vcycle", "scratch"] {
        write(&run.join(branch).join("metrics.jsonl"), &whole_branch(branch));
    }
    let about = json!({"format": 1, "version": "0.1.0", "revision": "abc123", "command": ["vcycle", "train", "a b.toml"],
        "device": "cpu", "threads": 2, "machine": "<Machine> & Co", "vector_unit": "AVX2", "started": "2026-01-02T03:04:05Z"});
    std::fs::write(run.join("run.json"), about.to_string()).expect("written");
    std::fs::write(run.join("config.toml"), "tokenizer = \"</pre><img>\"\n").expect("written");
    let printed = ok(dir.path(), &["report", "a<run>"]);
    assert_eq!(printed.trim(), "a<run>/report.html");
    let page = std::fs::read_to_string(run.join("report.html")).expect("a page");
    for part in [
        "<h1>a&lt;run&gt;</h1>",
        "reaches the best loss of the baseline (held-out loss 4.0000) with 0.0 % fewer FLOPs and in 0.0 % less time.",
        "Training loss, means of 3 steps",
        "<td>4 x 128</td><td>940800</td><td>initialised</td><td>900</td>",
        "<td>12346</td><td>1.1</td><td>1000.0</td>",
        "<td>linear</td><td>10</td><td>2.000</td><td>80.0 %</td>",
        "<td>50.0e9</td><td>25.0</td>",
        "<td>&lt;b&gt;&amp;new</td>",
        "<pre><b>&lt;script&gt;</b> alert(&#39;&amp;amp;&#39;)&lt;/script&gt;\u{FFFD}</pre>",
        "vcycle train &#39;a b.toml&#39;",
        "abc123",
        "&lt;Machine&gt; &amp; Co",
        "&lt;/pre&gt;&lt;img&gt;",
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
    for outside in ["http", "<script", "src=", "href=", "url(", "@import", "<img", "<link"] {
        assert!(!page.contains(outside), "{outside} is in the page");
    }
    // Void elements, which HTML does not close, occur only in the head.
    let body = page.split_once("<body>").expect("a body").1;
    assert_well_formed(&format!("<body>{}", body.split_once("</html>").expect("an end").0));
}

#[test]
fn runs_of_earlier_versions_and_unfinished_runs_have_pages() {
    let dir = runs();
    ok(dir.path(), &["report", "run"]);
    let page = || std::fs::read_to_string(dir.path().join("run/report.html")).expect("a page");
    assert!(page().contains("with 25.0 % fewer FLOPs and in 45.5 % less time"), "{}", page());
    assert!(page().contains("no run.json"));
    std::fs::remove_dir_all(dir.path().join("run/scratch")).expect("removed");
    ok(dir.path(), &["report", "run"]);
    assert!(page().contains("run/vcycle: held-out loss 3.8000 after 80.0e9 FLOPs"), "{}", page());
    write(&dir.path().join("run/vcycle/metrics.jsonl"), &[position("stage", 1, 1, 0)]);
    ok(dir.path(), &["report", "run"]);
    assert!(page().contains("No evaluation of level 1 yet."));
    std::fs::write(dir.path().join("run/run.json"), "[]").expect("written");
    assert!(fails(dir.path(), &["report", "run"]).contains("run/run.json: "));
    assert!(page().contains("No evaluation of level 1 yet."), "the earlier page was not kept");
}

#[test]
fn the_output_of_train_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("tiny");
    let run = run.to_str().expect("UTF-8");
    ok(root, &["train", "configs/gpt-tiny.toml", "--out", run, "--quiet"]);
    let json: Value = serde_json::from_str(&ok(root, &["compare", run, "--json", "-"])).expect("JSON");
    assert_eq!(json["runs"][0]["name"], "tiny/vcycle");
    assert_eq!((&json["runs"][0]["steps"], &json["runs"][1]["steps"]), (&json!(21), &json!(16)));
    assert_eq!(json["notes"], json!([]));
    ok(root, &["report", run]);
    let page = std::fs::read_to_string(dir.path().join("tiny/report.html")).expect("a page");
    assert!(page.contains("Training loss") && page.contains("coalesce") && page.contains("interpolate"), "{page}");
    // The metrics of a run on images.
    let run = dir.path().join("images");
    let run = run.to_str().expect("UTF-8");
    ok(root, &["train", "configs/deit-tiny.toml", "--out", run, "--quiet", "--set", "data.images.workers=2"]);
    let page = std::fs::read_to_string(dir.path().join("images/report.html")).expect("a page");
    assert!(page.contains("<td>images/vcycle</td><td>top-1</td>") && page.contains("top-5 of held-out examples"));
}

/// Returns the evaluations of a branch with accuracy and F1. One is from level 2, which does not count, and one has no
/// usable metrics.
fn measured(values: [[f64; 2]; 3]) -> Vec<Value> {
    let of =
        |[accuracy, f1]: [f64; 2]| json!({"measures": {"accuracy": accuracy, "f1": f1, "from a later version": 1}});
    let mut lines = evaluations(&[(1, 1, 0, 7.0), (1, 2, 10, 3.0), (1, 1, 20, 5.0), (1, 1, 30, 4.0), (1, 1, 40, 4.5)]);
    for (line, values) in [(0, values[0]), (1, [1.0, 1.0]), (2, values[1]), (4, values[2])] {
        lines[line] = with(lines[line].clone(), of(values));
    }
    lines[3] = with(lines[3].clone(), json!({"measures": {"accuracy": null, "matthews": 1e300}}));
    lines
}

#[test]
fn metrics_of_labelled_examples_are_compared_and_shown() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path();
    write(&at.join("run/vcycle/metrics.jsonl"), &measured([[0.5, 0.25], [0.9, 0.75], [0.875, 0.8]]));
    write(&at.join("run/scratch/metrics.jsonl"), &measured([[0.5, 0.5], [0.75, 0.5], [0.75, 0.375]]));
    let images = json!({"measures": {"top1": 0.125, "top5": 1.0}});
    write(&at.join("images.jsonl"), &[with(evaluations(&[(1, 1, 5, 2.0)])[0].clone(), images)]);
    let text = ok(at, &["compare", "run", "images.jsonl"]);
    let rows: Vec<String> = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for row in [
        "run metric best at step final",
        "run/vcycle accuracy 0.9000 20 0.8750",
        "run/vcycle F1 0.8000 40 0.8000",
        "run/scratch accuracy 0.7500 20 0.7500",
        "run/scratch F1 0.5000 0 0.3750",
        "images top-1 0.1250 5 0.1250",
        "images top-5 1.0000 5 1.0000",
    ] {
        assert!(rows.iter().any(|line| line == row), "{row} is missing: {text}");
    }
    assert!(!text.contains("Matthews"), "{text}");
    let json: Value = serde_json::from_str(&ok(at, &["compare", "run", "--json", "-"])).expect("JSON");
    let f1 = json!({"measure": "F1", "best": 0.8, "step": 40, "final": 0.8});
    assert_eq!(json["runs"][0]["measures"][1], f1);
    ok(at, &["report", "run"]);
    let page = std::fs::read_to_string(at.join("run/report.html")).expect("a page");
    for part in [
        "<h2>Metrics</h2>",
        "<td>run/vcycle</td><td>accuracy</td><td>0.9000</td><td>20</td><td>0.8750</td>",
        "<td>run/scratch</td><td>F1</td><td>0.5000</td><td>0</td><td>0.3750</td>",
        "Against steps: accuracy, F1",
        "accuracy of held-out examples",
        "F1 of held-out examples",
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
    let body = page.split_once("<body>").expect("a body").1;
    assert_well_formed(&format!("<body>{}", body.split_once("</html>").expect("an end").0));
    // Runs without metrics have no such table.
    let dir = runs();
    ok(dir.path(), &["report", "run"]);
    let page = std::fs::read_to_string(dir.path().join("run/report.html")).expect("a page");
    assert!(!page.contains("Metrics") && !ok(dir.path(), &["compare", "run"]).contains("metric"));
    let json: Value = serde_json::from_str(&ok(dir.path(), &["compare", "run", "--json", "-"])).expect("JSON");
    assert!(json["runs"][0].get("measures").is_none());
}
