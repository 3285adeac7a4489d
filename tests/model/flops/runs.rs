//! The total of a run, in the `metrics.jsonl` of the binary, is the sum of its steps, operators and searches, each
//! derived by hand.
//!
//! An alpha search is counted once, as part of its operator: `Trainer::interpolate` in src/train/plan/transition.rs
//! starts its sum with the FLOPs that `search` returns and adds the operator itself; the total is the `flops_spent` of
//! the `operator` line. The `search` line before it repeats the search's part, but its position does not include it
//! yet.

use crate::flops::steps::{GptStep, Layers, update};
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// The sizes of the runs; the vocabulary is that of the byte tokenizer.
const BATCH: u64 = 6;
const TIME: u64 = 5;
const HEAD: u64 = 8;
const VOCAB: u64 = 256;

/// Level 1 has 4 layers of 4 heads, level 2 half of both, level 3 a quarter.
fn level(number: usize, accumulate: u64) -> GptStep {
    let size = 4 >> (number - 1);
    let c = size * HEAD;
    let layers = Layers { b: BATCH / accumulate, t: TIME, c, h: size, f: 4 * c, l: size, causal: true };
    GptStep { layers, v: VOCAB, tied: true }
}

/// Returns the model FLOPs and the hardware FLOPs of a step.
fn step(number: usize, accumulate: u64, recompute: bool) -> [u64; 2] {
    let of = level(number, accumulate);
    let model = accumulate * of.gradients() + update(of.elements());
    [model, model + if recompute { accumulate * of.recomputed() } else { 0 }]
}

/// Creates a folder with a text and a configuration.
fn workplace(train: &str, levels: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let text: String = (0..3000).map(|i| format!("the {} of {}\n", i % 97, i % 13)).collect();
    std::fs::write(dir.path().join("text.txt"), text).expect("written");
    let config = format!(
        r#"
        [model]
        family = "gpt"
        layers = 4
        heads = 4
        head_size = {HEAD}
        context = {TIME}
        [data]
        text = "text.txt"
        tokenizer = "byte"
        [train]
        batch = {BATCH}
        eval_every = 4
        {train}
        {levels}
        [scratch]
        steps = 5
        lr = 1e-3
        "#
    );
    std::fs::write(dir.path().join("run.toml"), config).expect("written");
    dir
}

/// Trains with the binary. Returns the metrics lines of both branches.
fn run(dir: &Path) -> [Vec<Value>; 2] {
    let args = ["train", "run.toml", "--device", "cpu", "--threads", "1", "--quiet", "--out", "out"];
    let done =
        Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).current_dir(dir).output().expect("the binary runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    ["vcycle", "scratch"].map(|branch| {
        let text = std::fs::read_to_string(dir.join("out").join(branch).join("metrics.jsonl")).expect("metrics");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    })
}

fn number(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or_else(|| panic!("{key} in {line}"))
}

