//! Promise: the figures of `vcycle bench report` equal those computed by hand from its input, invalid lines are
//! reported by number, and its page is self-contained.

use super::xml;

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;
use xml::assert_well_formed;

fn report(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
    command.args(["bench", "report"]).args(args).current_dir(dir).output().expect("the binary runs")
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let out = report(dir, args);
    assert!(out.status.success(), "{args:?} failed: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("UTF-8")
}

fn fails(dir: &Path, args: &[&str]) -> String {
    let out = report(dir, args);
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{args:?}: {error}");
    error
}

fn with(mut line: Value, more: Value) -> Value {
    let (Value::Object(to), Value::Object(from)) = (&mut line, more) else { panic!("expected two objects") };
    to.extend(from);
    line
}

/// Returns a line for a training step as benches/baselines/torch_step.py writes it.
fn step(peer: &str, ms: f64) -> Value {
    json!({"bench": "step", "peer": peer, "version": "1.2", "device": "cpu", "shape": "char", "threads": 2,
        "params": 1_048_576, "steps": 9, "ms_median": ms, "ms_best": ms, "tokens_per_s": 2000.0 / ms, "gflops": 100.0 / ms,
        "rss_mb": 130, "rss_at_start_mb": 20, "loss": 4.0})
}

fn operation(case: &str, ms: f64, flops: f64) -> Value {
    json!({"bench": "gemm", "peer": "vcycle_f32", "version": "0.1.0", "device": "cpu", "shape": "4x4x4", "sizes": [4, 4, 4],
        "threads": 1, "precision": "f32", "label": null, "case": case, "variant": null, "ms_median": ms, "ms_best": ms,
        "flops": flops, "bytes": 1e6, "gflops": flops / ms / 1e6, "gb_per_s": 1.0 / ms, "percent_of_roofline": 50.0,
        "roofline_gflops": 100.0, "roofline_gb_per_s": 20.0, "times_mean_nothing": false})
}

fn write(path: &Path, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(path, text).expect("written");
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Returns the row of a table whose first cells are `begin`, as pairs of column heading and cell.
fn row(text: &str, table: &str, begin: &[&str]) -> Vec<(String, String)> {
    let section = text.split("\n## ").find(|section| section.starts_with(table)).expect("the table");
    let cells = |line: &str| line.trim_matches('|').split(" |").map(|cell| cell.trim().to_string()).collect::<Vec<_>>();
    let mut lines = section.lines().filter(|line| line.starts_with('|')).map(cells);
    let head = lines.next().expect("a head");
    let row = lines.find(|row| row.iter().zip(begin).all(|(cell, begin)| cell == begin));
    head.into_iter().zip(row.unwrap_or_else(|| panic!("no {begin:?} in {section}"))).collect()
}

fn cell<'a>(row: &'a [(String, String)], column: &str) -> &'a str {
    let found = row.iter().find(|(head, _)| head == column);
    &found.unwrap_or_else(|| panic!("no {column} in {row:?}")).1
}

const ON: &str = "cpu, 2 threads, f32";

#[test]
fn medians_and_paired_ratios() {
    let dir = folder();
    // Ratios by round: 1/2, 4/4, 6/8. The ratio of the medians, 4 and 4, would be 1.
    let ours = [1.0, 4.0, 6.0].map(|ms| step("vcycle_f32", ms));
    let theirs = [2.0, 4.0, 8.0].map(|ms| step("torch_eager_f32", ms));
    let all: Vec<Value> = ours.into_iter().zip(theirs).flat_map(|(a, b)| [a, b]).collect();
    write(&dir.path().join("all.jsonl"), &all);
    let text = ok(dir.path(), &["all.jsonl"]);
    let ratios = row(&text, "Times, ours / theirs: below 1 ours is faster", &["step char", ON, "vcycle"]);
    assert_eq!(cell(&ratios, "ms"), "4.000");
    assert_eq!(cell(&ratios, "torch_eager ms"), "4.000");
    assert_eq!(cell(&ratios, "ours / torch_eager"), "0.750 (0.500..1.000)");
    // Quartiles of 1, 4, 6: 2.5 and 5.
    let figures = row(&text, "Figures", &["step char", ON, "vcycle"]);
    assert_eq!((cell(&figures, "rounds"), cell(&figures, "spread")), ("3", "62.5 %"));
    // The medians of 2000, 500 and 333 tokens per second, and of 100, 25 and 16.67 GFLOP/s.
    assert_eq!((cell(&figures, "tokens/s"), cell(&figures, "GFLOP/s")), ("500", "25.00"));
    // 130 - 20 MiB; 16 bytes for each of 2^20 parameters are 16 MiB.
    assert_eq!((cell(&figures, "MiB"), cell(&figures, "less 16 B/param")), ("110", "94"));
    assert!(!text.contains("J/step |"), "without energy there must be no column: {text}");
    assert!(text.contains("torch_eager 1.2, vcycle 1.2"), "{text}");
}

