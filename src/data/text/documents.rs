//! Splits a stream of texts into documents, in bounded memory.
//!
//! In a plain text file, documents are delimited by lines ([`Division::Prefix`], [`Division::Separator`]), or the text
//! is cut into pieces of about equal size ([`Division::Pieces`]). In a JSON lines file, every line holds one document.
//! A file is JSON lines if its name ends in `.jsonl` or `.ndjson`, or if its first line is a JSON object; the latter is
//! an error for names of plain text (`.txt`, `.md`). Documents are numbered from zero across all files. Every file
//! begins a new document. Documents without text are skipped and get no number.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::json_line;
use super::json_line::Fault;
use super::reader::TextReader;
use crate::bail;
use crate::error::{Error, Result};
use crate::files::shell_quote;

/// The number of pieces that a text without documents is cut into, some of which are held out.
const PIECES: u64 = 100;
/// When pieces may end at word boundaries, a piece ends anywhere after this number of bytes without whitespace.
const LONGEST_WORD: u64 = 64;
/// The longest JSON line that is read, in bytes. A longer one is a mistake.
const LONGEST_LINE: usize = 256 << 20;

/// Where the documents of a plain text begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Division {
    /// At each line that starts with this prefix. Text before the first such line of a file belongs to its first
    /// document.
    Prefix(String),
    /// After each line that equals this separator. The line itself belongs to no document.
    Separator(String),
    /// The text is cut into about 100 pieces of about equal size, which end at line ends.
    Pieces {
        /// Number of bytes of all plain texts ([`text_bytes`]).
        total: u64,
        /// Whether a piece may also end at a word boundary, or at any character if there is no whitespace nearby. For
        /// texts with hardly any line ends.
        words: bool,
    },
}

/// The format of a text file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    JsonLines,
    /// JSON lines by its content, plain text by its name.
    Disguised,
    /// A single JSON document rather than an object per line.
    Json,
}

/// The number of bytes of the first line that are examined.
const FIRST_LINE: usize = 1 << 20;

/// Detects the format of a file. A name that ends in `.jsonl` or `.ndjson` decides. Otherwise the content does: a file
/// whose first line is a JSON object is JSON lines.
fn form(path: &Path) -> Form {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name = name.strip_suffix(".zst").or_else(|| name.strip_suffix(".gz")).unwrap_or(&name);
    if name.ends_with(".jsonl") || name.ends_with(".ndjson") {
        return Form::JsonLines;
    }
    // Errors are ignored here: the same file is read again by code that reports them.
    let first = first_line(path).unwrap_or_default();
    let object = match first.strip_suffix('\n') {
        Some(line) => json_line::is_object(line),
        None if first.len() < FIRST_LINE => json_line::is_object(&first),
        None => first.trim_start().strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with('"')),
    };
    match () {
        () if object && (name.ends_with(".txt") || name.ends_with(".md")) => Form::Disguised,
        () if object => Form::JsonLines,
        () if name.ends_with(".json") && first.trim_start().starts_with(['{', '[']) => Form::Json,
        () => Form::Text,
    }
}

fn first_line(path: &Path) -> Result<String> {
    let (mut reader, mut text) = (TextReader::open(path)?, String::new());
    while !text.contains('\n') && text.len() < FIRST_LINE && reader.read(&mut text)? {}
    if let Some(end) = text.find('\n') {
        text.truncate(end + 1);
    }
    Ok(text)
}

/// Returns whether a file is in the JSON lines format. It may be compressed.
pub fn is_json_lines(path: &Path) -> bool {
    form(path) == Form::JsonLines
}

