//! Writes token shards incrementally; see [`shard`](super::shard) for the format.

use std::path::{Path, PathBuf};

use super::shard::{HEADER, MAGIC, MAX_VOCAB, width_of};
use crate::bail;
use crate::error::Result;
use crate::files::AtomicFile;

/// Writes `tokens` to `path` as a shard of version 1, which has no document boundaries. The file is written atomically.
///
/// # Errors
/// Fails if `vocab_size` is 0 or more than 2^31 - 1, a token is not below `vocab_size`, or the file cannot be written.
pub fn write_shard(path: &Path, tokens: &[u32], vocab_size: usize) -> Result<()> {
    let mut writer = ShardWriter::create(path, vocab_size, Boundaries::Unknown)?;
    writer.push(tokens)?;
    writer.commit()
}

/// Whether a shard stores document boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundaries {
    /// It does not (version 1).
    Unknown,
    /// It stores where documents begin (version 2).
    Known {
        /// Whether the first tokens belong to the last document of the previous shard.
        continues: bool,
    },
}

/// Writes a shard, which appears under its name once it is complete.
pub struct ShardWriter {
    path: PathBuf,
    file: AtomicFile,
    vocab_size: usize,
    width: usize,
    tokens: u64,
    boundaries: Boundaries,
    starts: Vec<u64>,
    bytes: Vec<u8>,
}

impl ShardWriter {
    /// Starts a shard that [`ShardWriter::commit`] places at `path`.
    ///
    /// # Errors
    /// Fails if `vocab_size` is 0 or more than 2^31 - 1, or if no file can be created beside `path`.
    pub fn create(path: &Path, vocab_size: usize, boundaries: Boundaries) -> Result<Self> {
        let vocab = vocab_size as u64;
        if vocab == 0 || vocab > MAX_VOCAB {
            bail!(
                "cannot write {}: vocabulary size {vocab_size} is not in 1..={MAX_VOCAB}; use another tokenizer",
                path.display()
            );
        }
        let mut file = AtomicFile::create(path)?;
        file.write(&[0; HEADER])?;
        let width = width_of(vocab) as usize;
        let (path, starts, bytes) = (path.to_owned(), Vec::new(), Vec::new());
        Ok(ShardWriter { path, file, vocab_size, width, tokens: 0, boundaries, starts, bytes })
    }

    /// Returns the number of tokens so far.
    pub fn len(&self) -> u64 {
        self.tokens
    }

    /// Returns whether there are no tokens so far.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Returns the number of documents that begin in this shard so far.
    pub fn documents(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Marks the next token as the first of a document.
    pub fn begin_document(&mut self) {
        self.starts.push(self.tokens);
    }

    /// Appends tokens.
    ///
    /// # Errors
    /// Fails if a token is not below the vocabulary size, or if the file cannot be written.
    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        if let Some(at) = tokens.iter().position(|&t| t as usize >= self.vocab_size) {
            bail!(
                "cannot write {}: token {} at position {} is not below the vocabulary size {}; the tokens were made \
                 with another tokenizer",
                self.path.display(),
                tokens[at],
                self.tokens + at as u64,
                self.vocab_size
            );
        }
        for part in tokens.chunks(1 << 16) {
            self.bytes.clear();
            part.iter().for_each(|token| self.bytes.extend_from_slice(&token.to_le_bytes()[..self.width]));
            self.file.write(&self.bytes)?;
        }
        self.tokens += tokens.len() as u64;
        Ok(())
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn commit(mut self) -> Result<()> {
        let mut header = [0; HEADER];
        let (version, continues) = match self.boundaries {
            Boundaries::Unknown => (1u32, false),
            Boundaries::Known { continues } => (2, continues),
        };
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&version.to_le_bytes());
        header[12..16].copy_from_slice(&(self.width as u32).to_le_bytes());
        header[16..24].copy_from_slice(&(self.vocab_size as u64).to_le_bytes());
        header[24..32].copy_from_slice(&self.tokens.to_le_bytes());
        if version == 2 {
            header[32..40].copy_from_slice(&self.documents().to_le_bytes());
            header[40..44].copy_from_slice(&u32::from(continues).to_le_bytes());
            let padding = (self.tokens * self.width as u64).next_multiple_of(8) - self.tokens * self.width as u64;
            self.file.write(&[0; 8][..padding as usize])?;
            for start in &self.starts {
                self.file.write(&start.to_le_bytes())?;
            }
        }
        self.file.write_at_start(&header)?;
        self.file.commit()
    }
}

/// Writes a sequence of shards `NAME-00000.bin`, `NAME-00001.bin`, ... of `limit` tokens each; the last one may be
/// shorter.
pub(in crate::data) struct ShardSeries<'a> {
    dir: &'a Path,
    name: &'static str,
    vocab_size: usize,
    limit: u64,
    open: Option<ShardWriter>,
    /// Whether the next token begins a document.
    begins: bool,
    /// The complete files: name, number of tokens, and number of documents that begin in it.
    pub done: Vec<(String, u64, u64)>,
}

impl<'a> ShardSeries<'a> {
    /// Returns a series without files in the folder `dir`.
    pub fn new(dir: &'a Path, name: &'static str, vocab_size: usize, limit: u64) -> Self {
        ShardSeries { dir, name, vocab_size, limit, open: None, begins: false, done: Vec::new() }
    }

    /// Appends tokens. With `begins`, they begin a document. A document without tokens is not recorded.
    ///
    /// # Errors
    /// See [`ShardWriter::create`], [`ShardWriter::push`] and [`ShardWriter::commit`].
    pub fn push(&mut self, tokens: &[u32], begins: bool) -> Result<()> {
        self.begins |= begins;
        let mut rest = tokens;
        while !rest.is_empty() {
            let mut writer = match self.open.take() {
                Some(writer) => writer,
                None => {
                    let path = self.dir.join(self.file_name());
                    ShardWriter::create(&path, self.vocab_size, Boundaries::Known { continues: !self.begins })?
                }
            };
            if std::mem::take(&mut self.begins) {
                writer.begin_document();
            }
            let capacity = usize::try_from(self.limit - writer.len()).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(capacity.min(rest.len()));
            writer.push(now)?;
            rest = later;
            self.open = Some(writer);
            if now.len() == capacity {
                self.close()?;
            }
        }
        Ok(())
    }

    /// Completes the last file.
    ///
    /// # Errors
    /// See [`ShardWriter::commit`].
    pub fn close(&mut self) -> Result<()> {
        if let Some(writer) = self.open.take() {
            let facts = (self.file_name(), writer.len(), writer.documents());
            writer.commit()?;
            self.done.push(facts);
        }
        Ok(())
    }

    fn file_name(&self) -> String {
        format!("{}-{:05}.bin", self.name, self.done.len())
    }
}
