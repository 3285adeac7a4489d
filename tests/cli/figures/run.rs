//! A run of the binary: all figures equal those computed here from its two `metrics.jsonl`.

use super::{cells, json_of, ok, row};
use serde_json::Value;
use std::path::Path;

/// Level 2 trains for long with a high learning rate; level 1 takes over little of it (alpha = 0.1) and has few steps
/// left. So level 2 reaches a lower loss than level 1 ever does, which must not count. The scratch run's learning rate
/// is too high, so that the V-cycle reaches its best loss.
const CONFIG: &str = r#"
[model]
family = "gpt"
layers = 2
heads = 2
head_size = 16
context = 32
[data]
text = "text.txt"
tokenizer = "byte"
[train]
batch = 32
eval_every = 2
eval_batches = 2
[[levels]]
before = { steps = 6, lr = 1e-3 }
train = { steps = 10, lr = 1e-2, decay = "constant" }
[[levels]]
layers = 1
heads = 1
alpha = 0.1
train = { steps = 60, lr = 3e-2, decay = "constant" }
[scratch]
steps = 40
lr = 1e-1
decay = "constant"
"#;

#[derive(Clone, Copy)]
struct Eval {
    level: u64,
    step: u64,
    flops: u64,
    seconds: f64,
    loss: f64,
}

fn evals(branch: &Path) -> Vec<Eval> {
    let text = std::fs::read_to_string(branch.join("metrics.jsonl")).expect("metrics");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let eval = |line: Value| {
        let whole = |key: &str| line[key].as_u64().expect("a number");
        let float = |key: &str| line[key].as_f64().expect("a number");
        Eval {
            level: whole("level"),
            step: whole("step"),
            flops: whole("flops"),
            seconds: float("seconds"),
            loss: float("valid_loss"),
        }
    };
    lines.filter(|line| line["event"] == "eval").map(eval).collect()
}

/// Returns the first evaluation with the lowest loss.
fn best(evals: &[Eval]) -> Eval {
    let mut best = evals[0];
    for eval in evals {
        if eval.loss < best.loss {
            best = *eval;
        }
    }
    best
}

/// Asserts that `printed` is `value`, rounded to the digits that are printed.
fn assert_printed(printed: &str, value: f64) {
    let number = printed.trim_end_matches(" %").trim_end_matches('%');
    let (mantissa, exponent) = number.split_once('e').unwrap_or((number, "0"));
    let digits = mantissa.split_once('.').map_or(0, |(_, digits)| digits.len() as i32);
    let last = 10f64.powi(exponent.parse::<i32>().expect("an exponent") - digits);
    let found: f64 = number.parse().unwrap_or_else(|_| panic!("{printed:?} is not a number"));
    // Half of the last digit, plus the rounding of the test's own sums.
    assert!((found - value).abs() <= last * (0.5 + 1e-6), "{printed} is printed for {value}");
}