/// Returns whether a file is in the JSON lines format, like [`is_json_lines`], and rejects JSON that would be read as
/// prose.
///
/// # Errors
/// Fails if the file is JSON lines but its name says plain text, or if it is a single JSON document.
pub fn check_form(path: &Path) -> Result<bool> {
    match form(path) {
        Form::Text => Ok(false),
        Form::JsonLines => Ok(true),
        Form::Disguised => bail!(
            "{}: the first line is a JSON object, but the file name says plain text; rename it to .jsonl to read the \
             text in each line, or begin it with an empty line to treat braces and keys as part of the text",
            path.display()
        ),
        Form::Json => bail!(
            "{}: the file is a single JSON document, expected one JSON object per line; convert it, for example a list \
             of objects with `jq -c '.[]' {} > {}`",
            path.display(),
            shell_quote(path),
            shell_quote(&path.with_extension("jsonl"))
        ),
    }
}

/// A part of a document.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The number of the document.
    pub document: u64,
    /// Whether this is the first part of the document.
    pub begins: bool,
    /// The text, never empty.
    pub text: &'a str,
}

/// Reads files one after another and splits their text into documents.
pub struct Documents {
    /// The files that were not opened yet, in reverse order.
    left: Vec<PathBuf>,
    division: Division,
    /// The key of a JSON line's text.
    field: String,
    reader: Option<TextReader>,
    json: bool,
    /// Text that was read from the current file; the part from `at` on was not returned yet.
    text: String,
    at: usize,
    /// Whether the current file was read to its end.
    ended: bool,
    /// Whether `at` is at the start of a line that was not checked for a mark yet.
    line_start: bool,
    /// Whether the next text belongs to a new document.
    fresh: bool,
    /// Whether the current file had a mark (a line with the prefix, or a separator) so far.
    marked: bool,
    /// The number of marks in all files so far.
    marks: u64,
    /// The number of documents that began so far.
    documents: u64,
    /// The number of bytes of all plain texts before `at`.
    passed: u64,
    /// The number of the next piece to cut off, from 1.
    piece: u64,
    /// The part of the current JSON line that was read so far.
    line: String,
    line_number: u64,
    /// The text of the last JSON line.
    document: String,
}

/// The result of scanning the text that was read so far.
enum Step {
    /// This range of `text` can be returned. With `ends`, it is the end of a document.
    Text { range: Range<usize>, ends: bool },
    /// The document in `document` can be returned.
    Json,
    /// More text must be read first.
    More,
}

/// Whether a text begins with a mark.
enum Mark {
    No,
    /// It does, and this number of bytes belong to no document.
    Yes(usize),
    /// The text is too short to tell.
    Unknown,
}

impl Documents {
    /// Returns a reader of the documents of `inputs`. `field` is the key of the text in JSON lines.
    pub fn new(inputs: &[PathBuf], division: Division, field: &str) -> Self {
        Documents {
            left: inputs.iter().rev().cloned().collect(),
            division,
            field: field.to_owned(),
            reader: None,
            json: false,
            text: String::new(),
            at: 0,
            ended: false,
            line_start: true,
            fresh: true,
            marked: false,
            marks: 0,
            documents: 0,
            passed: 0,
            piece: 1,
            line: String::new(),
            line_number: 1,
            document: String::new(),
        }
    }

    /// Returns a reader of the documents of a text in memory.
    pub(in crate::data) fn in_memory(text: &str, division: Division) -> Self {
        let mut documents = Self::new(&[], division, "");
        documents.reader = Some(TextReader::in_memory(Path::new("text"), text.as_bytes().to_vec()));
        documents
    }

    /// Returns the number of documents that began so far.
    pub fn count(&self) -> u64 {
        self.documents
    }

    /// Returns the number of marks so far: lines that start with the prefix, or separators.
    pub fn marks(&self) -> u64 {
        self.marks
    }

