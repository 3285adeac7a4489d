//! A token shard: one side of a text as a flat file of token ids, memory-mapped for reading.
//!
//! Little-endian throughout:
//!
//! | bytes    | content                                                                  |
//! |----------|--------------------------------------------------------------------------|
//! | 0..8     | `VCYCTOK1`                                                               |
//! | 8..12    | `u32` format version, 1 or 2                                             |
//! | 12..16   | `u32` bytes per token: 2 when the vocabulary is at most 65,536, else 4   |
//! | 16..24   | `u64` vocabulary size, at most 2^31 - 1                                  |
//! | 24..32   | `u64` token count                                                        |
//! | 32..40   | version 2: `u64` count of documents that begin in this shard             |
//! | 40..44   | version 2: `u32` 1 when the first token goes on with a document, else 0  |
//! | ..64     | zero                                                                     |
//! | 64..     | the tokens, `u16` or `u32`; a file of version 1 ends with the last one   |
//! | 8 x n .. | version 2: after zeros, a `u64` position for each document, ascending    |
//!
//! llm.c's, nanoGPT's and NumPy's files are read as well ([`Format`]); their vocabulary comes from elsewhere.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::formats::{Format, Layout, u64_at};
use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::data::mapped::Mapped;
use crate::error::{At, Error, Result};

pub use super::shard_writer::write_shard;

pub(in crate::data) const MAGIC: &[u8; 8] = b"VCYCTOK1";
pub(in crate::data) const HEADER: usize = 64;
/// The largest vocabulary whose tokens all fit in a `u16`.
const NARROW: u64 = 1 << 16;
/// Batches hold ids as `i32`.
pub(in crate::data) const MAX_VOCAB: u64 = i32::MAX as u64;

/// What [`Shard::add_to`] reads at a time where it does not read all.
const PART: usize = 1 << 20;

pub(in crate::data) fn width_of(vocab_size: u64) -> u32 {
    if vocab_size <= NARROW { 2 } else { 4 }
}

/// A token shard, memory-mapped read-only.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mapped,
    layout: Layout,
    vocab_size: usize,
}

impl AsRef<[Shard]> for Shard {
    fn as_ref(&self) -> &[Shard] {
        std::slice::from_ref(self)
    }
}

impl Shard {
    /// Maps the shard at `path`, which must be one of this program. The token ids themselves are checked as they are
    /// read.
    ///
    /// # Errors
    /// When the file cannot be read, is not a token shard of a known version, or its length is not what its header says.
    pub fn open(path: &Path) -> Result<Shard> {
        let map = Mapped::open(path, "a token shard")?;
        let layout = Layout::own(&map).at(path.display())?;
        Ok(Shard { path: path.to_owned(), vocab_size: layout.vocab_size.unwrap_or_default(), map, layout })
    }

    /// Maps a token file of any [`Format`]. Ids must be below `vocab_size`; without it, below what the header says, or
    /// the width of a token allows. What is checked here is the header and the first few thousand tokens, so that a file
    /// of another kind is found out at once.
    ///
    /// # Errors
    /// As [`Shard::open`]; when a header says a vocabulary larger than `vocab_size`.
    pub fn open_any(path: &Path, vocab_size: Option<usize>) -> Result<Shard> {
        let map = Mapped::open(path, "a token shard")?;
        let layout = Layout::any(&map).at(path.display())?;
        if layout.format == Format::NanoGpt && path.extension().is_some_and(|extension| extension == "npy") {
            bail!("{}: not a .npy file, as its name says; {}", path.display(), Format::Npy.remedy());
        }
        let widest = if layout.width == 2 { NARROW as usize } else { MAX_VOCAB as usize };
        let told = layout.vocab_size;
        if let (Some(told), Some(limit)) = (told, vocab_size)
            && told > limit
        {
            bail!(
                "{} has a vocabulary of {told}, more than the {limit} it is read with; prepare it with the \
                 same tokenizer, or raise a configuration's data.vocab to {told}",
                path.display()
            );
        }
        let vocab_size = told.or(vocab_size).unwrap_or(widest);
        let shard = Shard { path: path.to_owned(), map, layout, vocab_size };
        shard.read(0, &mut vec![0; shard.len().min(4096)])?;
        Ok(shard)
    }

