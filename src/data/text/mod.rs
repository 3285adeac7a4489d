//! Reads texts and splits them into a training and a held-out (validation) split.
//!
//! [`reader`] streams the text of a file, [`documents`] divides it into documents, and [`TextSource`] assigns each
//! document to a split, trains a tokenizer on the training split and encodes both.

pub mod documents;
pub(crate) mod encodings;
pub(crate) mod gzip;
pub(crate) mod json_line;
pub mod reader;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::tokenizer::Tokenizer;
use super::tokenizer::encoder::{Cutter, Encoder, PIECE_BYTES, TRAINING_CUT};
use crate::bail;
use crate::error::{At, Error, Result};
use crate::memory;
use documents::{Division, Documents, check_form, check_mark, is_json_lines, text_bytes};
use reader::TextReader;

/// The default key of the text in JSON lines.
pub const FIELD: &str = "text";
/// If the lines of a text are too long to hold any out, a text of at least this number of bytes is cut between words. A
/// shorter text is rejected.
const FEWEST_FOR_WORDS: u64 = 1 << 14;
/// The time between two progress notes of the encoder.
const PERIOD: Duration = Duration::from_secs(10);

/// How a text is split into a training split and a held-out (validation) split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOut {
    /// A document starts at each line that starts with this. Anything before the first such line belongs to the first
    /// document. `None`: the text is cut at line ends into 100 roughly equal pieces instead.
    pub prefix: Option<String>,
    /// Documents or pieces `every - 1`, `2 * every - 1`, ..., numbered from zero, are held out.
    pub every: usize,
}

/// Reads a whole UTF-8 text into memory. It may be compressed (Zstandard or gzip). The text of a JSON lines file is the
/// texts under the key `text`, separated by line ends.
///
/// # Errors
/// Fails if the file does not fit into memory, and on errors of [`TextReader`] and [`Documents`].
pub fn read_text(path: &Path) -> Result<String> {
    // Allocate the size of the file up front, so that a file that exceeds the memory gives a clear error.
    let size = fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
    let mut text =
        String::from_utf8(memory::with_capacity(usize::try_from(size).unwrap_or(usize::MAX)).at(path.display())?)
            .unwrap_or_default();
    if check_form(path)? {
        let mut documents = Documents::new(&[path.to_owned()], Division::Pieces { total: 0, words: false }, FIELD);
        while let Some(part) = documents.next_part()? {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(part.text);
        }
        return Ok(text);
    }
    let mut reader = TextReader::open(path)?;
    while reader.read(&mut text)? {}
    Ok(text)
}

/// Splits `text` into (training, held-out), each in the order of the text. See [`HeldOut`].
///
/// # Errors
/// Fails if `every` is less than 2, if no line starts with `prefix`, or if a split would be blank.
pub fn split(text: &str, held_out: &HeldOut) -> Result<(String, String)> {
    let marks = held_out.prefix.clone().map_or(Marks::None, Marks::Prefix);
    let source = TextSource { inputs: Vec::new(), marks, field: String::new(), every: held_out.every, keys: &CONFIG };
    source.check()?;
    let division = source.division(text.len() as u64);
    let mut sides = [String::with_capacity(text.len()), String::new()];
    let mut survey = Survey::default();
    if !text.trim().is_empty() {
        let mut documents = Documents::in_memory(text, division);
        while let Some(part) = documents.next_part()? {
            let side = source.side(part.document);
            survey.add(part.text, side);
            sides[side].push_str(part.text);
        }
        (survey.documents, survey.marks) = (documents.count(), documents.marks());
    }
    source.check_survey(&survey)?;
    let [train, valid] = sides;
    Ok((train, valid))
}

/// The index of the training split in arrays of both splits.
pub const TRAIN: usize = 0;
/// The index of the held-out split in arrays of both splits.
pub const VALID: usize = 1;

/// How the documents of a plain text are delimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marks {
    /// See [`Division::Prefix`].
    Prefix(String),
    /// See [`Division::Separator`].
    Separator(String),
    /// They are not: the text is cut into pieces instead ([`Division::Pieces`]).
    None,
}