#[test]
fn rounds_are_paired_by_number_in_any_order() {
    let dir = folder();
    let line = |peer: &str, round: u64, ms: f64, joules: f64| {
        with(step(peer, ms), json!({"round": round, "joules_per_step": joules, "percent_of_products": 10.0 * ms}))
    };
    let ours = [line("vcycle_f32", 1, 1.0, 3.0), line("vcycle_f32", 2, 3.0, 5.0)];
    // Round 3 has no counterpart in ours.
    let theirs = [3, 2, 1].map(|round| line("candle_f32", round, 10.0 * round as f64, 7.0));
    write(&dir.path().join("a.jsonl"), &ours);
    write(&dir.path().join("b.jsonl"), &theirs);
    let text = ok(dir.path(), &["b.jsonl", "a.jsonl", "./a.jsonl"]);
    // 1/10 and 3/20.
    let ratios = row(&text, "Times", &["step char", ON, "vcycle"]);
    assert_eq!(cell(&ratios, "ours / candle"), "0.125 (0.100..0.150)");
    let figures = row(&text, "Figures", &["step char", ON, "vcycle"]);
    assert_eq!(
        (cell(&figures, "J/step"), cell(&figures, "roofline"), cell(&figures, "rounds")),
        ("4.000", "20 %", "2")
    );
}

#[test]
fn only_equal_settings_are_compared_and_gpu_threads_are_ignored() {
    let dir = folder();
    let on = |peer: &str, device: &str, threads: u64, ms: f64| {
        with(step(peer, ms), json!({"device": device, "threads": threads}))
    };
    let lines = [
        on("vcycle_f32", "cpu", 1, 8.0),
        on("vcycle_f32", "cpu", 2, 4.0),
        on("torch_eager_f32", "cpu", 2, 8.0),
        on("torch_eager_bf16", "cpu", 2, 2.0),
        on("vcycle_bf16", "cuda", 16, 3.0),
        on("torch_compile_bf16", "cuda", 2, 6.0),
        with(on("vcycle_f32", "cpu", 2, 5.0), json!({"shape": "1,2,3,4,5,6"})),
        with(on("torch_eager_f32", "cpu", 2, 20.0), json!({"shape": "1x2x3x4x5x6"})),
    ];
    write(&dir.path().join("a.jsonl"), &lines);
    let text = ok(dir.path(), &["a.jsonl"]);
    assert_eq!(cell(&row(&text, "Times", &["step char", ON]), "ours / torch_eager"), "0.500");
    let cuda = row(&text, "Times", &["step char", "cuda, bf16"]);
    assert_eq!((cell(&cuda, "ours / torch_compile"), cell(&cuda, "ours / torch_eager")), ("0.500", ""));
    assert_eq!(cell(&row(&text, "Times", &["step 1x2x3x4x5x6"]), "ours / torch_eager"), "0.250");
    let times = text.split("\n## ").find(|section| section.starts_with("Times")).expect("ratios");
    assert!(!times.contains("1 thread"), "there is nothing to compare it with: {times}");
    assert_eq!(cell(&row(&text, "Figures", &["step char", "cpu, 1 thread, f32"]), "ms"), "8.000");
    // On a GPU the parameters are not in host memory.
    let cuda = row(&text, "Figures", &["step char", "cuda, bf16"]);
    assert_eq!((cell(&cuda, "MiB"), cell(&cuda, "less 16 B/param")), ("110", ""));
}

