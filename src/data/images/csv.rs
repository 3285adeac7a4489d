//! Small grey images as text: a line for each, its values row by row and then its label, with commas between.

use std::path::Path;

use super::shard::MAX_CLASSES;
use super::source::{Decoded, Place, Sink};
use crate::bail;
use crate::data::reader::TextReader;
use crate::error::Result;

/// The longest line in bytes: an image of some 500 x 500.
const LONGEST_LINE: usize = 1 << 20;

/// Calls `each` with the number, from 1, and text of each line that is not blank.
fn lines(path: &Path, each: &mut dyn FnMut(u64, &str) -> Result<()>) -> Result<()> {
    let mut reader = TextReader::open(path)?;
    let (mut text, mut number, mut goes_on) = (String::new(), 0, true);
    while goes_on {
        goes_on = reader.read(&mut text)?;
        let mut done = 0;
        while let Some(line) = text[done..].split_inclusive('\n').next().filter(|l| l.ends_with('\n') || !goes_on) {
            done += line.len();
            number += 1;
            if !line.trim().is_empty() {
                each(number, line.trim())?;
            }
        }
        text.drain(..done);
        if text.len() > LONGEST_LINE {
            bail!("{}: line {}: longer than {LONGEST_LINE} bytes; is it a table?", path.display(), number + 1);
        }
    }
    Ok(())
}

/// Parses the values and the label of a line.
fn parse(place: &Place<'_>, line: &str, largest: u8, values: &mut Vec<u8>) -> Result<usize> {
    values.clear();
    let mut fields = line.split(',').map(str::trim).enumerate().peekable();
    while let Some((i, field)) = fields.next() {
        let most = if fields.peek().is_some() { usize::from(largest) } else { MAX_CLASSES - 1 };
        let Some(value) = field.parse::<usize>().ok().filter(|&value| value <= most) else {
            let what = if most < MAX_CLASSES - 1 { "a value" } else { "a label" };
            bail!(
                "{place}, column {}: {field:?} is not {what} from 0 to {most}; give whole numbers, the label last, no header",
                i + 1
            );
        };
        match fields.peek() {
            Some(_) => values.push(value as u8),
            None => return Ok(value),
        }
    }
    unreachable!("splitting gives at least one field")
}

/// Hands on all images. Values are scaled so that `maximum` becomes 255.
pub(super) fn read(path: &Path, maximum: Option<u8>, sink: &mut Sink<'_>) -> Result<()> {
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
                parse(&place(number), line, 255, &mut values)?;
                largest = values.iter().copied().fold(largest, u8::max);
                Ok(())
            })?;
            if largest <= 16 { 16 } else { 255 }
        }
    };
    let mut count = None;
    lines(path, &mut |number, line| {
        let place = place(number);
        let label = parse(&place, line, white, &mut values)?;
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
