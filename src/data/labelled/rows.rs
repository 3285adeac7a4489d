//! The lines of a file of labelled texts.

use std::collections::HashMap;

use super::{ClassifyConfig, Column};
use crate::bail;
use crate::error::{Error, Result};

/// What SNLI has in place of a label that its judges did not agree on.
const NO_LABEL: &str = "-";

/// A line of a file.
pub(in crate::data) struct Row<'a> {
    /// From 1 on.
    pub line: usize,
    pub first: &'a str,
    pub second: Option<&'a str>,
    pub label: &'a str,
}

impl Row<'_> {
    pub fn wrong(&self, what: &str) -> Error {
        Error::new(format!("line {}: {what}", self.line))
    }
}

/// The lines of a file that are not empty and have a label, and what a person should know about them.
pub(in crate::data) fn rows<'t>(text: &'t str, config: &ClassifyConfig) -> Result<(Vec<Row<'t>>, Vec<String>)> {
    // Some programs of old Macs, and some that follow them, end lines with a carriage return alone.
    let end = if text.contains('\n') { '\n' } else { '\r' };
    let lines = text.split(end);
    let mut lines =
        lines.map(|line| line.strip_suffix('\r').unwrap_or(line)).zip(1..).filter(|(line, _)| !line.is_empty());
    let columns = [Some(&config.sentence), config.second.as_ref(), Some(&config.label)];
    let named = columns.iter().flatten().any(|column| matches!(column, Column::Name(_)));
    let has_header = config.header.unwrap_or(named);
    let header: Vec<&str> = match has_header {
        true => lines.next().map_or(Vec::new(), |(line, _)| line.split('\t').collect()),
        false => Vec::new(),
    };
    let place = |column: &Column| match column {
        Column::Number(0) => Err(Error::new("columns are counted from 1; there is none of number 0")),
        Column::Number(number) => Ok(number - 1),
        Column::Name(name) => header.iter().position(|cell| cell.trim() == name).ok_or_else(|| {
            let commas = if header.len() == 1 && header[0].contains(',') {
                "; columns are separated by tabs, not by commas: write the file with tabs"
            } else {
                "; name one of these"
            };
            let cells = if header.is_empty() { "no header".to_owned() } else { header.join(", ") };
            Error::new(format!("no column {name:?} in the first line, which has: {cells}{commas}"))
        }),
    };
    let [sentence, second, label] = columns.map(|column| column.map(place).transpose());
    let (sentence, second, label) = (sentence?, second?, label?);
    let (mut rows, mut unlabelled) = (Vec::new(), Vec::new());
    for (text, line) in lines {
        let cells: Vec<&str> = text.split('\t').collect();
        let cell = |at: usize, what: &str| match cells.get(at) {
            Some(cell) => Ok(cell.trim()),
            None => Err(short(line, text, &cells, (at, what))),
        };
        // As two lines of QQP, which end in the middle.
        if config.skip_unlabelled && cells.len() <= label.unwrap_or_default() {
            unlabelled.push(Row { line, first: "", second: second.map(|_| ""), label: "" });
            continue;
        }
        let first = cell(sentence.unwrap_or_default(), "sentence")?;
        let second = second.map(|at| cell(at, "second sentence")).transpose()?;
        let label = whole(cell(label.unwrap_or_default(), "label")?, config);
        let row = Row { line, first, second, label };
        if label.is_empty() || label == NO_LABEL { unlabelled.push(row) } else { rows.push(row) }
    }
    let mut notes = Vec::new();
    // Where + is a label, - is its opposite.
    let has_minus =
        config.classes.iter().flatten().any(|class| class == NO_LABEL) || rows.iter().any(|row| row.label == "+");
    let is_label = |row: &Row<'_>| row.label == NO_LABEL && has_minus;
    let (labelled, missing): (Vec<_>, Vec<_>) = unlabelled.into_iter().partition(is_label);
    match missing.first() {
        Some(row) if !config.skip_unlabelled => {
            return Err(row.wrong(&format!(
                "the label is missing ({:?}); correct or remove the line, or set data.task.skip_unlabelled = true, which \
                 passes over such lines",
                row.label
            )));
        }
        Some(row) => notes.push(format!(
            "{} of {} examples have no label (the first in line {}) and are passed over",
            missing.len(),
            missing.len() + labelled.len() + rows.len(),
            row.line
        )),
        None => {}
    }
    rows.extend(labelled);
    rows.sort_by_key(|row| row.line);
    if rows.is_empty() {
        bail!("has no example; give a file with one on each line, with its label");
    }
    let textless = |row: &&Row<'_>| row.first.is_empty() || row.second.is_some_and(str::is_empty);
    if let Some(first) = rows.iter().find(textless) {
        notes.push(format!(
            "warning: {} of {} examples have an empty text; the first is in line {}",
            rows.iter().filter(textless).count(),
            rows.len(),
            first.line
        ));
    }
    if !has_header && config.header.is_none() {
        notes.extend(looks_like_header(&rows));
    }
    Ok((rows, notes))
}

/// `1.0` is 1, as tables with numbers and gaps are written, unless the classes are told to be written like that.
fn whole<'t>(label: &'t str, config: &ClassifyConfig) -> &'t str {
    let told = config.regression || config.classes.iter().flatten().any(|class| class == label);
    match label.split_once('.') {
        Some((whole, rest)) if !told && !whole.is_empty() && !rest.is_empty() => {
            let is_whole = whole.bytes().all(|b| b.is_ascii_digit()) && rest.bytes().all(|b| b == b'0');
            if is_whole { whole } else { label }
        }
        _ => label,
    }
}

/// A line with too few columns.
fn short(line: usize, text: &str, cells: &[&str], (at, what): (usize, &str)) -> Error {
    // Spreadsheets put quotes around a text with a line end in it.
    let remedy = match cells[0].starts_with('"') && text.matches('"').count() % 2 == 1 {
        true => "a text in quotes goes on in the next line, and an example is one line: replace line ends within texts",
        false => "correct or remove the line",
    };
    Error::new(format!("line {line}: {} columns, but the {what} is column {}; {remedy}", cells.len(), at + 1))
}

/// Says that the first line may name the columns: its label occurs once, while all others are numbers or occur more often.
fn looks_like_header(rows: &[Row<'_>]) -> Option<String> {
    let (first, rest) = rows.split_first()?;
    let is_number = |label: &str| label.parse::<f64>().is_ok();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    rest.iter().for_each(|row| *counts.entry(row.label).or_default() += 1);
    let others = counts.keys().all(|label| is_number(label)) || counts.values().all(|&count| count > 1);
    let alone = first.line == 1 && !is_number(first.label) && !counts.contains_key(first.label) && counts.len() > 1;
    (alone && others).then(|| {
        format!(
            "warning: line 1 has the label {:?}, which no other line has; if it names the columns, set data.task.header = \
             true (and if not, false)",
            first.label
        )
    })
}