/// The names of the settings in error messages.
#[derive(Debug)]
pub struct Keys {
    /// Name of [`TextSource::every`].
    pub every: &'static str,
    /// Name of the setting for [`Marks::Prefix`].
    pub prefix: &'static str,
    /// Name of the setting for [`Marks::Separator`].
    pub separator: &'static str,
}

/// The configuration keys.
pub const CONFIG: Keys =
    Keys { every: "data.held_out_every", prefix: "data.document_prefix", separator: "data.separator" };
/// The command line options.
pub const FLAGS: Keys = Keys { every: "--held-out-every", prefix: "--document-prefix", separator: "--separator" };

/// Text files, and how they are divided into documents and splits.
#[derive(Debug, Clone)]
pub struct TextSource {
    /// Plain text or JSON lines files.
    pub inputs: Vec<PathBuf>,
    /// How the documents of plain text files are delimited. Must be [`Marks::None`] if any input is JSON lines.
    pub marks: Marks,
    /// The key of the text in JSON lines.
    pub field: String,
    /// Documents `every - 1`, `2 * every - 1`, ..., numbered from zero, are held out.
    pub every: usize,
    /// The names of these settings in error messages.
    pub keys: &'static Keys,
}

/// A consumer of tokens. Its arguments are the tokens of a piece of text, whether the piece begins a document, and its
/// split ([`TRAIN`] or [`VALID`]).
pub type SideSink<'a> = dyn FnMut(&[u32], bool, usize) -> Result<()> + 'a;

/// Statistics from one pass over a source.
#[derive(Debug, Default)]
pub struct Survey {
    /// The number of UTF-8 bytes of each split.
    pub bytes: [u64; 2],
    /// Whether each split has text other than whitespace.
    filled: [bool; 2],
    /// The number of documents or pieces.
    pub documents: u64,
    /// The number of lines that delimit documents.
    marks: u64,
}

impl Survey {
    fn add(&mut self, text: &str, side: usize) {
        self.bytes[side] += text.len() as u64;
        self.filled[side] = self.filled[side] || !text.trim().is_empty();
    }
}

impl TextSource {
    /// Returns the split of a document: [`TRAIN`] or [`VALID`].
    pub fn side(&self, document: u64) -> usize {
        let every = self.every as u64;
        if document % every == every - 1 { VALID } else { TRAIN }
    }

    /// Reads all texts and returns how they are divided and their statistics. A text that is cut into pieces is read
    /// two or three times.
    ///
    /// # Errors
    /// Fails on errors of [`Documents`], if the settings are invalid or do not fit the texts, or if a split would be
    /// blank.
    pub fn survey(&self) -> Result<(Division, Survey)> {
        self.check()?;
        let plain = self.inputs.iter().any(|path| !is_json_lines(path));
        let total = if plain && self.marks == Marks::None { text_bytes(&self.inputs)? } else { 0 };
        let mut division = self.division(total);
        let mut survey = self.survey_of(&division)?;
        // The lines are too long for a split at line ends (a book in one line, say): cut between words.
        if !survey.filled[VALID] && total >= FEWEST_FOR_WORDS {
            division = Division::Pieces { total, words: true };
            survey = self.survey_of(&division)?;
        }
        self.check_survey(&survey).at(self.name())?;
        Ok((division, survey))
    }

    fn survey_of(&self, division: &Division) -> Result<Survey> {
        let mut documents = self.documents(division);
        let mut survey = Survey::default();
        while let Some(part) = documents.next_part()? {
            survey.add(part.text, self.side(part.document));
        }
        (survey.documents, survey.marks) = (documents.count(), documents.marks());
        Ok(survey)
    }

    fn documents(&self, division: &Division) -> Documents {
        Documents::new(&self.inputs, division.clone(), &self.field)
    }

    fn division(&self, total: u64) -> Division {
        match &self.marks {
            Marks::Prefix(prefix) => Division::Prefix(prefix.clone()),
            Marks::Separator(line) => Division::Separator(line.clone()),
            Marks::None => Division::Pieces { total, words: false },
        }
    }