/// An expected operator: its name, the FLOPs of its search, and its FLOPs in total.
type Expected = (&'static str, Option<u64>, u64);

/// Checks the lines of a branch: every step has the FLOPs of its level, every operator those expected, evaluations
/// none, and every position is the sum so far.
fn check(lines: &[Value], accumulate: u64, recompute: bool, expected: &[Expected]) {
    let (mut total, mut steps, mut operators, mut found) = ([0u64; 2], 0, 0, None);
    for line in lines {
        match line["event"].as_str().expect("a kind") {
            "step" => {
                let level = number(line, "level") as usize;
                let each = step(level, accumulate, recompute);
                (0..2).for_each(|i| total[i] += each[i]);
                steps += 1;
            }
            "search" => {
                assert_eq!(
                    line["tried"].as_array().expect("a list").len(),
                    11,
                    "five grid points, six by golden sections"
                );
                found = Some(number(line, "flops_spent"));
            }
            "operator" => {
                let (name, search, spent) = expected[operators];
                assert_eq!((line["name"].as_str(), found.take()), (Some(name), search), "{line}");
                assert_eq!(number(line, "flops_spent"), spent, "{line}");
                total = total.map(|sum| sum + spent);
                operators += 1;
            }
            _ => {}
        }
        assert_eq!([number(line, "flops"), number(line, "hardware_flops")], total, "{line}");
    }
    assert_eq!((operators, lines.last().map(|line| number(line, "step"))), (expected.len(), Some(steps)));
}

/// Coalesces into level `to`: a multiply-add for each element of the level above, also for both moments.
fn coalesce(to: usize, moments: bool) -> Expected {
    let quantities = if moments { 3 } else { 1 };
    ("coalesce", None, quantities * 2 * level(to - 1, 1).elements())
}

/// Interpolates level `to` with the level below: a multiply-add and three more FLOPs for each of its elements, also for
/// both moments.
fn interpolate(to: usize, moments: bool) -> Expected {
    let quantities = if moments { 3 } else { 1 };
    ("interpolate", None, quantities * 5 * level(to, 1).elements())
}

/// Adds a search: eleven interpolations, each with an evaluation of `batches` batches, in micro-batches.
fn searched((name, _, spent): Expected, to: usize, accumulate: u64, batches: u64) -> Expected {
    let of = level(to, accumulate);
    let search = 11 * (5 * of.elements() + batches * accumulate * of.evaluation());
    (name, Some(search), search + spent)
}

const STAGE: &str = "steps = 3, lr = 1e-3";

#[test]
fn two_levels_with_a_given_alpha() {
    let levels = format!(
        "[[levels]]\nbefore = {{ {STAGE} }}\ntrain = {{ {STAGE} }}\n\
         [[levels]]\nlayers = 2\nheads = 2\nalpha = 0.5\ntrain = {{ steps = 4, lr = 1e-3 }}"
    );
    let [vcycle, scratch] = run(workplace("eval_batches = 2", &levels).path());
    check(&vcycle, 1, false, &[coalesce(2, false), interpolate(1, false)]);
    check(&scratch, 1, false, &[]);
    let total = 6 * step(1, 1, false)[0] + 4 * step(2, 1, false)[0] + 7 * level(1, 1).elements();
    assert_eq!(vcycle.last().map(|line| number(line, "flops")), Some(total));
    assert_eq!(scratch.last().map(|line| number(line, "flops")), Some(5 * step(1, 1, false)[0]));
}

#[test]
fn two_levels_with_a_search_moments_and_micro_batches() {
    let levels = format!(
        "[[levels]]\nbefore = {{ {STAGE} }}\ntrain = {{ {STAGE}, optimizer = \"transfer\" }}\n\
         [[levels]]\nlayers = 2\nheads = 2\nalpha = \"search\"\ntrain = {{ {STAGE} }}"
    );
    // Level 2 starts with fresh moments. A search evaluates at most 8 batches.
    for (eval_batches, batches) in [(3, 3), (10, 8)] {
        let train = format!("accumulate = 2\neval_batches = {eval_batches}");
        let [vcycle, scratch] = run(workplace(&train, &levels).path());
        check(&vcycle, 2, false, &[coalesce(2, false), searched(interpolate(1, true), 1, 2, batches)]);
        check(&scratch, 2, false, &[]);
    }
}

#[test]
fn three_levels_with_given_and_searched_alphas_and_recomputation() {
    let levels = format!(
        "[[levels]]\nbefore = {{ {STAGE} }}\ntrain = {{ {STAGE}, optimizer = \"transfer\" }}\n\
         [[levels]]\nlayers = 2\nheads = 2\nalpha = 0.25\n\
         before = {{ {STAGE}, optimizer = \"transfer\" }}\ntrain = {{ {STAGE} }}\n\
         [[levels]]\nlayers = 1\nheads = 1\nalpha = \"search\"\ntrain = {{ {STAGE}, optimizer = \"transfer\" }}"
    );
    let [vcycle, scratch] = run(workplace("accumulate = 3\nrecompute = true\neval_batches = 2", &levels).path());
    let plan = [coalesce(2, true), coalesce(3, true), searched(interpolate(2, false), 2, 3, 2), interpolate(1, true)];
    check(&vcycle, 3, true, &plan);
    check(&scratch, 3, true, &[]);
    assert!(vcycle.iter().any(|line| line["hardware_flops"] != line["flops"]), "nothing was recomputed");
}