#[test]
fn runs_are_told_apart_by_label_or_by_file_name() {
    let dir = folder();
    let apart = |ms: f64| json!({"linear": ms * 0.75, "adamw": ms * 0.25});
    let line = |ms: f64| with(step("vcycle_f32", ms), json!({"ms_by_operation": apart(ms)}));
    let of = |label: &str, ms: f64| with(line(ms), json!({"label": label}));
    // The peer is measured again with each label; lines are paired within a label.
    let peer = |label: &str, ms: f64| with(step("torch_eager_f32", ms), json!({"label": label}));
    write(
        &dir.path().join("both.jsonl"),
        &[of("before", 8.0), peer("before", 8.0), of("after|<b>", 4.0), peer("after|<b>", 16.0)],
    );
    let text = ok(dir.path(), &["both.jsonl", "--out", "out"]);
    let plain = text.replace("\\|", "/");
    let after = row(&plain, "Times", &["step char", ON, "vcycle (after/\\<b\\>)"]);
    assert_eq!((cell(&after, "ours / first"), cell(&after, "ours / torch_eager")), ("0.500", "0.250"));
    let apart = row(&text, "Where a step's time goes, in ms", &["step char", ON, "vcycle (before)"]);
    assert_eq!((cell(&apart, "linear"), cell(&apart, "adamw"), cell(&apart, "sum")), ("6.000", "2.000", "8.000"));
    let svg = std::fs::read_to_string(dir.path().join("out/step.svg")).expect("a picture");
    for part in ["vcycle (before)", "vcycle (after|&lt;b&gt;)", "linear 75 %", "8.000 ms", "4.000 ms"] {
        assert!(svg.contains(part), "{part} is missing in {svg}");
    }

    write(&dir.path().join("old.jsonl"), &[line(8.0)]);
    write(&dir.path().join("new.jsonl"), &[line(6.0), with(line(1.0), json!({"shape": "small"}))]);
    let text = ok(dir.path(), &["old.jsonl", "new.jsonl"]);
    assert_eq!(cell(&row(&text, "Times", &["step char", ON, "vcycle (new)"]), "ours / first"), "0.750");
    row(&text, "Figures", &["step small", ON, "vcycle (new)"]);
    std::fs::create_dir(dir.path().join("x")).expect("made");
    write(&dir.path().join("x/new.jsonl"), &[line(3.0)]);
    let text = ok(dir.path(), &["new.jsonl", "x/new.jsonl"]);
    assert_eq!(cell(&row(&text, "Times", &["step char", ON, "vcycle (x/new)"]), "ours / first"), "0.500");
    // With a single file, no file name is needed.
    assert!(ok(dir.path(), &["old.jsonl"]).contains("| vcycle |"));
}

