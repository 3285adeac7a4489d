//! A stream of texts, divided into documents, in bounded memory.
//!
//! A text file's documents are marked by lines ([`Division::Prefix`], [`Division::Separator`]), or it is cut into pieces
//! of about one size. In JSON lines every line has one. A file named `.jsonl` or `.ndjson` has them, and so has any other whose first
//! line is a JSON object; with a name of plain text (`.txt`, `.md`) that is an error. Documents are numbered from zero over all files; every file begins a new one; one without any text is passed over and has no number.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::json_line;
use super::json_line::Fault;
use super::reader::TextReader;
use crate::bail;
use crate::error::{Error, Result};
use crate::files::shell_quote;

/// Pieces a text without documents is cut into before some are held out.
const PIECES: u64 = 100;
/// Where pieces end with words, they end anywhere after so many bytes without white space.
const LONGEST_WORD: u64 = 64;
/// A longer line of JSON is a mistake, and not worth the memory.
const LONGEST_LINE: usize = 256 << 20;

/// Where a document of a plain text begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Division {
    /// At each line that starts with this. What is before the first such line of a file belongs to its first document.
    Prefix(String),
    /// After each line that is exactly this. The line itself belongs to no document.
    Separator(String),
    /// About a hundred pieces that end with a line, of texts of so many bytes in all ([`text_bytes`] counts them). `words`: that
    /// end with a word too, or where there is none with any character, for texts with next to no line ends.
    Pieces { total: u64, words: bool },
}

/// What a file of texts is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    JsonLines,
    /// JSON lines by its content, plain text by its name.
    Disguised,
    /// One JSON document that is no object in a line.
    Json,
}

/// How much of a first line is looked at.
const FIRST_LINE: usize = 1 << 20;

/// The content decides: JSON lines begin with an object in the first line. The name is a hint where that is something else.
fn form(path: &Path) -> Form {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name = name.strip_suffix(".zst").or_else(|| name.strip_suffix(".gz")).unwrap_or(&name);
    if name.ends_with(".jsonl") || name.ends_with(".ndjson") {
        return Form::JsonLines;
    }
    // What cannot be read is told where it is.
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

/// Whether a file has JSON lines, compressed or not.
pub fn is_json_lines(path: &Path) -> bool {
    form(path) == Form::JsonLines
}

/// As [`is_json_lines`].
///
/// # Errors
/// JSON that would be taken for prose.
pub fn check_form(path: &Path) -> Result<bool> {
    match form(path) {
        Form::Text => Ok(false),
        Form::JsonLines => Ok(true),
        Form::Disguised => bail!(
            "{}: the first line is a JSON object, but the name says plain text; name the file .jsonl, which reads the text in \
             each line, or begin it with an empty line, which makes braces and keys part of the text",
            path.display()
        ),
        Form::Json => bail!(
            "{}: one JSON document, where lines with an object each are read; convert it, a list of objects for instance with \
             `jq -c '.[]' {} > {}`",
            path.display(),
            shell_quote(path),
            shell_quote(&path.with_extension("jsonl"))
        ),
    }
}

/// A part of a document.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The document's number.
    pub document: u64,
    /// The first part of its document.
    pub begins: bool,
    /// At least one character.
    pub text: &'a str,
}

/// Reads files one after another. See the module.
pub struct Documents {
    /// The files that were not opened yet, the last first.
    left: Vec<PathBuf>,
    division: Division,
    /// The key of a JSON line's text.
    field: String,
    reader: Option<TextReader>,
    json: bool,
    /// Text that was read, from `at` on not yet given away; `ended`: the file has no more.
    text: String,
    at: usize,
    ended: bool,
    /// Whether `at` is the begin of a line that was not looked at yet.
    line_start: bool,
    /// Whether what comes next belongs to a new document.
    fresh: bool,
    /// Whether this file had a line with the prefix.
    marked: bool,
    /// Lines with the prefix, or separators, in all files.
    marks: u64,
    documents: u64,
    /// Bytes of all texts before `at`, and the next piece to cut off.
    passed: u64,
    piece: u64,
    /// A line of JSON as far as it was read, its number, and the text in it.
    line: String,
    line_number: u64,
    document: String,
}

/// What a look at the text read so far gives.
enum Step {
    /// This range of `text`; `ends`: with it ends a document.
    Text { range: Range<usize>, ends: bool },
    /// The whole of `document`.
    Json,
    /// Nothing, until more is read.
    More,
}

/// Whether a document's mark is at the begin of a text.
enum Mark {
    No,
    /// And so many bytes belong to no document.
    Yes(usize),
    /// The text is too short to tell.
    Unknown,
}

impl Documents {
    /// The documents of `inputs`. Of a line of JSON, the text under the key `field` is one.
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

    /// The documents of one text in memory.
    pub(in crate::data) fn in_memory(text: &str, division: Division) -> Self {
        let mut documents = Self::new(&[], division, "");
        documents.reader = Some(TextReader::in_memory(Path::new("text"), text.as_bytes().to_vec()));
        documents
    }

    /// Documents that began so far.
    pub fn count(&self) -> u64 {
        self.documents
    }

    /// Lines with the prefix, or separators, so far.
    pub fn marks(&self) -> u64 {
        self.marks
    }

    /// The next part; `None`: there are no more.
    ///
    /// # Errors
    /// What [`TextReader`] refuses; of JSON lines, by file and line: what is no JSON object, has no string under the
    /// key, or is longer than 256 MiB.
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

    /// The number of the document that has text now.
    fn number(&mut self, ends: bool) -> u64 {
        self.documents += u64::from(self.fresh);
        self.fresh = ends;
        self.documents - 1
    }

    /// Reads on, or closes the file when nothing is left of it.
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
                    // A file's first document may have begun before the first line with the prefix.
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

    /// Whether `rest`, which begins with a line, begins with a mark.
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
        // A piece ends with the first line that ends at or after its share of the text. Widened: no overflow.
        let last = |piece: u64| ((u128::from(total) * u128::from(piece) / u128::from(PIECES)) as u64).max(1) - 1;
        // Where lines are longer than pieces, one line ends several.
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
        // So far behind its share a piece ends anywhere.
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
                return Err(self.bad_line("longer than 256 MiB; put every document on a line of its own"));
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
                Fault::NoText => format!("{field:?} is no string; name the key of the text"),
                Fault::BadText(cause) => format!("{field:?} is no text: {cause}; correct or remove the line"),
                Fault::NoKey(keys) => {
                    let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
                    let keys = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
                    format!("no key {field:?}; name the key of the text, its keys are: {keys}")
                }
            })
        })
    }

    fn bad_line(&self, what: &str) -> Error {
        let path = self.reader.as_ref().map(|r| r.path().display().to_string()).unwrap_or_default();
        Error::new(format!("{path}: line {}: {what}", self.line_number))
    }
}

/// UTF-8 bytes of all texts in `inputs`, JSON lines aside.
///
/// # Errors
/// What [`TextReader`] refuses.
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

/// Checks that a mark can be at the begin of a line; `key` is its name in errors.
///
/// # Errors
/// When it is empty or spans lines.
pub fn check_mark(mark: &str, key: &str) -> Result<()> {
    if mark.is_empty() {
        bail!(
            "{key} is empty, so every line would be a document; give the start of a document's first line, or leave \
             {key} out"
        );
    }
    if mark.contains('\n') {
        bail!("{key} {mark:?} spans lines and would never match; give the start of one line");
    }
    Ok(())
}