    /// Returns a name of the inputs for error messages.
    fn name(&self) -> String {
        match &self.inputs[..] {
            [] => String::new(),
            [one] => one.display().to_string(),
            [first, rest @ ..] => format!("{} and {} more", first.display(), rest.len()),
        }
    }

    fn check(&self) -> Result<()> {
        let Keys { every: key, prefix, separator } = self.keys;
        if self.every < 2 {
            bail!(
                "{key} is {}: that leaves nothing to train on; set it to 2 or more (10 holds out a tenth)",
                self.every
            );
        }
        // Shell patterns overlap easily, and then held-out documents could be trained on.
        let mut seen = HashSet::new();
        let again = |path: &&PathBuf| fs::canonicalize(path).is_ok_and(|place| !seen.insert(place));
        if let Some(path) = self.inputs.iter().find(again) {
            bail!("{} is given twice; name each input once", path.display());
        }
        let (mark, key) = match &self.marks {
            Marks::Prefix(mark) => (mark, prefix),
            Marks::Separator(mark) => (mark, separator),
            Marks::None => return Ok(()),
        };
        check_mark(mark, key)?;
        if let Some(json) = self.inputs.iter().find(|path| is_json_lines(path)) {
            bail!("{}: in JSON lines, every line is a document; leave {key} out", json.display());
        }
        Ok(())
    }

    fn check_survey(&self, survey: &Survey) -> Result<()> {
        let Keys { every: key, prefix, separator } = self.keys;
        let every = self.every;
        match &self.marks {
            Marks::Prefix(mark) if survey.marks == 0 => bail!(
                "no line starts with {prefix} {mark:?}; check it against the text, or leave it out to split by size"
            ),
            Marks::Separator(mark) if survey.marks == 0 => {
                bail!(
                    "no line is equal to {separator} {mark:?}; check it against the text, or leave it out to split by \
                     size"
                )
            }
            _ => {}
        }
        let count = survey.documents;
        let json = self.inputs.iter().any(|path| is_json_lines(path));
        let (unit, check) = match self.marks {
            Marks::Prefix(_) => ("document", format!("check {prefix}")),
            Marks::Separator(_) => ("document", format!("check {separator}")),
            Marks::None if json => ("document", "give a text with more documents".to_owned()),
            Marks::None => ("piece", "give a text with more lines".to_owned()),
        };
        if !survey.filled[VALID] {
            let remedy = match (count, &self.marks) {
                (0 | 1, Marks::Prefix(_)) => format!("give a text with at least two, or another {prefix}"),
                (0 | 1, Marks::Separator(_)) => format!("give a text with at least two, or another {separator}"),
                (0 | 1, Marks::None) => "give a text with at least two".to_owned(),
                _ => format!("set {key} to at most {count}, or {check}"),
            };
            let s = if count == 1 { "" } else { "s" };
            bail!("nothing is held out: {key} is {every} and the text has {count} {unit}{s}; {remedy}");
        }
        if !survey.filled[TRAIN] {
            bail!(
                "nothing is left to train on: {key} is {every} and all of the {count} {unit}s except the held-out ones \
                 are blank; set {key} higher or give a longer text"
            );
        }
        Ok(())
    }

    /// Loads the tokenizer of `spec`, or trains it on the training split (see [`Tokenizer::from_spec`]). If the split
    /// has more than `sample` bytes, it is trained on about that many: pieces of a few kilobytes spread over the whole
    /// split. The vocabulary of `char` is always collected from the whole split. `joined` has the meaning it has in
    /// [`TextSource::encode`].
    ///
    /// # Errors
    /// Fails on errors of [`Documents`] and [`Tokenizer::from_spec`].
    pub fn tokenizer(
        &self,
        spec: &str,
        (division, survey): (&Division, &Survey),
        joined: bool,
        sample: u64,
    ) -> Result<Tokenizer> {
        let mut training = Training {
            source: self,
            documents: self.documents(division),
            cutter: Cutter::new(TRAINING_CUT, PIECE_BYTES),
            joined,
            next: None,
            ended: false,
            error: None,
            // A `char` tokenizer needs all characters, and collecting them takes little memory.
            sample: if spec == "char" { u64::MAX } else { sample },
            total: survey.bytes[TRAIN],
            seen: 0,
            taken: 0,
        };
        let tokenizer = Tokenizer::from_pieces(spec, &mut training);
        match training.error {
            Some(error) => Err(error),
            None => tokenizer,
        }
    }

