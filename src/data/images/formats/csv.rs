//! Reads small grey images from CSV: one image per line, with its values row by row and its label before or after them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Decoded, ImageFormat, Place, Sink, add_files};
use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::data::images::shard::MAX_CLASSES;
use crate::data::text::reader::TextReader;
use crate::error::Result;
use std::path::PathBuf;

/// One line for each square grey image: its values row by row and its label, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Csv {
    /// The table.
    pub file: PathBuf,
    /// The value of white. By default 16 if no value is larger, else 255.
    #[serde(default)]
    pub maximum: Option<u8>,
    /// The position of the label in a line.
    #[serde(default, skip_serializing_if = "is_default")]
    pub label: LabelColumn,
}

impl ImageFormat for Csv {
    fn channels(&self) -> usize {
        1
    }

    fn read(&self, sink: &mut Sink<'_>) -> Result<Vec<String>> {
        read(&self.file, self.maximum, self.label, sink).map(|()| Vec::new())
    }

    fn add_to(&self, print: &mut Fingerprint) -> Result<()> {
        print.add(format!("{:?}", self.maximum).as_bytes());
        if self.label == LabelColumn::First {
            print.add(b"label first");
        }
        add_files(print, "csv", [&self.file])
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.file)
    }

    fn remedy_for_gaps(&self) -> &'static str {
        match self.label {
            LabelColumn::First => "",
            LabelColumn::Last => "; if the label is the first column, set label = \"first\"",
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The longest line in bytes, enough for an image of about 500 x 500.
const LONGEST_LINE: usize = 1 << 20;
/// Number of characters of a field shown in an error.
const SHOWN: usize = 24;

/// The position of the label in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelColumn {
    /// The first column.
    First,
    /// The last column.
    #[default]
    Last,
}

/// Calls `each` with the number, counted from 1, and the text of every line that is not blank. If the first such line
/// is a header, it is skipped.
fn lines(path: &Path, each: &mut dyn FnMut(u64, &str) -> Result<()>) -> Result<()> {
    let mut reader = TextReader::open(path)?;
    let (mut text, mut number, mut goes_on, mut first) = (String::new(), 0, true, true);
    while goes_on {
        goes_on = reader.read(&mut text)?;
        let mut done = 0;
        while let Some(line) = text[done..].split_inclusive('\n').next().filter(|l| l.ends_with('\n') || !goes_on) {
            done += line.len();
            number += 1;
            let line = line.trim();
            if line.is_empty() || std::mem::take(&mut first) && is_header(line) {
                continue;
            }
            each(number, line)?;
        }
        text.drain(..done);
        if text.len() > LONGEST_LINE {
            bail!("{}: line {}: longer than {LONGEST_LINE} bytes; is this a CSV file?", path.display(), number + 1);
        }
    }
    Ok(())
}

/// Whether a line is a header: several fields of which none is empty or a number, or more than 16 fields that are the
/// column numbers 0, 1, 2, ..., as written for a table without column names.
fn is_header(line: &str) -> bool {
    let fields: Vec<&str> = line.split(',').map(field).collect();
    let numbered = fields.len() > 16 && fields.iter().enumerate().all(|(at, field)| field.parse() == Ok(at));
    let named = fields.len() > 1 && fields.iter().all(|field| !field.is_empty() && field.parse::<f64>().is_err());
    numbered || named
}

/// Strips whitespace and one pair of quotes from a field.
fn field(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).map_or(text, str::trim)
}

/// Parses a whole number, which may be written as `5.0`.
fn whole(text: &str) -> Option<usize> {
    let digits = match text.split_once('.') {
        Some((digits, zeros)) if zeros.bytes().all(|b| b == b'0') => digits,
        _ => text,
    };
    digits.parse().ok()
}

/// Parses a line into `values`, each at most `largest`, and returns its label.
fn parse(place: &Place<'_>, line: &str, (largest, label): (u8, LabelColumn), values: &mut Vec<u8>) -> Result<usize> {
    values.clear();
    let mut found = 0;
    let mut fields = line.split(',').map(field).enumerate().peekable();
    while let Some((i, text)) = fields.next() {
        let is_label = match label {
            LabelColumn::First => i == 0,
            LabelColumn::Last => fields.peek().is_none(),
        };
        let most = if is_label { MAX_CLASSES - 1 } else { usize::from(largest) };
        let Some(value) = whole(text).filter(|&value| value <= most) else {
            let shown: String = text.chars().take(SHOWN).collect();
            let dots = if shown.len() < text.len() { "..." } else { "" };
            let remedy = match () {
                () if !line.contains(',') => "columns must be separated by commas",
                () if i > 0 && text.is_empty() && fields.peek().is_none() => "the line ends with a comma; remove it",
                () => "give whole numbers with the label last, or first with label = \"first\"",
            };
            bail!(
                "{place}, column {}: {:?} is not {} from 0 to {most}; {remedy}",
                i + 1,
                format!("{shown}{dots}"),
                if is_label { "a label" } else { "a value" }
            );
        };
        if is_label { found = value } else { values.push(value as u8) }
    }
    Ok(found)
}

/// Passes every image to `sink`. Values are scaled so that `maximum` becomes 255. Without a `maximum`, the file is read
/// twice, first to find the largest value: the maximum is 16 if no value is larger, else 255.
pub(super) fn read(path: &Path, maximum: Option<u8>, label: LabelColumn, sink: &mut Sink<'_>) -> Result<()> {
    if maximum == Some(0) {
        bail!("maximum: 0 is not in 1..=255; set it to the value of white, such as 16 or 255");
    }
    let mut values = Vec::new();
    let place = |number| Place { path, unit: "line", number };
    let white = match maximum {
        Some(maximum) => maximum,
        None => {
            let mut largest = 0;
            lines(path, &mut |number, line| {
                parse(&place(number), line, (255, label), &mut values)?;
                largest = values.iter().copied().fold(largest, u8::max);
                Ok(())
            })?;
            if largest <= 16 { 16 } else { 255 }
        }
    };
    let mut count = None;
    lines(path, &mut |number, line| {
        let place = place(number);
        let label = parse(&place, line, (white, label), &mut values)?;
        let side = values.len().isqrt();
        if side == 0 || side * side != values.len() {
            bail!(
                "{place}: {} values do not make a square image; give as many columns as rows, plus the label",
                values.len()
            );
        }
        if *count.get_or_insert(values.len()) != values.len() {
            bail!("{place}: {} values, but the previous lines have {}", values.len(), count.unwrap_or_default());
        }
        let white = u32::from(white);
        values.iter_mut().for_each(|value| *value = ((u32::from(*value) * 255 + white / 2) / white) as u8);
        sink(Decoded { pixels: &values, shape: [1, side, side], label }, &place)
    })
}
