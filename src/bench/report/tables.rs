//! Builds the tables of a report.

use super::case::{Case, Contender, Ratio};
use super::grid::Grid;
use super::line::OURS;
use super::operations::Operations;
use crate::bench::table::significant;

/// The columns for what was measured, before the one for the contender.
const SUBJECT: [&str; 2] = ["case", "on"];

fn subject(case: &Case) -> Vec<String> {
    vec![case.subject.to_string(), case.subject.setting.to_string()]
}

fn head(more: &[&str]) -> Vec<String> {
    SUBJECT.iter().chain(more).map(|cell| (*cell).to_string()).collect()
}

fn figure(value: Option<f64>) -> String {
    value.map_or(String::new(), significant)
}

fn rounded(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| format!("{v:.0}"))
}

fn ratio(ratio: Option<Ratio>) -> String {
    ratio.map_or(String::new(), |r| match r.rounds {
        1 => format!("{:.3}", r.median),
        _ => format!("{:.3} ({:.3}..{:.3})", r.median, r.least, r.most),
    })
}

fn milliseconds(contender: Option<&Contender>) -> String {
    figure(contender.and_then(Contender::summary).map(|summary| summary.median))
}

/// Builds the table of ratios: a row for every version of vcycle and columns for every peer, for all cases with more
/// than one contender. Returns `None` if there are no rows.
pub fn ratios(cases: &[Case]) -> Option<Grid> {
    let mut peers: Vec<String> = Vec::new();
    for name in cases.iter().flat_map(|case| &case.peers).map(|peer| peer.who.unlabelled()) {
        if !peers.contains(&name) {
            peers.push(name);
        }
    }
    let mut columns = head(&["ours", "ms"]);
    columns.extend(peers.iter().flat_map(|peer| [format!("{peer} ms"), format!("ours / {peer}")]));
    columns.push("ours / first".to_string());
    let mut rows = Vec::new();
    for case in cases.iter().filter(|case| case.contenders().count() > 1) {
        for (number, ours) in case.ours.iter().enumerate() {
            let mut row = subject(case);
            row.extend([ours.who.to_string(), milliseconds(Some(ours))]);
            for peer in &peers {
                let rival = case.rival(ours, peer);
                row.extend([milliseconds(rival), ratio(rival.and_then(|rival| ours.over(rival)))]);
            }
            row.push(if number > 0 { ratio(ours.over(&case.ours[0])) } else { String::new() });
            rows.push(row);
        }
    }
    (!rows.is_empty()).then(|| Grid {
        caption: "Times, ours / theirs: below 1 ours is faster",
        head: columns,
        words: SUBJECT.len() + 1,
        rows,
        hint: format!(
            "ms is the median of the rounds' medians. ours / theirs is the ratio of the times of the same round: the \
             median over all rounds, and in parentheses the smallest and largest. first is the first version of {OURS} \
             in the files."
        ),
    })
}

/// Builds the table of figures, with a row for every contender.
pub fn figures(cases: &[Case]) -> Grid {
    let more = [
        "who",
        "rounds",
        "ms",
        "spread",
        "tokens/s",
        "GFLOP/s",
        "GB/s",
        "roofline",
        "MiB",
        "less 16 B/param",
        "J/step",
    ];
    let row = |case: &Case, contender: &Contender| {
        let summary = contender.summary();
        let (grown, less) = contender.memory();
        let percent = contender.median(|line| line.percent_of_roofline.or(line.percent_of_products));
        let mut row = subject(case);
        row.extend([
            contender.who.to_string(),
            contender.lines().count().to_string(),
            figure(summary.map(|s| s.median)),
            summary.filter(|s| s.runs > 1).map_or(String::new(), |s| format!("{:.1} %", 100.0 * s.spread)),
            rounded(contender.median(|line| line.tokens_per_s)),
            figure(contender.median(|line| line.gflops)),
            figure(contender.median(|line| line.gb_per_s)),
            percent.map_or(String::new(), |percent| format!("{percent:.0} %")),
            rounded(grown),
            rounded(less),
            figure(contender.median(|line| line.joules_per_step)),
        ]);
        row
    };
    Grid {
        caption: "Figures",
        head: head(&more),
        words: SUBJECT.len() + 1,
        rows: cases.iter().flat_map(|case| case.contenders().map(move |contender| row(case, contender))).collect(),
        hint:
            "All figures are medians over the rounds. spread: the interquartile range of the rounds' medians, divided \
               by their median. roofline: percentage of the roofline measured in the same process (for steps: of the \
               FLOP/s of the best matrix product). MiB: peak resident memory minus that at the start; then minus 16 \
               bytes for every parameter (weights, gradients and two moments in f32). J/step: energy of the whole chip."
                .to_string(),
    }
}

/// Builds the table of the time of each kind of operation, in milliseconds.
pub fn operations(operations: &Operations) -> Option<Grid> {
    let mut columns = head(&["ours", "sum"]);
    columns.extend(operations.names());
    let rows: Vec<_> = operations
        .bars()
        .map(|(case, bar)| {
            let mut row = subject(case);
            row.extend([bar.who.clone(), significant(bar.sum())]);
            row.extend(bar.parts.iter().map(|&ms| if ms > 0.0 { significant(ms) } else { String::new() }));
            row
        })
        .collect();
    (!rows.is_empty()).then(|| Grid {
        caption: "Where a step's time goes, in ms",
        head: columns,
        words: SUBJECT.len() + 1,
        rows,
        hint: "Operations are timed one by one, so their sum differs slightly from the time of a step.".to_string(),
    })
}
