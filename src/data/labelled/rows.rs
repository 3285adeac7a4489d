//! Parses the lines of a file of labelled texts.

use std::collections::HashMap;

use super::{ClassifyConfig, Column};
use crate::bail;
use crate::error::{Error, Result};

/// The label of SNLI's examples on whose label the annotators did not agree.
const NO_LABEL: &str = "-";

/// The example in a line of a file.
pub(in crate::data) struct Row<'a> {
    /// The line number, from 1.
    pub line: usize,
    /// The text, or the first text of a pair.
    pub first: &'a str,
    /// The second text of a pair.
    pub second: Option<&'a str>,
    pub label: &'a str,
}

impl Row<'_> {
    /// Returns an error about this line.
    pub fn wrong(&self, what: &str) -> Error {
        Error::new(format!("line {}: {what}", self.line))
    }
}

/// Parses the non-empty lines of a file. Returns the examples that have a label, in order, and notes for the user.
///
/// # Errors
/// Fails if a column does not exist, if a label is missing and [`ClassifyConfig::skip_unlabelled`] is not set, or if
/// there is no example.
pub(in crate::data) fn rows<'t>(text: &'t str, config: &ClassifyConfig) -> Result<(Vec<Row<'t>>, Vec<String>)> {
    // Some programs, following classic Mac OS, end lines with a carriage return only.
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
        Column::Number(0) => Err(Error::new("there is no column 0; columns are counted from 1")),
        Column::Number(number) => Ok(number - 1),
        Column::Name(name) => header.iter().position(|cell| cell.trim() == name).ok_or_else(|| {
            let commas = if header.len() == 1 && header[0].contains(',') {
                "; columns must be separated by tabs, not commas: write the file with tabs"
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
        // Two lines of QQP, for example, are truncated.
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
    // If the data has the label "+", then "-" is a label, too.
    let has_minus =
        config.classes.iter().flatten().any(|class| class == NO_LABEL) || rows.iter().any(|row| row.label == "+");
    let is_label = |row: &Row<'_>| row.label == NO_LABEL && has_minus;
    let (labelled, missing): (Vec<_>, Vec<_>) = unlabelled.into_iter().partition(is_label);
    match missing.first() {
        Some(row) if !config.skip_unlabelled => {
            return Err(row.wrong(&format!(
                "the label is missing ({:?}); correct or remove the line, or set data.task.skip_unlabelled = true to \
                 skip such lines",
                row.label
            )));
        }
        Some(row) => notes.push(format!(
            "{} of {} examples have no label (the first in line {}) and are skipped",
            missing.len(),
            missing.len() + labelled.len() + rows.len(),
            row.line
        )),
        None => {}
    }
    rows.extend(labelled);
    rows.sort_by_key(|row| row.line);
    if rows.is_empty() {
        bail!("the file has no examples; give a file with a labelled example on each line");
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

/// Turns a label like `1.0` into `1`, because programs write integer columns with missing values that way. A label that
/// [`ClassifyConfig::classes`] lists, or one of a regression, stays unchanged.
fn whole<'t>(label: &'t str, config: &ClassifyConfig) -> &'t str {
    let is_listed = config.regression || config.classes.iter().flatten().any(|class| class == label);
    match label.split_once('.') {
        Some((whole, rest)) if !is_listed && !whole.is_empty() && !rest.is_empty() => {
            let is_whole = whole.bytes().all(|b| b.is_ascii_digit()) && rest.bytes().all(|b| b == b'0');
            if is_whole { whole } else { label }
        }
        _ => label,
    }
}

/// Returns the error for a line with too few columns.
fn short(line: usize, text: &str, cells: &[&str], (at, what): (usize, &str)) -> Error {
    // Spreadsheets quote a text that contains a line end.
    let remedy = match cells[0].starts_with('"') && text.matches('"').count() % 2 == 1 {
        true => {
            "a quoted text continues in the next line, but each example must be one line: replace line ends within \
             texts"
        }
        false => "correct or remove the line",
    };
    Error::new(format!("line {line}: {} columns, but the {what} is column {}; {remedy}", cells.len(), at + 1))
}

/// Returns a warning if the first line looks like a header: its label occurs once, while all others are numbers or
/// occur more often.
fn looks_like_header(rows: &[Row<'_>]) -> Option<String> {
    let (first, rest) = rows.split_first()?;
    let is_number = |label: &str| label.parse::<f64>().is_ok();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    rest.iter().for_each(|row| *counts.entry(row.label).or_default() += 1);
    let others = counts.keys().all(|label| is_number(label)) || counts.values().all(|&count| count > 1);
    let alone = first.line == 1 && !is_number(first.label) && !counts.contains_key(first.label) && counts.len() > 1;
    (alone && others).then(|| {
        format!(
            "warning: line 1 has the label {:?}, which no other line has; set data.task.header = true if it names the \
             columns, or false if it does not",
            first.label
        )
    })
}
