//! Token shards: flat files of token ids, memory-mapped for reading.
//!
//! All numbers are little-endian:
//!
//! | bytes    | content                                                                  |
//! |----------|--------------------------------------------------------------------------|
//! | 0..8     | `VCYCTOK1`                                                               |
//! | 8..12    | `u32` format version, 1 or 2                                             |
//! | 12..16   | `u32` bytes per token: 2 when the vocabulary is at most 65,536, else 4   |
//! | 16..24   | `u64` vocabulary size, at most 2^31 - 1                                  |
//! | 24..32   | `u64` token count                                                        |
//! | 32..40   | version 2: `u64` count of documents that begin in this shard             |
//! | 40..44   | version 2: `u32` 1 if the first token continues a document, else 0       |
//! | ..64     | zero                                                                     |
//! | 64..     | the tokens, `u16` or `u32`; a file of version 1 ends with the last one   |
//! | 8 x n .. | version 2: after zeros, a `u64` position for each document, ascending    |
//!
//! Files of llm.c, nanoGPT and NumPy are read as well ([`Format`]). They do not state their vocabulary size.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::formats::{Format, Layout, u64_at};
use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::data::mapped::Mapped;
use crate::error::{At, Error, Result};

pub use super::shard_writer::write_shard;

/// The first bytes of a shard.
pub(in crate::data) const MAGIC: &[u8; 8] = b"VCYCTOK1";
/// The size of the header in bytes.
pub(in crate::data) const HEADER: usize = 64;
/// The largest vocabulary whose tokens all fit in a `u16`.
const NARROW: u64 = 1 << 16;
/// The largest vocabulary size, because batches hold ids as `i32`.
pub(in crate::data) const MAX_VOCAB: u64 = i32::MAX as u64;

/// The number of bytes that [`Shard::add_to`] samples at a time from a large file.
const PART: usize = 1 << 20;

/// Returns the number of bytes per token for a vocabulary size.
pub(in crate::data) fn width_of(vocab_size: u64) -> u32 {
    if vocab_size <= NARROW { 2 } else { 4 }
}

/// A read-only memory-mapped token shard.
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
    /// Maps the shard at `path`, which must be in this program's format. The token ids are checked when they are read.
    ///
    /// # Errors
    /// Fails if the file cannot be read, is not a token shard of a known version, or does not have the length that its
    /// header says.
    pub fn open(path: &Path) -> Result<Shard> {
        let map = Mapped::open(path, "a token shard")?;
        let layout = Layout::own(&map).at(path.display())?;
        Ok(Shard { path: path.to_owned(), vocab_size: layout.vocab_size.unwrap_or_default(), map, layout })
    }

    /// Maps a token file of any [`Format`]. Ids must be below the vocabulary size in the header, or else below
    /// `vocab_size`; if neither is known, any id that fits the width of a token is valid. This checks the header and
    /// the first 4096 tokens, so that a file of another kind is detected at once.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is not a token file, if its header is damaged or states a vocabulary larger
    /// than `vocab_size`, or if one of the first tokens is out of range.
    pub fn open_any(path: &Path, vocab_size: Option<usize>) -> Result<Shard> {
        let map = Mapped::open(path, "a token shard")?;
        let layout = Layout::any(&map).at(path.display())?;
        if layout.format == Format::NanoGpt && path.extension().is_some_and(|extension| extension == "npy") {
            bail!("{}: not a .npy file, as its name says; {}", path.display(), Format::Npy.remedy());
        }
        let widest = if layout.width == 2 { NARROW as usize } else { MAX_VOCAB as usize };
        let stated = layout.vocab_size;
        if let (Some(stated), Some(limit)) = (stated, vocab_size)
            && stated > limit
        {
            bail!(
                "{} has a vocabulary of {stated}, more than the expected {limit}; prepare it with the same tokenizer, \
                 or raise data.vocab in the configuration to {stated}",
                path.display()
            );
        }
        let vocab_size = stated.or(vocab_size).unwrap_or(widest);
        let shard = Shard { path: path.to_owned(), map, layout, vocab_size };
        shard.read(0, &mut vec![0; shard.len().min(4096)])?;
        Ok(shard)
    }

    /// Returns the number of tokens in the shard.
    pub fn len(&self) -> usize {
        self.layout.tokens
    }

    /// Returns whether the shard has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the vocabulary size. Every token id is below it.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Returns whether the header of the file states the vocabulary size.
    pub fn states_vocabulary(&self) -> bool {
        self.layout.vocab_size.is_some()
    }

    /// Returns the format of the file.
    pub fn format(&self) -> Format {
        self.layout.format
    }

    /// Returns the path that the shard was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that no program has written to the file since it was opened.
    ///
    /// # Errors
    /// See [`Mapped::check_unchanged`].
    pub fn check_unchanged(&self) -> Result<()> {
        self.map.check_unchanged()
    }

    /// Adds the tokens to a fingerprint: all of them, or samples spread over the file if it is larger than about `most`
    /// bytes.
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

    /// Returns the number of documents that begin in this shard, or `None` if the file has no document boundaries.
    pub fn documents(&self) -> Option<usize> {
        self.layout.starts.map(|(_, count)| count)
    }

    /// Returns whether the first tokens belong to the last document of the previous shard.
    pub fn continues(&self) -> bool {
        self.layout.continues
    }

    /// Returns the position of the first token of document `number`, counting those that begin in this shard from 0.
    ///
    /// # Errors
    /// Fails if there is no such document, if the file has no document boundaries, or if the table is damaged at this
    /// entry.
    pub fn document_start(&self, number: usize) -> Result<usize> {
        let path = self.path.display();
        let Some((table, count)) = self.layout.starts else {
            bail!("{path}: the file does not say where documents begin; prepare the text with `vcycle data prepare`");
        };
        if number >= count {
            bail!("{path}: no document {number}; {count} begin in this shard, counted from 0");
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

    /// Returns the range of positions in this shard of the document that contains position `at`.
    ///
    /// # Errors
    /// Fails if there is no such position, if the file has no document boundaries, or if the table is damaged there.
    pub fn document_around(&self, at: usize) -> Result<Range<usize>> {
        if at >= self.len() {
            bail!("{}: no token {at}; the shard has {}, counted from 0", self.path.display(), self.len());
        }
        let count = self.documents().unwrap_or(0);
        // Binary search for the first document that begins after `at`.
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.document_start(middle)? <= at {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        // For a file without document boundaries, this first call returns the error.
        let begin = if low > 0 || !self.continues() { self.document_start(low.saturating_sub(1))? } else { 0 };
        let end = if low < count { self.document_start(low)? } else { self.len() };
        Ok(begin..end)
    }

    /// Returns the token at position `i` as stored. Unlike [`Shard::read`], this does not check it against the
    /// vocabulary size.
    ///
    /// # Panics
    /// Panics if `i` is not below [`Shard::len`].
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
    /// Fails if the range extends past the end, or if a token is not below the vocabulary size. The content of `out` is
    /// then unspecified.
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
                    "set data.vocab or data.tokenizer to what the file was made with, or fetch it again",
            }
        ))
    }
}