/// Returns the value of an attribute of the first element that has it.
fn attribute(svg: &str, name: &str) -> f64 {
    let (_, rest) = svg.split_once(&format!(" {name}=\"")).expect("the attribute");
    rest.split('"').next().and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn pictures_are_well_formed_and_the_page_is_self_contained() {
    let dir = folder();
    // At 1 FLOP/B the roofline is at 20 GFLOP/s, at 10 FLOP/B at 100.
    let mut lines = vec![operation("dx", 0.1, 1e6), operation("dw", 0.2, 1e7), operation("<b>&\"\u{7}", 0.3, 1e7)];
    lines.push(with(step("vcycle_f32", 4.0), json!({"ms_by_operation": {"linear": 3.0, "adamw<": 1.0}})));
    write(&dir.path().join("a.jsonl"), &lines);
    let text = ok(dir.path(), &["a.jsonl", "--out", "deep/out"]);
    let read = |name: &str| std::fs::read_to_string(dir.path().join("deep/out").join(name)).expect(name);
    let (roofline, step, page, markdown) =
        (read("roofline.svg"), read("step.svg"), read("report.html"), read("report.md"));
    for svg in [&roofline, &step] {
        assert_well_formed(svg);
        assert!(svg.contains("role=\"img\"") && svg.contains("xmlns=\"http://www.w3.org/2000/svg\""), "{svg}");
    }
    for part in ["cpu, 1 thread, f32: roof 100.0 GFLOP/s, 20.00 GB/s", "gemm 4x4x4 dx: 10.00", "gemm 4x4x4 dw: 50.00"] {
        assert!(roofline.contains(part), "{part} is missing in {roofline}");
    }
    assert!(roofline.contains("&lt;b&gt;&amp;&quot;\u{FFFD}: 33.33"), "{roofline}");
    assert!(step.contains("adamw&lt;") && step.contains("linear 75 %"), "{step}");
    for outside in ["http", "<script", "src=", "href=", "url(", "@import", "<img", "<link"] {
        assert!(!page.contains(outside), "{outside} is in the page");
    }
    let body = page.split_once("<body>").expect("a body").1;
    assert_well_formed(&format!("<body>{}", body.split_once("</html>").expect("an end").0));
    assert_eq!(page.matches("<svg ").count(), 2);
    for part in ["<td>gemm 4x4x4 dw</td><td>cpu, 1 thread, f32</td>", "<td>50.00</td>", "Where a step&#39;s time goes"]
    {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert!(markdown.contains("](roofline.svg)") && markdown.contains("](step.svg)") && !text.contains(".svg"));
    // With nothing to draw, no picture is written or mentioned.
    write(&dir.path().join("b.jsonl"), &[self::step("candle_f32", 4.0)]);
    ok(dir.path(), &["b.jsonl", "--out", "bare"]);
    let files: Vec<_> = std::fs::read_dir(dir.path().join("bare")).expect("a folder").flatten().collect();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(!std::fs::read_to_string(dir.path().join("bare/report.md")).expect("a report").contains(".svg"));
}

#[test]
fn labels_in_the_roofline_plot_do_not_overlap() {
    let dir = folder();
    // Forty points at the same position.
    let lines: Vec<Value> = (0..40).map(|n| operation(&format!("case {n}"), 0.1, 1e6)).collect();
    write(&dir.path().join("a.jsonl"), &lines);
    ok(dir.path(), &["a.jsonl", "--out", "out"]);
    let svg = std::fs::read_to_string(dir.path().join("out/roofline.svg")).expect("a picture");
    let mut heights: Vec<f64> = Vec::new();
    for name in svg.split("<text ").skip(1).filter(|part| part.contains(": 10.00")) {
        heights.push(attribute(&format!(" {name}"), "y"));
    }
    // The drawing is four times as large as shown; text is 13 pixels high as shown.
    assert_eq!(heights.len(), 40);
    heights.sort_by(f64::total_cmp);
    assert!(heights.windows(2).all(|pair| pair[1] - pair[0] >= 4.0 * 13.0), "{heights:?}");
    let height = svg.split("viewBox=\"0 0 4800 ").nth(1).and_then(|rest| rest.split('"').next()).expect("a height");
    assert!(heights[39] < height.parse::<f64>().expect("a number") && heights[0] > 0.0);
}

#[test]
fn emulated_times_are_marked_as_meaningless() {
    let dir = folder();
    let emulated = json!({"device": "emulator", "times_mean_nothing": true, "roofline_gflops": null, "percent_of_roofline": null,
        "roofline_gb_per_s": null});
    write(&dir.path().join("a.jsonl"), &[with(operation("dx", 0.1, 1e6), emulated)]);
    let text = ok(dir.path(), &["a.jsonl", "--out", "out"]);
    assert!(
        text.contains("Times of the emulator say nothing about speed") && !dir.path().join("out/roofline.svg").exists()
    );
}

#[test]
fn damage_is_reported_by_file_and_line() {
    let dir = folder();
    let good = step("vcycle_f32", 4.0);
    let without = |key: &str| {
        let mut line = good.clone();
        line.as_object_mut().expect("an object").remove(key);
        line.to_string()
    };
    let changed = |more: Value| with(good.clone(), more).to_string();
    let metrics = r#"{"event":"eval","stage":1,"level":1,"step":0,"flops":0,"seconds":0.0,"valid_loss":7.0}"#;
    let damaged = [
        ("not json".to_string(), "not valid JSON"),
        ("[1, 2]".to_string(), "not a JSON object"),
        ("{\"bench\": \"step\"".to_string(), "not valid JSON"),
        (metrics.to_string(), "bench"),
        (without("ms_median"), "ms_median"),
        (without("peer"), "peer"),
        (without("threads"), "threads"),
        (
            good.to_string().replace("4.0,\"ms_median\"", "1e999,\"x\"").replace("\"threads\":2", "\"threads\":1e999"),
            "not valid JSON",
        ),
        (good.to_string().replace("\"threads\":2", "\"threads\":NaN"), "not valid JSON"),
        (changed(json!({"ms_median": "NaN"})), "string"),
        (changed(json!({"ms_median": null})), "null"),
        (changed(json!({"ms_median": 0})), "ms_median"),
        (changed(json!({"ms_median": -1})), "ms_median"),
        (changed(json!({"ms_median": 1e300})), "1e300"),
        (changed(json!({"gflops": -1})), "gflops"),
        (changed(json!({"rss_mb": 1e25})), "rss_mb"),
        (changed(json!({"threads": -2})), "-2"),
        (changed(json!({"round": 0.5})), "0.5"),
        (changed(json!({"bench": "gemv"})), "gemv"),
        (changed(json!({"peer": "somebody"})), "precision"),
        (changed(json!({"label": ""})), "label"),
        (changed(json!({"label": "x".repeat(201)})), "label"),
        (changed(json!({"ms_by_operation": [1]})), "sequence"),
        (changed(json!({"ms_by_operation": {"linear": "long"}})), "string"),
        (changed(json!({"ms_by_operation": {"linear": -1.0}})), "ms_by_operation"),
        (changed(json!({"times_mean_nothing": 3})), "integer"),
        ("[".repeat(100_000), "not valid JSON"),
    ];
    for (line, expected) in damaged {
        std::fs::write(dir.path().join("a.jsonl"), format!("{good}\n\n{line}\n")).expect("written");
        let error = fails(dir.path(), &["a.jsonl", "--out", "out"]);
        assert!(error.contains("a.jsonl, line 3: ") && error.contains(expected), "{line:.200}: {error}");
    }
    assert!(!dir.path().join("out").exists(), "output was written despite the error");
    std::fs::write(dir.path().join("a.jsonl"), "\n").expect("written");
    assert!(fails(dir.path(), &["a.jsonl"]).contains("a.jsonl holds no line"));
    assert!(fails(dir.path(), &["missing.jsonl"]).contains("missing.jsonl"));
    assert!(fails(dir.path(), &["."]).contains("folder"));
    assert!(fails(dir.path(), &[]).contains("FILES"));
    let peers: Vec<Value> = (0..33).map(|n| step(&format!("peer{n}_f32"), 1.0)).collect();
    write(&dir.path().join("a.jsonl"), &peers);
    assert!(fails(dir.path(), &["a.jsonl"]).contains("33 peers"));
}

#[test]
fn extreme_numbers_can_be_drawn() {
    let dir = folder();
    let ends = [(1e-9, 1e24, 1.0), (1e12, 1.0, 1e24), (1.0, 0.0, 0.0), (1.0, 1e-300, 1e-300), (1.0, 1e24, 1e24)];
    let lines = ends.iter().enumerate().map(|(n, &(ms, flops, bytes))| {
        let extreme = json!({"flops": flops, "bytes": bytes, "gflops": flops, "roofline_gflops": 1e24, "params": 1e24,
            "roofline_gb_per_s": 1e-9, "rss_mb": 0, "rss_at_start_mb": 1e24, "ms_by_operation": {"linear": 0.0}, "round": u64::MAX});
        with(operation(&n.to_string(), ms, 1.0), extreme)
    });
    let steps = [1e-9, 1e12].map(|ms| {
        with(
            step("vcycle_f32", ms),
            json!({"ms_by_operation": {"linear": 1e24, "x": 1e-300}, "tokens_per_s": 1, "gflops": 1}),
        )
    });
    let peer = with(step("torch_f32", 1e12), json!({"tokens_per_s": 1, "gflops": 1}));
    let all: Vec<Value> = lines.chain(steps).chain([peer]).collect();
    write(&dir.path().join("a.jsonl"), &all);
    ok(dir.path(), &["a.jsonl", "--out", "out"]);
    for name in ["roofline.svg", "step.svg"] {
        assert_well_formed(&std::fs::read_to_string(dir.path().join("out").join(name)).expect(name));
    }
}

#[test]
fn the_output_of_bench_is_read_with_its_label() {
    let dir = folder();
    for (label, subject, shape) in
        [("one", "step", "1,1,8,4,1,9"), ("two", "step", "1,1,8,4,1,9"), ("one", "layernorm", "3x8")]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vcycle"));
        command.args(["bench", subject, "--shape", shape, "--rounds", "1", "--seconds", "0", "--threads", "1"]);
        let file = format!("{subject}-{label}.jsonl");
        let out = command
            .args(["--label", label, "--json", &file])
            .current_dir(dir.path())
            .output()
            .expect("the binary runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let text = ok(dir.path(), &["step-one.jsonl", "step-two.jsonl", "layernorm-one.jsonl", "--out", "out"]);
    let on = "cpu, 1 thread, f32";
    let two = row(&text, "Times", &["step 1x1x8x4x1x9", on, "vcycle (two)"]);
    assert!(cell(&two, "ours / first").parse::<f64>().expect("a ratio") > 0.0);
    row(&text, "Figures", &["layernorm 3x8 backward", on, "vcycle (one)"]);
    assert!(cell(&row(&text, "Where", &["step 1x1x8x4x1x9", on]), "linear").parse::<f64>().expect("ms") > 0.0);
    assert!(dir.path().join("out/roofline.svg").exists() && dir.path().join("out/step.svg").exists());
    for label in ["", " ", &"x".repeat(201)] {
        let args = ["bench", "layernorm", "--shape", "3x8", "--label", label];
        let out = Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).output().expect("the binary runs");
        assert!(out.status.code() == Some(2) && String::from_utf8_lossy(&out.stderr).contains("1 to 200"), "{label:?}");
    }
    let line = std::fs::read_to_string(dir.path().join("step-one.jsonl")).expect("lines");
    let line: Value = serde_json::from_str(line.trim()).expect("JSON");
    assert!(line.as_object().expect("an object").contains_key("joules_per_step") && line["label"] == "one");
}
