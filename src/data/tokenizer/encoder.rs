//! Text of any length to tokens, in bounded memory and on several threads.
//!
//! A text is cut into pieces of a few kilobytes where that changes no token. A piece ends with the text before it and one
//! character after it, so a text that comes bit by bit is cut, and encoded, like the same text at once.

use std::ops::Range;

use super::Tokenizer;
use crate::error::Result;

/// Bytes that go to the encoder's threads at once: its records take some hundred bytes a token.
const BATCH_BYTES: usize = 1 << 20;
/// Where no cut is exact, and longer than any line should be.
const LONG_PIECE_BYTES: usize = 1 << 20;
/// A text without any white space is cut after this, at any character.
const LONGEST_PIECE_BYTES: usize = 16 << 20;
pub const PIECE_BYTES: usize = 4 << 10;
/// Where a text is cut to train a byte-level tokenizer on it.
pub const TRAINING_CUT: Cut = Cut::BeforeNewline;

/// Where a text may be cut so that its pieces have the tokens of the whole.
///
/// GPT-2's pattern gives the last newline before a word its own token, so a cut before it is exact. Those since (GPT-4,
/// Llama 3, Qwen) join newlines to what is before them, so a cut after it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    BeforeNewline,
    AfterNewline,
    /// Neither is exact (SentencePiece puts a space before each piece): pieces are long, so that cuts are few.
    Rarely,
}

/// What takes tokens: those of a piece, and whether the piece begins a document.
pub type Sink<'a> = dyn FnMut(&[u32], bool) -> Result<()> + 'a;

/// See the module.
pub struct Encoder<'t> {
    tokenizer: &'t Tokenizer,
    cutter: Cutter,
    batch: Vec<(Range<usize>, bool)>,
    /// Whether the next piece begins a document.
    begins: bool,
}

impl<'t> Encoder<'t> {
    pub fn new(tokenizer: &'t Tokenizer) -> Self {
        let size = match tokenizer.cut() {
            Cut::Rarely => LONG_PIECE_BYTES,
            Cut::BeforeNewline | Cut::AfterNewline => PIECE_BYTES,
        };
        Encoder { tokenizer, cutter: Cutter::new(tokenizer.cut(), size), batch: Vec::new(), begins: true }
    }

    /// Goes on with the document.
    ///
    /// # Errors
    /// When the tokenizer has no token for a part of the text and none for the unknown; errors of `sink`.
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

    /// The document ends, so that none of its tokens reaches into the next one.
    ///
    /// # Errors
    /// As [`Encoder::push`].
    pub fn end_document(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        self.cut(true, sink)?;
        self.begins = true;
        Ok(())
    }

    /// The last document ends.
    ///
    /// # Errors
    /// As [`Encoder::push`].
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

/// A text that comes bit by bit and is cut into pieces.
pub(in crate::data) struct Cutter {
    cut: Cut,
    size: usize,
    text: String,
    /// Where the next piece begins, and the first place behind it where it may end.
    begin: usize,
    seen: usize,
}

impl Cutter {
    pub fn new(cut: Cut, size: usize) -> Self {
        Cutter { cut, size, text: String::new(), begin: 0, seen: 0 }
    }

    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The range of the next piece, whose text is [`Cutter::text`]; with `last`, the rest is one too.
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
                // A newline at the end is looked at again, with the character after it.
                self.seen = rest.len() - 1;
                None
            }
        }
    }

    /// The next piece as a text of its own.
    pub fn next_text(&mut self, last: bool) -> Option<String> {
        let range = self.next(last);
        let piece = range.map(|range| self.text[range].to_owned());
        if piece.is_none() {
            self.forget();
        }
        piece
    }

    /// Drops the pieces that were cut off.
    fn forget(&mut self) {
        self.text.drain(..self.begin);
        self.begin = 0;
    }
}

/// Cuts `text` into pieces of at least `size` bytes (the last may be shorter), at a newline that a character other than
/// white space follows. A piece that finds none ends at the first white space past [`LONG_PIECE_BYTES`].
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

/// Where the first piece of `text` ends, when that is not before `from`. `None`: it takes more text to tell, of which
/// with `last` there is none.
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

/// The first place from `at` on where a character of `text` ends.
fn character_end(text: &str, at: usize) -> usize {
    (at..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len())
}
