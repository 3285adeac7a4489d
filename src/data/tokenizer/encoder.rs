//! Encodes text of any length as tokens, in bounded memory and on several threads.
//!
//! The text is cut into pieces of a few kilobytes at places where a cut changes no token. Whether to cut depends only
//! on the text before the cut and one character after it, so a text that arrives in parts gives the same pieces and
//! tokens as the whole text.

use std::ops::Range;

use super::Tokenizer;
use crate::error::Result;

/// The bytes of text encoded at once on all threads. It is bounded because the tokenizers library needs about a hundred
/// bytes per token.
const BATCH_BYTES: usize = 1 << 20;
/// The piece size where no cut is exact. Also the size after which a piece may end at any whitespace; no line should be
/// longer.
const LONG_PIECE_BYTES: usize = 1 << 20;
/// The size after which a piece of a text without whitespace ends at any character.
const LONGEST_PIECE_BYTES: usize = 16 << 20;
/// The smallest piece size where cuts are exact.
pub const PIECE_BYTES: usize = 4 << 10;
/// Where a text is cut to train a byte-level tokenizer on it.
pub const TRAINING_CUT: Cut = Cut::BeforeNewline;

/// Where a text may be cut so that its pieces have the same tokens as the whole.
///
/// GPT-2's pattern gives the last newline before a word its own token, so a cut before it is exact. Newer patterns
/// (GPT-4, Llama 3, Qwen) join newlines to the text before them, so a cut after it is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Before a newline that a character other than whitespace follows.
    BeforeNewline,
    /// After such a newline.
    AfterNewline,
    /// Neither is exact (SentencePiece puts a space before each piece), so pieces are long to make cuts rare.
    Rarely,
}

/// A consumer of tokens. Its arguments are the tokens of a piece and whether the piece begins a document.
pub type Sink<'a> = dyn FnMut(&[u32], bool) -> Result<()> + 'a;

/// Encodes a sequence of documents that arrive in parts.
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    cutter: Cutter,
    /// The pieces to encode next, each with whether it begins a document.
    batch: Vec<(Range<usize>, bool)>,
    /// Whether the next piece begins a document.
    begins: bool,
}

impl<'t> Encoder<'t> {
    /// Returns an encoder at the start of a document.
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        let size = match tokenizer.cut() {
            Cut::Rarely => LONG_PIECE_BYTES,
            Cut::BeforeNewline | Cut::AfterNewline => PIECE_BYTES,
        };
        Encoder { tokenizer, cutter: Cutter::new(tokenizer.cut(), size), batch: Vec::new(), begins: true }
    }

    /// Appends text to the current document. `sink` gets the tokens of complete pieces.
    ///
    /// # Errors
    /// Fails if the tokenizer has neither tokens for a part of the text nor an unknown token, and on errors of `sink`.
    pub fn push(&mut self, text: &str, sink: &mut Sink<'_>) -> Result<()> {
        let mut rest = text;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(character_end(rest, BATCH_BYTES));
            rest = after;
            self.cutter.push(part);
            self.cut(false, sink)?;
        }
        Ok(())
    }

    /// Ends the current document, so that no token spans it and the next one.
    ///
    /// # Errors
    /// See [`Encoder::push`].
    pub fn end_document(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        self.cut(true, sink)?;
        self.begins = true;
        Ok(())
    }

    /// Ends the last document and passes all remaining tokens to `sink`.
    ///
    /// # Errors
    /// See [`Encoder::push`].
    pub fn finish(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        self.end_document(sink)?;
        self.encode(sink)
    }

    fn cut(&mut self, last: bool, sink: &mut Sink<'_>) -> Result<()> {
        while let Some(piece) = self.cutter.next(last) {
            let full = piece.end >= BATCH_BYTES;
            self.batch.push((piece, std::mem::take(&mut self.begins)));
            if full {
                self.encode(sink)?;
            }
        }
        Ok(())
    }

    fn encode(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        let pieces = self.batch.iter().map(|(range, _)| &self.cutter.text[range.clone()]).collect();
        let encodings = self.tokenizer.encode_pieces(pieces)?;
        for (encoding, (_, begins)) in encodings.iter().zip(self.batch.drain(..)) {
            sink(encoding.get_ids(), begins)?;
        }
        self.cutter.forget();
        Ok(())
    }
}

/// Cuts a text that arrives in parts into pieces.
pub(in crate::data) struct Cutter {
    cut: Cut,
    size: usize,
    text: String,
    /// The offset in `text` where the next piece begins.
    begin: usize,
    /// The offset from `begin` before which the piece does not end.
    seen: usize,
}

impl Cutter {
    /// Returns a cutter of pieces of at least `size` bytes, except for the last one.
    pub fn new(cut: Cut, size: usize) -> Self {
        Cutter { cut, size, text: String::new(), begin: 0, seen: 0 }
    }

    /// Appends text.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Returns the range of the next piece in `text`, or `None` if more text is needed. With `last`, the rest is a
    /// piece, too.
    fn next(&mut self, last: bool) -> Option<Range<usize>> {
        let rest = &self.text[self.begin..];
        if rest.is_empty() {
            return None;
        }
        match piece_end(rest, self.cut, self.size, self.seen, last) {
            Some(end) => {
                let range = self.begin..self.begin + end;
                (self.begin, self.seen) = (range.end, 0);
                Some(range)
            }
            None => {
                // A newline at the end is checked again once the character after it is known.
                self.seen = rest.len() - 1;
                None
            }
        }
    }

    /// Returns the next piece as a string; see [`Cutter::next`].
    pub fn next_text(&mut self, last: bool) -> Option<String> {
        let range = self.next(last);
        let piece = range.map(|range| self.text[range].to_owned());
        if piece.is_none() {
            self.forget();
        }
        piece
    }

    /// Drops the text of the pieces that were returned.
    fn forget(&mut self) {
        self.text.drain(..self.begin);
        self.begin = 0;
    }
}

/// Cuts `text` into pieces of at least `size` bytes (the last may be shorter), each at a newline that is followed by a
/// character other than whitespace. If there is no such newline, the piece ends at the first whitespace after
/// [`LONG_PIECE_BYTES`].
pub(in crate::data) fn pieces(text: &str, cut: Cut, size: usize) -> impl Iterator<Item = &str> + Send {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = piece_end(rest, cut, size, 0, true).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

/// Returns where the first piece of `text` ends, searching from offset `from`, or `None` if more text is needed to
/// decide. With `last`, no more text follows, and the result is never `None`.
fn piece_end(text: &str, cut: Cut, size: usize, from: usize, last: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let longest = LONG_PIECE_BYTES.max(size);
    for at in from.max(size)..bytes.len() {
        if bytes[at] == b'\n' {
            match text[at + 1..].chars().next() {
                Some(after) if after.is_whitespace() => {}
                Some(_) => {
                    return Some(match cut {
                        Cut::BeforeNewline => at,
                        Cut::AfterNewline | Cut::Rarely => at + 1,
                    });
                }
                None if last => {}
                None => return None,
            }
        }
        let space = at > longest && bytes[at].is_ascii_whitespace();
        if space || (at >= LONGEST_PIECE_BYTES && text.is_char_boundary(at)) {
            return Some(at);
        }
    }
    last.then_some(bytes.len())
}

/// Returns the first character boundary of `text` at or after `at`.
fn character_end(text: &str, at: usize) -> usize {
    (at..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len())
}
