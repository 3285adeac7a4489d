//! Small grey images as text: a line for each, its values row by row and its label before or after them, with commas between.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::shard::MAX_CLASSES;
use super::source::{Decoded, Place, Sink};
use crate::bail;
use crate::data::text::reader::TextReader;
use crate::error::Result;

/// The longest line in bytes: an image of some 500 x 500.
const LONGEST_LINE: usize = 1 << 20;
/// Characters of a field that an error shows.
const SHOWN: usize = 24;

/// Where in a line its label stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelPlace {
    First,
    #[default]
    Last,
}

/// Calls `each` with the number, from 1, and text of each line that is not blank. The first one may be a header, and is left out
/// then.
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
            bail!("{}: line {}: longer than {LONGEST_LINE} bytes; is it a table?", path.display(), number + 1);
        }
    }
    Ok(())
}

/// Names of columns: no number among several, or all their own numbers, as of a table without names.
fn is_header(line: &str) -> bool {
    let fields: Vec<&str> = line.split(',').map(field).collect();
    let numbered = fields.len() > 16 && fields.iter().enumerate().all(|(at, field)| field.parse() == Ok(at));
    let named = fields.len() > 1 && fields.iter().all(|field| !field.is_empty() && field.parse::<f64>().is_err());
    numbered || named
}

/// A field without what programs put around it.
fn field(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).map_or(text, str::trim)
}

/// A whole number, also as `5.0`.
fn whole(text: &str) -> Option<usize> {
    let digits = match text.split_once('.') {
        Some((digits, zeros)) if zeros.bytes().all(|b| b == b'0') => digits,
        _ => text,
    };
    digits.parse().ok()
}

/// Parses the values and the label of a line.
fn parse(place: &Place<'_>, line: &str, (largest, label): (u8, LabelPlace), values: &mut Vec<u8>) -> Result<usize> {
    values.clear();
    let mut found = 0;
    let mut fields = line.split(',').map(field).enumerate().peekable();
    while let Some((i, text)) = fields.next() {
        let is_label = match label {
            LabelPlace::First => i == 0,
            LabelPlace::Last => fields.peek().is_none(),
        };
        let most = if is_label { MAX_CLASSES - 1 } else { usize::from(largest) };
        let Some(value) = whole(text).filter(|&value| value <= most) else {
            let shown: String = text.chars().take(SHOWN).collect();
            let dots = if shown.len() < text.len() { "..." } else { "" };
            let remedy = match () {
                () if !line.contains(',') => "columns are separated by commas: write the file with commas",
                () if i > 0 && text.is_empty() && fields.peek().is_none() => "the line ends with a comma: remove it",
                () => "give whole numbers, the label last or with label = \"first\" first",
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

/// Hands on all images. Values are scaled so that `maximum` becomes 255.
pub(super) fn read(path: &Path, maximum: Option<u8>, label: LabelPlace, sink: &mut Sink<'_>) -> Result<()> {
    if maximum == Some(0) {
        bail!("maximum: 0 leaves no values; give the value of white, as 16 or 255");
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
            bail!("{place}: {} values are no square image; give as many columns as rows, and the label", values.len());
        }
        if *count.get_or_insert(values.len()) != values.len() {
            bail!("{place}: {} values, but the lines before have {}", values.len(), count.unwrap_or_default());
        }
        let white = u32::from(white);
        values.iter_mut().for_each(|value| *value = ((u32::from(*value) * 255 + white / 2) / white) as u8);
        sink(Decoded { pixels: &values, shape: [1, side, side], label }, &place)
    })
}