    /// Encodes all texts and passes the tokens to `sink`. With `joined`, each split is encoded as one text, ignoring
    /// document boundaries; otherwise every document is encoded separately. `note` gets progress messages, and a
    /// warning about unknown tokens.
    ///
    /// # Errors
    /// Fails on errors of [`Documents`], [`Encoder`] and `sink`.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        (division, survey): (&Division, &Survey),
        joined: bool,
        note: &mut dyn FnMut(&str),
        sink: &mut SideSink<'_>,
    ) -> Result<()> {
        let mut documents = self.documents(division);
        let mut encoders = [Encoder::new(tokenizer), Encoder::new(tokenizer)];
        let (mut done, mut noted) = (0, Instant::now());
        let unknown = tokenizer.unknown();
        // The number of all tokens and of unknown tokens.
        let mut counts = [0u64; 2];
        let mut sink = |ids: &[u32], begins: bool, side: usize| {
            counts[0] += ids.len() as u64;
            counts[1] += ids.iter().filter(|&&id| Some(id) == unknown).count() as u64;
            sink(ids, begins, side)
        };
        while let Some(part) = documents.next_part()? {
            let side = self.side(part.document);
            let mut to_side = |ids: &[u32], begins: bool| sink(ids, begins, side);
            if part.begins && !joined {
                encoders[side].end_document(&mut to_side)?;
            }
            encoders[side].push(part.text, &mut to_side)?;
            done += part.text.len() as u64;
            if noted.elapsed() > PERIOD {
                let all = survey.bytes[TRAIN] + survey.bytes[VALID];
                note(&format!("  {:.1} of {:.1} MB", done as f64 / 1e6, all as f64 / 1e6));
                noted = Instant::now();
            }
        }
        for (side, encoder) in encoders.iter_mut().enumerate() {
            encoder.finish(&mut |ids, begins| sink(ids, begins, side))?;
        }
        tokenizer.unknown_note(counts[1], counts[0]).iter().for_each(|text| note(text));
        Ok(())
    }
}

/// Iterates over pieces of the training split, to train a tokenizer on.
struct Training<'a> {
    source: &'a TextSource,
    documents: Documents,
    cutter: Cutter,
    joined: bool,
    /// The start of the next document, which is held back until the rest of the current one was returned.
    next: Option<String>,
    ended: bool,
    error: Option<Error>,
    /// The number of bytes to sample.
    sample: u64,
    /// The number of bytes of the split.
    total: u64,
    /// The number of bytes sampled or skipped so far.
    seen: u64,
    /// The number of bytes sampled so far.
    taken: u64,
}

impl Training<'_> {
    /// Returns whether to sample a piece, which is the case while the sample has at most its proportional share of the
    /// bytes seen so far.
    fn takes(&mut self, piece: &str) -> bool {
        let share = u128::from(self.seen) * u128::from(self.sample);
        let takes = self.sample >= self.total || u128::from(self.taken) * u128::from(self.total) <= share;
        self.seen += piece.len() as u64;
        self.taken += if takes { piece.len() as u64 } else { 0 };
        takes
    }

    fn piece(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(piece) = self.cutter.next_text(self.ended || self.next.is_some()) {
                return Ok(Some(piece));
            }
            if self.ended {
                return Ok(None);
            }
            if let Some(text) = self.next.take() {
                self.cutter.push(&text);
            }
            match self.documents.next_part()? {
                None => self.ended = true,
                Some(part) if self.source.side(part.document) == VALID => {}
                Some(part) if part.begins && !self.joined => self.next = Some(part.text.to_owned()),
                Some(part) => self.cutter.push(part.text),
            }
        }
    }
}

impl Iterator for Training<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            match self.piece() {
                Ok(Some(piece)) if self.takes(&piece) => return Some(piece),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => {
                    self.error = Some(error);
                    return None;
                }
            }
        }
    }
}