    /// Tokens in the shard.
    pub fn len(&self) -> usize {
        self.layout.tokens
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every token id is below this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Whether the file itself says its vocabulary's size.
    pub fn states_vocabulary(&self) -> bool {
        self.layout.vocab_size.is_some()
    }

    pub fn format(&self) -> Format {
        self.layout.format
    }

    /// The file the shard was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Nobody has written to the file since it was opened.
    ///
    /// # Errors
    /// Somebody has.
    pub fn check_unchanged(&self) -> Result<()> {
        self.map.check_unchanged()
    }

    /// Adds the tokens: all of them, or of a very large file some from all over it.
    pub fn add_to(&self, print: &mut Fingerprint, most: usize) {
        let Layout { offset, width, .. } = self.layout;
        let bytes = &self.map[offset..offset + width * self.len()];
        print.add(&(bytes.len() as u64).to_le_bytes());
        let parts = (most / PART).max(4);
        if bytes.len() <= parts * PART {
            return print.add(bytes);
        }
        let last = bytes.len() - PART;
        (0..parts).map(|part| last / (parts - 1) * part).chain([last]).for_each(|at| print.add(&bytes[at..at + PART]));
    }

    /// How many documents begin in this shard; `None`: it does not say.
    pub fn documents(&self) -> Option<usize> {
        self.layout.starts.map(|(_, count)| count)
    }

    /// Whether the first tokens belong to the last document of the shard before.
    pub fn continues(&self) -> bool {
        self.layout.continues
    }

    /// Where document `number` begins, of those that begin in this shard.
    ///
    /// # Errors
    /// When there is no such document, or the table is damaged here.
    pub fn document_start(&self, number: usize) -> Result<usize> {
        let path = self.path.display();
        let Some((table, count)) = self.layout.starts else {
            bail!("{path}: does not say where documents begin; prepare the text with `vcycle data prepare`");
        };
        if number >= count {
            bail!("{path}: no document {number}; {count} begin in this shard, count from 0");
        }
        let start = u64_at(&self.map, table + 8 * number);
        let before = if number > 0 { Some(u64_at(&self.map, table + 8 * (number - 1))) } else { None };
        if start >= self.len() as u64 || before.is_some_and(|before| before >= start) {
            bail!(
                "{path}: damaged: document {number} begins at {start}, out of order; {}",
                self.layout.format.remedy()
            );
        }
        Ok(start as usize)
    }

    /// The stretch of one document that position `at` lies in: from the document's first token, or the shard's, to its last
    /// or the shard's.
    ///
    /// # Errors
    /// When there is no such position, the shard does not say where documents begin, or the table is damaged here.
    pub fn document_around(&self, at: usize) -> Result<Range<usize>> {
        if at >= self.len() {
            bail!("{}: no token {at}; the shard has {}, count from 0", self.path.display(), self.len());
        }
        let count = self.documents().unwrap_or(0);
        // The first document that begins behind `at`.
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.document_start(middle)? <= at {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        // The first call also tells of a shard without documents.
        let begin = if low > 0 || !self.continues() { self.document_start(low.saturating_sub(1))? } else { 0 };
        let end = if low < count { self.document_start(low)? } else { self.len() };
        Ok(begin..end)
    }

    /// The token at position `i`, as stored: [`Shard::read`] is the one that checks it against the vocabulary.
    ///
    /// # Panics
    /// When `i` is not below [`Shard::len`], as with a slice.
    pub fn token(&self, i: usize) -> u32 {
        assert!(i < self.len(), "token {i} of a shard of {}", self.len());
        let at = self.layout.offset + i * self.layout.width;
        match self.map[at..at + self.layout.width] {
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("the width is 2 or 4"),
        }
    }

    /// Copies the tokens from position `start` on into `out`, without allocating.
    ///
    /// # Errors
    /// When the range reaches past the end, or a token is not below the vocabulary size. `out` is then unspecified.
    pub fn read(&self, start: usize, out: &mut [i32]) -> Result<()> {
        let end = start.checked_add(out.len()).filter(|&end| end <= self.len());
        let Some(end) = end else {
            bail!(
                "{}: cannot read {} tokens from position {start}: the shard has {}; use a shorter context or more text",
                self.path.display(),
                out.len(),
                self.len()
            );
        };
        let Layout { offset, width, .. } = self.layout;
        let bytes = &self.map[offset + start * width..offset + end * width];
        let mut largest = 0;
        if width == 2 {
            for (id, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                let token = u32::from(u16::from_le_bytes([pair[0], pair[1]]));
                largest = largest.max(token);
                *id = token as i32;
            }
        } else {
            for (id, four) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                let token = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                largest = largest.max(token);
                *id = token as i32;
            }
        }
        if largest as usize >= self.vocab_size {
            return Err(self.beyond_vocabulary(start, end));
        }
        Ok(())
    }

    #[cold]
    fn beyond_vocabulary(&self, start: usize, end: usize) -> Error {
        let at = (start..end).find(|&i| self.token(i) as usize >= self.vocab_size).unwrap_or(start);
        Error::new(format!(
            "{}: token {} at position {at} is not below the vocabulary size {}; {}",
            self.path.display(),
            self.token(at),
            self.vocab_size,
            match self.layout.format {
                Format::Vcycle1 | Format::Vcycle2 => self.layout.format.remedy(),
                Format::LlmC | Format::NanoGpt | Format::Npy =>
                    "set data.vocab, or data.tokenizer, to those the file was made with, or fetch it again",
            }
        ))
    }
}
