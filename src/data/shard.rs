//! A token shard: one side of a text as a flat file of token ids, memory-mapped for reading.
//!
//! Little-endian throughout:
//!
//! | bytes    | content                                                                  |
//! |----------|--------------------------------------------------------------------------|
//! | 0..8     | `VCYCTOK1`                                                               |
//! | 8..12    | `u32` format version, 1                                                  |
//! | 12..16   | `u32` bytes per token: 2 when the vocabulary is at most 65,536, else 4   |
//! | 16..24   | `u64` vocabulary size, at most 2^31 - 1                                  |
//! | 24..32   | `u64` token count                                                        |
//! | 32..64   | zero                                                                     |
//! | 64..     | the tokens, `u16` or `u32`; the file ends with the last one              |

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::bail;
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"VCYCTOK1";
const VERSION: u32 = 1;
const HEADER: usize = 64;
/// The largest vocabulary whose tokens all fit in a `u16`.
const NARROW: u64 = 1 << 16;
/// Batches hold ids as `i32`.
const MAX_VOCAB: u64 = i32::MAX as u64;

fn width_of(vocab_size: u64) -> u32 {
    if vocab_size <= NARROW { 2 } else { 4 }
}

/// Writes `tokens` to `path`, whole or not at all.
///
/// # Errors
/// When `vocab_size` is 0 or more than 2^31 - 1, a token is not below `vocab_size`, or the file cannot be written.
pub fn write_shard(path: &Path, tokens: &[u32], vocab_size: usize) -> Result<()> {
    let vocab = vocab_size as u64;
    if vocab == 0 || vocab > MAX_VOCAB {
        bail!(
            "cannot write {}: vocabulary size {vocab_size} is not in 1..={MAX_VOCAB}; use another tokenizer",
            path.display()
        );
    }
    if let Some(at) = tokens.iter().position(|&t| u64::from(t) >= vocab) {
        bail!(
            "cannot write {}: token {} at position {at} is not below the vocabulary size {vocab_size}; the tokens were \
             made with another tokenizer",
            path.display(),
            tokens[at]
        );
    }
    let width = width_of(vocab);
    let mut header = [0u8; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&width.to_le_bytes());
    header[16..24].copy_from_slice(&vocab.to_le_bytes());
    header[24..32].copy_from_slice(&(tokens.len() as u64).to_le_bytes());
    crate::files::write_atomic(path, |out| {
        out.write_all(&header)?;
        for &token in tokens {
            let bytes = token.to_le_bytes();
            out.write_all(&bytes[..width as usize])?;
        }
        Ok(())
    })
}

/// A token shard, memory-mapped read-only.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    width: usize,
    len: usize,
    vocab_size: usize,
}

impl Shard {
    /// Maps the shard at `path`. The token ids themselves are checked as they are read.
    ///
    /// # Errors
    /// When the file cannot be read, is not a token shard of this version, or its length is not what its header says.
    pub fn open(path: &Path) -> Result<Shard> {
        let facts = fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
        if !facts.is_file() {
            bail!("cannot read {}: it is not a regular file; give a token shard", path.display());
        }
        let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
        let size = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
        let damaged = |what: String| {
            Error::new(format!("{}: {what}; remove its folder to have the data prepared again", path.display()))
        };
        if size < HEADER as u64 {
            return Err(damaged(format!("{size} bytes are too few for a token shard's {HEADER}-byte header")));
        }
        // SAFETY: the map is read-only, and `write_shard` never changes a file in place: it renames a new one over it,
        // which leaves the mapped one alone. Every access is bounds-checked against the map, and any byte is a valid u8.
        // Only another program truncating the file under us could break this, as with any memory-mapped file.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let u32_at = |at: usize| u32::from_le_bytes([map[at], map[at + 1], map[at + 2], map[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;

        if map.len() < HEADER || &map[..8] != MAGIC {
            return Err(damaged("not a token shard (no VCYCTOK1 at its start)".into()));
        }
        let version = u32_at(8);
        if version != VERSION {
            return Err(damaged(format!("token shard version {version}, this program reads version {VERSION}")));
        }
        let (width, vocab, count) = (u32_at(12), u64_at(16), u64_at(24));
        if vocab == 0 || vocab > MAX_VOCAB {
            return Err(damaged(format!("damaged header: vocabulary size {vocab} is not in 1..={MAX_VOCAB}")));
        }
        if width != width_of(vocab) {
            return Err(damaged(format!(
                "damaged header: {width} bytes per token, a vocabulary of {vocab} takes {}",
                width_of(vocab)
            )));
        }
        if map[32..HEADER].iter().any(|&b| b != 0) {
            return Err(damaged("damaged header: bytes 32..64 are not zero".into()));
        }
        let expected = count.checked_mul(u64::from(width)).and_then(|bytes| bytes.checked_add(HEADER as u64));
        if expected != Some(map.len() as u64) {
            return Err(damaged(format!(
                "the header says {count} tokens of {width} bytes, but the file has {} bytes after the header",
                map.len() - HEADER
            )));
        }
        let width = width as usize;
        Ok(Shard { path: path.to_owned(), len: (map.len() - HEADER) / width, map, width, vocab_size: vocab as usize })
    }

    /// Tokens in the shard.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every token id is below this.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The file the shard was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The token at position `i`, as stored: [`Shard::read`] is the one that checks it against the vocabulary.
    ///
    /// # Panics
    /// When `i` is not below [`Shard::len`], as with a slice.
    pub fn token(&self, i: usize) -> u32 {
        assert!(i < self.len, "token {i} of a shard of {}", self.len);
        let at = HEADER + i * self.width;
        match self.map[at..at + self.width] {
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
        let end = start.checked_add(out.len()).filter(|&end| end <= self.len);
        let Some(end) = end else {
            bail!(
                "{}: cannot read {} tokens from position {start}: the shard has {}; use a shorter context or more text",
                self.path.display(),
                out.len(),
                self.len
            );
        };
        let bytes = &self.map[HEADER + start * self.width..HEADER + end * self.width];
        let mut largest = 0;
        if self.width == 2 {
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
            "{}: damaged: token {} at position {at} is not below the vocabulary size {}; remove its folder to have the \
             data prepared again",
            self.path.display(),
            self.token(at),
            self.vocab_size
        ))
    }
}
