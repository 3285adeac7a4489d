//! Reading a text file and holding part of it out.

use std::io::Read;
use std::path::Path;

use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

use crate::bail;
use crate::error::{Error, Result};
use crate::files;

/// Pieces a text without documents is cut into before some are held out.
const PIECES: usize = 100;

/// Text compresses to a fifth, and the same line again and again to a thousandth. Beyond it, a few bytes could fill all
/// memory; up to this many bytes nothing is refused.
const LARGEST_RATIO: u64 = 1_000;
const SMALL_TEXT: u64 = 64 << 20;

/// How a text is split into a training side and a held-out (validation) side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOut {
    /// A document starts at each line that starts with this. Anything before the first such line belongs to the first
    /// document. `None`: the text is cut at line ends into 100 roughly equal pieces instead.
    pub prefix: Option<String>,
    /// Of the documents or pieces, numbered from zero, numbers `every - 1`, `2 * every - 1`, ... are held out.
    pub every: usize,
}

/// Reads a UTF-8 text, or one compressed with Zstandard when the name ends in `.zst` (one or more frames).
///
/// # Errors
/// When the file is missing, unreadable, a folder, empty or only whitespace, not UTF-8 (with the byte offset and line
/// of the first bad byte), or a `.zst` file that is corrupt or cut short.
pub fn read_text(path: &Path) -> Result<String> {
    decode_text(path, read_bytes(path)?)
}

/// The bytes of a file as they are on disk.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    files::read(path, u64::MAX)
}

/// The text in `bytes`, the content of `path`.
pub(super) fn decode_text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    let place = path.display();
    if bytes.is_empty() {
        bail!("{place}: the file is empty; give a file with text in it");
    }
    let compressed = path.extension().is_some_and(|e| e == "zst");
    let bytes = if compressed { decompress(path, &bytes)? } else { bytes };
    let text = String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..offset].iter().filter(|&&b| b == b'\n').count();
        let (what, bytes) = if compressed { ("decompressed byte", "text") } else { ("byte", "file") };
        Error::new(format!(
            "{place}: not UTF-8 at {what} {offset} (line {line}); convert the {bytes} to UTF-8, for instance with \
             `iconv -f LATIN1 -t UTF-8`"
        ))
    })?;
    if text.trim().is_empty() {
        bail!("{place}: the text is only whitespace; give a file with text in it");
    }
    Ok(text)
}

fn decompress(path: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
    let corrupt = |rest: &[u8], error: &dyn std::fmt::Display| {
        Error::new(format!(
            "{}: corrupt Zstandard data in the frame or just before byte {}: {error}; fetch or compress the file again \
             (`zstd -t` checks it)",
            path.display(),
            bytes.len() - rest.len()
        ))
    };
    let most = SMALL_TEXT.max(bytes.len() as u64 * LARGEST_RATIO);
    let mut text = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut frame = match StreamingDecoder::new(&mut rest) {
            Ok(frame) => frame,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                rest = rest.get(length..).ok_or_else(|| corrupt(rest, &"a skippable frame is cut short"))?;
                continue;
            }
            Err(error) => return Err(corrupt(rest, &error)),
        };
        // One byte more than is allowed, to see whether there is one.
        let read = (&mut frame).take((most - text.len() as u64) + 1).read_to_end(&mut text);
        if text.len() as u64 > most {
            bail!(
                "{}: {} compressed bytes hold more than {most} bytes, as no text does; give the text itself",
                path.display(),
                bytes.len()
            );
        }
        let (stored, found) = (frame.decoder.get_checksum_from_data(), frame.decoder.get_calculated_checksum());
        drop(frame);
        read.map_err(|e| corrupt(rest, &e))?;
        if stored.is_some() && stored != found {
            return Err(corrupt(rest, &"the checksum does not match"));
        }
    }
    Ok(text)
}

/// Splits `text` into (training side, held-out side), each in the order of the text. See [`HeldOut`].
///
/// # Errors
/// When `every` is less than 2, when `prefix` starts no line, or when one side would be empty.
pub fn split(text: &str, held_out: &HeldOut) -> Result<(String, String)> {
    let every = held_out.every;
    if every < 2 {
        bail!(
            "data.held_out_every is {every}: that leaves nothing to train on; set it to 2 or more (10 holds out a tenth)"
        );
    }
    let (starts, unit) = match &held_out.prefix {
        Some(prefix) => (document_starts(text, prefix)?, "document"),
        None => (piece_starts(text), "piece"),
    };
    let mut train = String::with_capacity(text.len());
    let mut valid = String::new();
    for (number, &start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(text.len());
        let side = if number % every == every - 1 { &mut valid } else { &mut train };
        side.push_str(&text[start..end]);
    }
    let count = starts.len();
    if valid.trim().is_empty() {
        let remedy = match unit {
            "document" => {
                format!("set data.held_out_every to at most {count}, or check data.document_prefix")
            }
            _ => format!("set data.held_out_every to at most {count}, or give a text with more lines"),
        };
        let remedy = if count < 2 {
            "give a text with at least two, or another data.document_prefix".to_owned()
        } else {
            remedy
        };
        bail!(
            "nothing is held out: data.held_out_every is {every} and the text has {count} {unit}{}; {remedy}",
            if count == 1 { "" } else { "s" }
        );
    }
    if train.trim().is_empty() {
        bail!(
            "nothing is left to train on: data.held_out_every is {every} and all {count} {unit}s but the held-out ones \
             are blank; set data.held_out_every higher or give a longer text"
        );
    }
    Ok((train, valid))
}

/// Where each document starts: 0, then each further line that starts with `prefix`.
fn document_starts(text: &str, prefix: &str) -> Result<Vec<usize>> {
    if prefix.is_empty() {
        bail!(
            "data.document_prefix is empty, so every line would be a document; give the start of a document's first \
             line, or leave data.document_prefix out"
        );
    }
    if prefix.contains('\n') {
        bail!("data.document_prefix {prefix:?} spans lines and would never match; give the start of one line");
    }
    let mut offset = 0;
    let mut starts = Vec::new();
    for line in text.split_inclusive('\n') {
        if line.starts_with(prefix) {
            starts.push(offset);
        }
        offset += line.len();
    }
    match starts.first_mut() {
        Some(first) => *first = 0,
        None => bail!(
            "no line starts with data.document_prefix {prefix:?}; check it against the text, or leave it out to \
             split by size"
        ),
    }
    Ok(starts)
}

/// Where each of up to [`PIECES`] pieces starts. Fewer, when lines are longer than a piece.
fn piece_starts(text: &str) -> Vec<usize> {
    let mut starts = vec![0];
    for piece in 1..PIECES {
        // Widened, so that the product cannot overflow on a 32-bit machine.
        let target = (text.len() as u64 * piece as u64 / PIECES as u64) as usize;
        let from = target.max(1);
        let newline = text.as_bytes().get(from - 1..).and_then(|rest| rest.iter().position(|&b| b == b'\n'));
        let Some(newline) = newline else { break };
        let start = from + newline;
        if start < text.len() && starts.last() != Some(&start) {
            starts.push(start);
        }
    }
    starts
}