#[test]
fn all_outputs_agree_with_the_metrics() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path();
    let text: String = (0..2000).map(|i| format!("the {} of {}\n", i * i % 97, i % 13)).collect();
    std::fs::write(at.join("text.txt"), text).expect("written");
    std::fs::write(at.join("run.toml"), CONFIG).expect("written");
    let printed_by_train =
        ok(at, &["train", "run.toml", "--device", "cpu", "--threads", "1", "--quiet", "--out", "run"]);

    let [all, scratch] = ["vcycle", "scratch"].map(|branch| evals(&at.join("run").join(branch)));
    let cycle: Vec<Eval> = all.iter().filter(|eval| eval.level == 1).copied().collect();
    let (target, lowest) = (best(&scratch), best(&cycle));
    let reached =
        *cycle.iter().find(|eval| eval.loss <= target.loss).expect("the V-cycle reaches the baseline's best loss");
    let early = all.iter().find(|eval| eval.loss <= target.loss).expect("some level reaches it");
    // Otherwise the test would show little.
    assert!(early.level == 2 && reached.step < lowest.step && lowest.loss < target.loss);
    let below = all.iter().filter(|eval| eval.level == 2).map(|eval| eval.loss).fold(f64::INFINITY, f64::min);
    assert!(below < lowest.loss, "level 2 at {below}, level 1 at {}", lowest.loss);
    let saved = [1.0 - reached.flops as f64 / target.flops as f64, 1.0 - reached.seconds / target.seconds];

    // What `train` prints at the end.
    let point = |name: &str, eval: &Eval| {
        let line = row(&printed_by_train, name);
        let numbers: Vec<&str> = line.strip_prefix(name).expect("the name").split_whitespace().collect();
        assert_eq!(numbers.len(), 3, "{line}");
        [eval.loss, eval.flops as f64, eval.seconds]
            .iter()
            .zip(numbers)
            .for_each(|(value, text)| assert_printed(text, *value));
    };
    point("baseline (scratch) at its best", &target);
    point("V-cycle on reaching the baseline's best loss", &reached);
    point("V-cycle at its best", &lowest);
    let sentence = row(&printed_by_train, "saved:");
    let words: Vec<&str> = sentence.split_whitespace().collect();
    assert_printed(words[1], 100.0 * saved[0]);
    assert_printed(words[7], 100.0 * saved[1]);
    assert_eq!((words[2], words[5], words[8], words[11]), ("%", "FLOPs", "%", "seconds"), "{sentence}");
    let last = cycle.last().expect("an evaluation");
    assert!(printed_by_train.contains(&format!("(held-out loss {:.4})", last.loss)), "{printed_by_train}");

    // `compare`; in JSON, exactly.
    let json = json_of(at, &["run"]);
    let pair = &json["pairs"][0];
    let mark = |value: &Value, eval: &Eval| {
        let numbers = ["flops", "seconds", "loss"].map(|key| value[key].as_f64().expect("a number"));
        assert_eq!(value["step"], eval.step);
        assert_eq!(numbers, [eval.flops as f64, eval.seconds, eval.loss]);
    };
    mark(&pair["reached"], &reached);
    mark(&json["runs"][0]["best"], &lowest);
    mark(&json["runs"][0]["final"], last);
    mark(&json["runs"][1]["best"], &target);
    assert_eq!([&pair["flops_saved"], &pair["seconds_saved"]].map(|v| v.as_f64().expect("a number")), saved);
    let text = ok(at, &["compare", "run"]);
    let (runs, against) = text.split_once("reaching the best loss of run/scratch: ").expect("a baseline");
    let line = row(runs, "run/vcycle");
    let numbers: Vec<&str> = line.split(' ').skip(1).collect();
    let end = all.iter().max_by_key(|eval| eval.flops).expect("an end");
    let (best, end_step) = ([lowest.loss, lowest.step as f64, lowest.flops as f64, lowest.seconds], end.step as f64);
    let wanted = [&best[..], &[last.loss, end_step, end.flops as f64]].concat();
    wanted.iter().zip(&numbers).for_each(|(value, text)| assert_printed(text, *value));
    let (loss, rest) = against.split_once(", after ").expect("a loss");
    let (flops, rest) = rest.split_once(" FLOPs and ").expect("FLOPs");
    let seconds = rest.split_once(" s\n").expect("seconds").0;
    assert_printed(loss, target.loss);
    assert_printed(flops, target.flops as f64);
    assert_printed(seconds, target.seconds);
    let line = row(against, "run/vcycle");
    let numbers: Vec<&str> = line.split(' ').skip(1).filter(|word| *word != "%").collect();
    let wanted = [reached.step as f64, reached.flops as f64, 100.0 * saved[0], reached.seconds, 100.0 * saved[1]];
    assert_eq!(numbers.len(), wanted.len(), "{line}");
    wanted.iter().zip(&numbers).for_each(|(value, text)| assert_printed(text, *value));

    // The page that `train` wrote, and the same page written by `report`.
    let page = std::fs::read_to_string(at.join("run/report.html")).expect("a page");
    ok(at, &["report", "run"]);
    assert_eq!(page, std::fs::read_to_string(at.join("run/report.html")).expect("a page"));
    let change = |saved: f64, less: &str, more: &str| {
        format!("{:.1} % {}", 100.0 * saved.abs(), if saved < 0.0 { more } else { less })
    };
    let headline = format!(
        "(held-out loss {:.4}) with {} FLOPs and in {} time.",
        target.loss,
        change(saved[0], "fewer", "more"),
        change(saved[1], "less", "more")
    );
    assert!(page.contains(&headline), "{headline}");
    for (name, eval, has_share) in [
        ("baseline (scratch) at its best", &target, false),
        ("V-cycle on reaching the baseline&#39;s best loss", &reached, true),
        ("V-cycle at its best", &lowest, true),
    ] {
        let found = cells(&page, name);
        assert_printed(&found[0], eval.loss);
        assert_printed(&found[1], eval.flops as f64);
        assert_printed(&found[3], eval.seconds);
        if has_share {
            assert_printed(&found[2], 100.0 * (1.0 - eval.flops as f64 / target.flops as f64));
            assert_printed(&found[4], 100.0 * (1.0 - eval.seconds / target.seconds));
        }
    }
}
