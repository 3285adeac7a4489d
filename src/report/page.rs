//! The sections of a run's HTML page. Text from files is escaped where it is inserted into cells and paragraphs.

use super::canvas::Drawing;
use super::measures::{Reached, reached};
use super::run::{BranchLog, Run};
use super::savings::{Point, Savings, saved};
use super::text::{duration, engineering, escape, in_seconds, percent};
use crate::runlog::{OperationTime, Operator, Position, Sample, Stage};
use serde_json::Value;

const STYLE: &str = "
body { max-width: 1200px; margin: 2em auto; padding: 0 1em; font: 16px/1.5 sans-serif; color: #222; background: #fff; }
h1 { margin-bottom: 0; }
h2 { margin-top: 2em; border-bottom: 1px solid #bbb; }
.headline { font-size: 1.25em; }
.note { padding: 0.5em 1em; background: #fff4d6; }
.hint { color: #555; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1em 0; }
caption { text-align: left; font-weight: bold; padding-bottom: 0.3em; }
th, td { padding: 0.2em 0.6em; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top; }
th { border-bottom: 1px solid #888; }
th:first-child, td:first-child { text-align: left; }
td:first-child, td:nth-child(2) { white-space: nowrap; }
td.bar { width: 300px; }
td.bar div { height: 1em; margin-top: 0.25em; background: #0072b2; }
pre { padding: 1em; background: #f5f5f5; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content auto; gap: 0.2em 1em; }
dt { font-weight: bold; }
dd { margin: 0; overflow-wrap: anywhere; }
";

/// An HTML page under construction.
pub struct Page {
    html: String,
}

impl Page {
    /// Starts a page with its head and style sheet.
    pub fn new(title: &str) -> Self {
        let head = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n",
            escape(title)
        );
        Page { html: head }
    }

    /// Appends HTML unchanged.
    pub fn raw(&mut self, html: &str) {
        self.html.push_str(html);
    }

    /// Appends a section heading.
    pub fn heading(&mut self, text: &str) {
        self.raw(&format!("<h2>{}</h2>\n", escape(text)));
    }

    /// Appends a paragraph in grey.
    pub fn hint(&mut self, text: &str) {
        self.raw(&format!("<p class=\"hint\">{}</p>\n", escape(text)));
    }

    /// Appends a picture as inline SVG.
    pub fn picture(&mut self, picture: &Drawing) {
        self.raw(&picture.inline());
    }

    /// Appends a table of text cells. Empty columns are left out, and so is a table without rows.
    pub fn table(&mut self, caption: &str, header: &[&str], rows: &[Vec<String>]) {
        let says = |&column: &usize| rows.iter().any(|row| !row[column].is_empty());
        let columns: Vec<usize> = (0..header.len()).filter(says).collect();
        let cell = |row: &Vec<String>, column: usize| format!("<td>{}</td>", escape(&row[column]));
        let cells = rows.iter().map(|row| columns.iter().map(|&column| cell(row, column)).collect::<String>());
        self.table_of(caption, &columns.iter().map(|&column| header[column]).collect::<Vec<_>>(), cells);
    }

    /// Appends a table whose rows are HTML.
    fn table_of(&mut self, caption: &str, header: &[&str], rows: impl Iterator<Item = String>) {
        let rows: String = rows.map(|row| format!("<tr>{row}</tr>\n")).collect();
        if rows.is_empty() {
            return;
        }
        let header: String = header.iter().map(|cell| format!("<th scope=\"col\">{}</th>", escape(cell))).collect();
        let caption = match caption {
            "" => String::new(),
            text => format!("<caption>{}</caption>\n", escape(text)),
        };
        self.raw(&format!("<table>\n{caption}<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n"));
    }

    /// Closes the page and returns it.
    pub fn finish(mut self) -> String {
        self.raw("</body>\n</html>\n");
        self.html
    }
}

fn savings_of(run: &Run) -> Option<Savings> {
    Savings::of(&run.vcycle.as_ref()?.points(), &run.scratch.as_ref()?.points())
}

/// Returns the result of the run in a sentence.
pub fn headline(run: &Run) -> String {
    if let Some(savings) = savings_of(run) {
        let Some((flops, seconds)) = savings.fractions() else {
            return format!(
                "Nothing is saved: the V-cycle stays {:.4} above the best loss of the baseline, {:.4}.",
                savings.vcycle_best.loss - savings.scratch.loss,
                savings.scratch.loss
            );
        };
        let change =
            |saved: f64, words: [&str; 2]| format!("{:.1} % {}", 100.0 * saved.abs(), words[usize::from(saved < 0.0)]);
        return format!(
            "The V-cycle reaches the best loss of the baseline (held-out loss {:.4}) with {} FLOPs and in {} time.",
            savings.scratch.loss,
            change(flops, ["fewer", "more"]),
            change(seconds, ["less", "more"])
        );
    }
    let Some(side) = run.sides().into_iter().find(|side| side.of_target().next().is_some()) else {
        return "No evaluation of level 1 yet.".to_string();
    };
    let last = side.of_target().last().map_or(f64::NAN, |eval| eval.loss);
    format!(
        "{}: held-out loss {last:.4} after {} FLOPs and {} of training; no baseline to compare with.",
        side.name,
        engineering(side.end.flops as f64),
        duration(side.end.seconds)
    )
}

/// Appends the table of FLOPs and seconds that both branches used, and the V-cycle needed to reach the baseline's best
/// loss.
pub fn savings(page: &mut Page, run: &Run) {
    let Some(savings) = savings_of(run) else { return };
    let row = |what: &str, point: &Point, against: bool| {
        let (flops, seconds) = saved(point, &savings.scratch);
        let share = |saved: f64| if against { percent(saved) } else { String::new() };
        let flops_used = engineering(point.flops as f64);
        let seconds_used = in_seconds(point.seconds);
        vec![what.to_string(), format!("{:.4}", point.loss), flops_used, share(flops), seconds_used, share(seconds)]
    };
    let mut rows = vec![row("baseline (scratch) at its best", &savings.scratch, false)];
    rows.extend(savings.vcycle_reached.map(|point| row("V-cycle on reaching the baseline's best loss", &point, true)));
    rows.push(row("V-cycle at its best", &savings.vcycle_best, savings.vcycle_reached.is_some()));
    page.table("Savings", &["", "held-out loss", "FLOPs", "saved", "seconds", "saved"], &rows);
    page.hint("Only evaluations at level 1 are compared; FLOPs and seconds count all levels, optimizer and operators.");
}

/// Appends the table of metrics besides the loss: best and final value.
pub fn measures(page: &mut Page, sides: &[&BranchLog]) {
    let of_side = |side: &&BranchLog| {
        let row = |reached: &Reached| [vec![side.name.clone()], reached.cells().to_vec()].concat();
        reached(side).iter().map(row).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = sides.iter().flat_map(of_side).collect();
    page.table("", &["branch", "metric", "best", "at step", "final"], &rows);
    page.hint("Only evaluations at level 1 are counted; for every metric, higher is better.");
}

/// Returns the first and last position of a stage over all lines of that stage.
fn span(side: &BranchLog, stage: usize) -> (Position, Position) {
    let begun = side.stages.iter().map(|stage| stage.at);
    let lines = begun.chain(side.steps.iter().map(|step| step.at)).chain(side.evals.iter().map(|eval| eval.at));
    let of_stage: Vec<Position> = lines.filter(|at| at.stage == stage).collect();
    let order = |at: &&Position| (at.step, at.flops);
    let first = of_stage.iter().min_by_key(order).copied().unwrap_or_default();
    (first, of_stage.iter().max_by_key(order).copied().unwrap_or_default())
}

fn stage_row(side: &BranchLog, number: usize) -> Vec<String> {
    let (first, last) = span(side, number);
    let begun = side.stages.iter().find(|stage| stage.at.stage == number);
    let of_begun = |value: &dyn Fn(&Stage) -> Option<String>| begun.and_then(value).unwrap_or_default();
    let operators = side.operators.iter().filter(|operator| operator.at.stage == number);
    let entered: Vec<String> = operators.map(entered_by).collect();
    let mut losses = side.evals.iter().filter(|eval| eval.at.stage == number).map(|eval| format!("{:.4}", eval.loss));
    let loss_first = losses.next().unwrap_or_default();
    let done = last.step.saturating_sub(first.step);
    vec![
        side.name.clone(),
        number.to_string(),
        last.level.to_string(),
        of_begun(&|stage| Some(format!("{} x {}", stage.layers?, stage.width?))),
        of_begun(&|stage| Some(stage.parameters?.to_string())),
        if number == 1 { "initialised".to_string() } else { entered.join("; ") },
        match begun.and_then(|stage| stage.steps).filter(|&planned| planned != done) {
            Some(planned) => format!("{done} of {planned}"),
            None => done.to_string(),
        },
        engineering(last.flops.saturating_sub(first.flops) as f64),
        in_seconds(last.seconds - first.seconds),
        loss_first.clone(),
        losses.next_back().unwrap_or(loss_first),
    ]
}

fn entered_by(operator: &Operator) -> String {
    match operator.alpha {
        Some(alpha) => format!("{}, alpha {alpha}", operator.name),
        None => operator.name.clone(),
    }
}

/// Appends the table of stages.
pub fn stages(page: &mut Page, sides: &[&BranchLog]) {
    let mut rows = Vec::new();
    for side in sides {
        let lines = side.evals.iter().map(|eval| eval.at.stage).chain(side.stages.iter().map(|stage| stage.at.stage));
        let mut numbers: Vec<usize> = lines.collect();
        numbers.sort_unstable();
        numbers.dedup();
        rows.extend(numbers.into_iter().map(|number| stage_row(side, number)));
    }
    let header = [
        "branch",
        "stage",
        "level",
        "layers x width",
        "parameters",
        "entered by",
        "steps",
        "FLOPs",
        "seconds",
        "loss at start",
        "at end",
    ];
    page.table("", &header, &rows);
}

/// Appends the table of speed and memory.
pub fn speed(page: &mut Page, sides: &[&BranchLog]) {
    let row = |side: &&BranchLog| {
        let summary = side.summary.as_ref();
        let seen = side.evals.iter().filter_map(|eval| eval.resident_bytes).max();
        let memory = summary.and_then(|summary| summary.resident_bytes).max(seen);
        let rate = match side.end.seconds {
            s if s > 0.0 => format!("{:.1}", side.end.flops as f64 / s / 1e9),
            _ => String::new(),
        };
        let measured = |value: Option<f64>, digits: usize| value.map_or(String::new(), |v| format!("{v:.digits$}"));
        vec![
            side.name.clone(),
            measured(summary.and_then(|summary| summary.tokens_per_second), 0),
            rate,
            memory.map_or(String::new(), |bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 20))),
            in_seconds(side.end.seconds),
            measured(summary.and_then(|summary| summary.waited_seconds), 2),
        ]
    };
    let header =
        ["branch", "tokens/s", "GFLOP/s", "peak memory (MiB)", "seconds of training", "seconds waiting for batches"];
    page.table("", &header, &sides.iter().map(row).collect::<Vec<_>>());
}

/// Appends a table with a row and a bar for every operation, the slowest first.
pub fn operations(page: &mut Page, sides: &[&BranchLog]) {
    for side in sides {
        let Some(summary) = &side.summary else { continue };
        // The GPU ran each step as one captured graph: only operations outside of the graph were timed.
        if !summary.operations.iter().any(|operation| operation.name == "linear") {
            page.hint(
                "Steps ran as captured graphs, whose operations were not timed: `vcycle train --profile` times them.",
            );
            continue;
        }
        let mut all: Vec<&OperationTime> = summary.operations.iter().collect();
        all.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let longest = all.first().map_or(0.0, |operation| operation.seconds).max(f64::MIN_POSITIVE);
        let total = all.iter().map(|operation| operation.seconds).sum::<f64>().max(f64::MIN_POSITIVE);
        let rows = all.into_iter().map(|operation| {
            let OperationTime { name, calls, seconds, flops } = operation;
            let rate = if *seconds > 0.0 && *flops > 0 {
                format!("{:.1}", *flops as f64 / seconds / 1e9)
            } else {
                String::new()
            };
            format!(
                "<td>{}</td><td>{calls}</td><td>{seconds:.3}</td><td>{}</td>\
                 <td class=\"bar\"><div style=\"width:{:.1}%\"></div></td><td>{}</td><td>{rate}</td>",
                escape(name),
                percent(seconds / total),
                (100.0 * seconds / longest).clamp(0.0, 100.0),
                engineering(*flops as f64),
            )
        });
        let header = ["operation", "calls", "seconds", "share", "", "FLOPs", "GFLOP/s"];
        page.table_of(&format!("Time per operation: {}", side.name), &header, rows);
    }
}

/// Appends the text samples of the trained models.
pub fn samples(page: &mut Page, sides: &[&BranchLog]) {
    let samples = sides.iter().filter_map(|side| Some((*side, side.summary.as_ref()?.sample.as_ref()?)));
    for (number, (side, Sample { prompt, text })) in samples.enumerate() {
        if number == 0 {
            page.heading("Samples");
        }
        // The text may include the prompt.
        let text = text.strip_prefix(prompt.as_str()).unwrap_or(text);
        page.raw(&format!("<h3>{}</h3>\n<pre><b>{}</b>{}</pre>\n", escape(&side.name), escape(prompt), escape(text)));
    }
}

/// Appends how the run was started: `run.json` and `config.toml`.
pub fn about(page: &mut Page, run: &Run) {
    let shown = [
        ("command", "Command"),
        ("version", "Version"),
        ("revision", "Git revision"),
        ("device", "Device"),
        ("threads", "Threads"),
        ("machine", "Machine"),
        ("vector_unit", "Vector unit"),
        ("started", "Started"),
    ];
    let entries = shown.iter().filter_map(|(key, title)| Some((title, words(run.about.get(*key)?)?)));
    let list: String = entries.map(|(title, text)| format!("<dt>{title}</dt><dd>{}</dd>\n", escape(&text))).collect();
    match list.is_empty() {
        true => page.hint("The run has no run.json, so its command and machine are unknown."),
        false => page.raw(&format!("<dl>\n{list}</dl>\n")),
    }
    match &run.config {
        Some(text) => page.raw(&format!(
            "<details><summary>Configuration, with all defaults</summary>\n<pre>{}</pre></details>\n",
            escape(text)
        )),
        None => page.hint("The run has no config.toml."),
    }
}

/// Formats a value of `run.json`: text unchanged, a list as a command line.
fn words(value: &Value) -> Option<String> {
    let word = |value: &Value| match value {
        Value::String(text) if !text.is_empty() && !text.contains(char::is_whitespace) => text.clone(),
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    };
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(all) => Some(all.iter().map(word).collect::<Vec<_>>().join(" ")),
        other => Some(other.to_string()),
    }
}