    /// Returns the next part of a document, or `None` at the end of the last file.
    ///
    /// # Errors
    /// Fails on errors of [`TextReader`] and [`check_form`], and if a JSON line is not an object, has no string under
    /// the key, or is longer than 256 MiB; the message names the file and line.
    pub fn next_part(&mut self) -> Result<Option<Part<'_>>> {
        loop {
            if self.reader.is_none() {
                let Some(path) = self.left.pop() else { return Ok(None) };
                self.json = check_form(&path)?;
                self.reader = Some(TextReader::open(&path)?);
                (self.ended, self.line_start, self.fresh, self.marked, self.line_number) =
                    (false, true, true, false, 1);
            }
            let step = match &self.division {
                _ if self.json => self.json_step()?,
                Division::Pieces { total, words } => self.piece_step(*total, *words),
                Division::Prefix(_) | Division::Separator(_) => self.line_step(),
            };
            let begins = self.fresh;
            match step {
                Step::More => {
                    self.refill()?;
                    continue;
                }
                Step::Text { range, ends } => {
                    self.at = range.end;
                    self.passed += range.len() as u64;
                    let document = self.number(ends);
                    return Ok(Some(Part { document, begins, text: &self.text[range] }));
                }
                Step::Json => {
                    let document = self.number(true);
                    return Ok(Some(Part { document, begins, text: &self.document }));
                }
            }
        }
    }

    /// Returns the number of the document that the current text belongs to. `ends`: it is the last text of that
    /// document.
    fn number(&mut self, ends: bool) -> u64 {
        self.documents += u64::from(self.fresh);
        self.fresh = ends;
        self.documents - 1
    }

    /// Reads more text, or closes the file at its end.
    fn refill(&mut self) -> Result<()> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        self.text.drain(..self.at);
        self.at = 0;
        if self.ended {
            self.text.clear();
            self.reader = None;
        } else {
            self.ended = !reader.read(&mut self.text)?;
        }
        Ok(())
    }

    fn line_step(&mut self) -> Step {
        while self.line_start && self.at < self.text.len() {
            match self.mark(&self.text[self.at..]) {
                Mark::Unknown => return Step::More,
                Mark::No => self.line_start = false,
                Mark::Yes(skip) => {
                    self.marks += 1;
                    // Text before the first line with the prefix belongs to the first document, so that line begins
                    // none.
                    let begins = skip > 0 || self.marked;
                    self.fresh |= begins;
                    self.marked = true;
                    self.at += skip;
                    self.passed += skip as u64;
                    self.line_start = skip > 0;
                }
            }
        }
        if self.at == self.text.len() {
            return Step::More;
        }
        let mut end = self.at;
        loop {
            let Some(newline) = self.text[end..].find('\n') else {
                return Step::Text { range: self.at..self.text.len(), ends: false };
            };
            end += newline + 1;
            let rest = &self.text[end..];
            if rest.is_empty() || !matches!(self.mark(rest), Mark::No) {
                self.line_start = true;
                return Step::Text { range: self.at..end, ends: false };
            }
        }
    }

    /// Returns whether `rest`, which starts at the start of a line, begins with a mark.
    fn mark(&self, rest: &str) -> Mark {
        let unknown = if self.ended { Mark::No } else { Mark::Unknown };
        match &self.division {
            Division::Pieces { .. } => Mark::No,
            Division::Prefix(prefix) if rest.starts_with(prefix) => Mark::Yes(0),
            Division::Prefix(prefix) if prefix.starts_with(rest) => unknown,
            Division::Prefix(_) => Mark::No,
            Division::Separator(line) => match rest.strip_prefix(line.as_str()) {
                Some("" | "\r") if self.ended => Mark::Yes(rest.len()),
                Some("" | "\r") => Mark::Unknown,
                Some(after) if after.starts_with('\n') => Mark::Yes(line.len() + 1),
                Some(after) if after.starts_with("\r\n") => Mark::Yes(line.len() + 2),
                None if line.starts_with(rest) => unknown,
                Some(_) | None => Mark::No,
            },
        }
    }

    fn piece_step(&mut self, total: u64, words: bool) -> Step {
        if self.at == self.text.len() {
            return Step::More;
        }
        // A piece ends with the first line that ends at or after its share of the text. u128 avoids an overflow.
        let last = |piece: u64| ((u128::from(total) * u128::from(piece) / u128::from(PIECES)) as u64).max(1) - 1;
        // A line that is longer than a piece ends several pieces.
        while self.piece < PIECES && last(self.piece) < self.passed && self.fresh {
            self.piece += 1;
        }
        let whole = Step::Text { range: self.at..self.text.len(), ends: false };
        if self.piece >= PIECES {
            return whole;
        }
        let from = last(self.piece).saturating_sub(self.passed);
        let rest = &self.text.as_bytes()[self.at..];
        let Some(rest) = usize::try_from(from).ok().and_then(|from| rest.get(from..)) else { return whole };
        let begin = self.text.len() - rest.len();
        // A piece that is more than LONGEST_WORD bytes longer than its share ends at any character.
        let late = (self.passed + (begin - self.at) as u64).saturating_sub(last(self.piece));
        let left = if words { LONGEST_WORD.saturating_sub(late) as usize } else { usize::MAX };
        let near = &rest[..rest.len().min(left)];
        let end = match near.iter().position(|&b| b == b'\n' || words && b.is_ascii_whitespace()) {
            Some(found) => begin + found + 1,
            None if !words => return whole,
            None => match (begin.saturating_add(left)..=self.text.len()).find(|&at| self.text.is_char_boundary(at)) {
                Some(end) => end,
                None => return whole,
            },
        };
        Step::Text { range: self.at..end, ends: true }
    }

    fn json_step(&mut self) -> Result<Step> {
        loop {
            let rest = &self.text[self.at..];
            let newline = rest.find('\n');
            let part = &rest[..newline.unwrap_or(rest.len())];
            let read = part.len() + usize::from(newline.is_some());
            if self.line.len() + part.len() > LONGEST_LINE {
                return Err(self.bad_line("longer than 256 MiB; put each document on its own line"));
            }
            self.line.push_str(part);
            self.at += read;
            if newline.is_none() && (!self.ended || self.line.is_empty()) {
                return Ok(Step::More);
            }
            let mut found = false;
            if !self.line.trim().is_empty() {
                self.document = self.parse()?;
                found = !self.document.is_empty();
            }
            self.line.clear();
            self.line_number += 1;
            if found {
                return Ok(Step::Json);
            }
        }
    }

    fn parse(&self) -> Result<String> {
        let field = &self.field;
        json_line::text(&self.line, field).map_err(|fault| {
            self.bad_line(&match fault {
                Fault::Broken { what, column } => {
                    format!("not a JSON object: {what} at column {column}; correct or remove the line")
                }
                Fault::Null => format!("{field:?} is null; give the document a text, or remove the line"),
                Fault::NoText => format!("{field:?} is not a string; name the key of the text"),
                Fault::BadText(cause) => format!("{field:?} is not valid text: {cause}; correct or remove the line"),
                Fault::NoKey(keys) => {
                    let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
                    let keys = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
                    format!("no key {field:?}; name the key of the text (keys in this line: {keys})")
                }
            })
        })
    }

    fn bad_line(&self, what: &str) -> Error {
        let path = self.reader.as_ref().map(|r| r.path().display().to_string()).unwrap_or_default();
        Error::new(format!("{path}: line {}: {what}", self.line_number))
    }
}

/// Returns the total number of UTF-8 bytes of the plain texts in `inputs`; JSON lines files do not count.
///
/// # Errors
/// See [`TextReader::read`] and [`check_form`].
pub fn text_bytes(inputs: &[PathBuf]) -> Result<u64> {
    let mut total = 0;
    let mut text = String::new();
    for path in inputs {
        if check_form(path)? {
            continue;
        }
        let mut reader = TextReader::open(path)?;
        while reader.read(&mut text)? {
            total += text.len() as u64;
            text.clear();
        }
    }
    Ok(total)
}

/// Checks that a prefix or separator can match a line. `key` is its name in error messages.
///
/// # Errors
/// Fails if it is empty or spans several lines.
pub fn check_mark(mark: &str, key: &str) -> Result<()> {
    if mark.is_empty() {
        bail!(
            "{key} is empty, so every line would be a document; set it to the start of a document's first line, or \
             leave {key} out"
        );
    }
    if mark.contains('\n') {
        bail!("{key} {mark:?} spans lines and would never match; give the start of one line");
    }
    Ok(())
}
