//! Detects the format of a token file and reads its header; `docs/data.md` has tables of the formats.

use std::fmt;

use super::foreign;
use super::foreign::NPY;
use super::shard::{HEADER, MAGIC, MAX_VOCAB, width_of};
use crate::error::{Error, Result};

/// The size of llm.c's header in bytes: 256 numbers of four bytes.
const LLM_C_HEADER: usize = 1024;
/// llm.c's variants: the first two numbers of the header (magic number and version), and the bytes per token.
const LLM_C: [(u32, u32, usize); 2] = [(20_240_520, 1, 2), (20_240_801, 7, 4)];
/// The magic bytes of compressed files (gzip, Zstandard), whose tokens cannot be memory-mapped.
const COMPRESSED: [&[u8]; 2] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]];

/// The format of a token file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// This program's format, version 1: without document boundaries.
    Vcycle1,
    /// This program's format, version 2: with document boundaries.
    Vcycle2,
    /// llm.c's format: two bytes per token for GPT-2, four for Llama 3.
    LlmC,
    /// nanoGPT's format: two bytes per token and no header.
    NanoGpt,
    /// A NumPy array, as build-nanogpt writes.
    Npy,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Vcycle1 => "vcycle, version 1",
            Format::Vcycle2 => "vcycle, version 2 (with document boundaries)",
            Format::LlmC => "llm.c",
            Format::NanoGpt => "nanoGPT (no header)",
            Format::Npy => "NumPy (.npy)",
        })
    }
}

impl Format {
    /// Returns what to do about a damaged file, for error messages.
    pub(in crate::data) fn remedy(self) -> &'static str {
        match self {
            Format::Vcycle1 | Format::Vcycle2 => "remove its folder to have the data prepared again",
            Format::LlmC | Format::NanoGpt | Format::Npy => {
                "fetch or write the file again, or check that it is a token file"
            }
        }
    }
}

/// The layout of a token file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) struct Layout {
    pub format: Format,
    /// The offset of the first token in bytes.
    pub offset: usize,
    /// The number of bytes per token.
    pub width: usize,
    /// The number of tokens.
    pub tokens: usize,
    /// The vocabulary size in the header, if it states one.
    pub vocab_size: Option<usize>,
    /// The offset in bytes and the length of the table of document starts, if there is one.
    pub starts: Option<(usize, usize)>,
    /// Whether the first tokens belong to the last document of the previous shard.
    pub continues: bool,
}

/// Reads a little-endian `u32` at offset `at`.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads a little-endian `u64` at offset `at`.
pub(in crate::data) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl Layout {
    /// Reads the layout of a file in this program's format.
    ///
    /// # Errors
    /// Fails if the header is damaged, of an unknown version, or does not match the length of the file.
    pub fn own(file: &[u8]) -> Result<Layout> {
        let damaged = |what: String| Error::new(format!("{what}; {}", Format::Vcycle1.remedy()));
        if file.len() < HEADER {
            return Err(damaged(format!("{} bytes are too few for a token shard's {HEADER}-byte header", file.len())));
        }
        if &file[..8] != MAGIC {
            return Err(damaged("not a token shard (no VCYCTOK1 at its start)".into()));
        }
        let (format, rest) = match u32_at(file, 8) {
            1 => (Format::Vcycle1, 32),
            2 => (Format::Vcycle2, 44),
            version => {
                return Err(damaged(format!("token shard version {version}, but this program reads versions 1 and 2")));
            }
        };
        let (width, vocab, count) = (u32_at(file, 12), u64_at(file, 16), u64_at(file, 24));
        if vocab == 0 || vocab > MAX_VOCAB {
            return Err(damaged(format!("damaged header: vocabulary size {vocab} is not in 1..={MAX_VOCAB}")));
        }
        if width != width_of(vocab) {
            return Err(damaged(format!(
                "damaged header: {width} bytes per token, but a vocabulary of {vocab} takes {}",
                width_of(vocab)
            )));
        }
        if file[rest..HEADER].iter().any(|&b| b != 0) {
            return Err(damaged(format!("damaged header: bytes {rest}..64 are not zero")));
        }
        let (documents, continues) = match format {
            Format::Vcycle2 => (u64_at(file, 32), u32_at(file, 40)),
            _ => (0, 0),
        };
        // Checked arithmetic, because a damaged header may contain any numbers.
        let tokens_end = count.checked_mul(u64::from(width)).and_then(|bytes| bytes.checked_add(HEADER as u64));
        let table = match format {
            Format::Vcycle2 => tokens_end.and_then(|end| end.checked_next_multiple_of(8)),
            _ => tokens_end,
        };
        let end = documents.checked_mul(8).zip(table).and_then(|(bytes, table)| table.checked_add(bytes));
        let table = match (table, end) {
            (Some(table), Some(end)) if end == file.len() as u64 => table as usize,
            _ => {
                let starts = if documents > 0 { format!(" and {documents} documents") } else { String::new() };
                return Err(damaged(format!(
                    "the header says {count} tokens of {width} bytes{starts}, but the file has {} bytes after the \
                     header",
                    file.len() - HEADER
                )));
            }
        };
        if format == Format::Vcycle2 {
            let first = (documents > 0).then(|| u64_at(file, table));
            let valid = match (continues, first) {
                (0, Some(0)) => true,
                (0, None) => count == 0,
                (1, first) => count > 0 && first != Some(0),
                _ => false,
            };
            if !valid || documents > 0 && u64_at(file, file.len() - 8) >= count {
                return Err(damaged("damaged: its table of documents does not match its tokens".into()));
            }
        }
        let starts = (format == Format::Vcycle2).then_some((table, documents as usize));
        let (width, tokens) = (width as usize, count as usize);
        let (vocab_size, continues) = (Some(vocab as usize), continues == 1);
        Ok(Layout { format, offset: HEADER, width, tokens, vocab_size, starts, continues })
    }

    /// Reads the layout of a file in any [`Format`]. A file without a known header is read as nanoGPT's, unless it is
    /// clearly something else.
    ///
    /// # Errors
    /// Fails if the file is compressed, is not a token file, or if its header is damaged or does not match its length.
    pub fn any(file: &[u8]) -> Result<Layout> {
        if file.starts_with(b"VCYC") {
            return Self::own(file);
        }
        if COMPRESSED.iter().any(|magic| file.starts_with(magic)) {
            return Err(Error::new("compressed, but token files are memory-mapped; decompress it"));
        }
        let damaged = |format: Format, what: String| Error::new(format!("{what}; {}", format.remedy()));
        if file.len() >= 8
            && let Some((_, known, width)) = LLM_C.iter().find(|(magic, ..)| *magic == u32_at(file, 0))
        {
            let damaged = |what| damaged(Format::LlmC, what);
            let version = u32_at(file, 4);
            if version != *known {
                return Err(damaged(format!("an llm.c file of version {version}, but this program reads {known}")));
            }
            if file.len() < LLM_C_HEADER {
                let size = file.len();
                return Err(damaged(format!("{size} bytes are too few for the {LLM_C_HEADER}-byte header of llm.c")));
            }
            let count = u64::from(u32_at(file, 8));
            let bytes = file.len() - LLM_C_HEADER;
            if count * *width as u64 != bytes as u64 {
                return Err(damaged(format!(
                    "the header says {count} tokens of {width} bytes, but the file has {bytes} bytes after the header"
                )));
            }
            let tokens = count as usize;
            return Ok(Self::foreign(Format::LlmC, LLM_C_HEADER, *width, tokens));
        }
        if file.starts_with(NPY) {
            let (offset, width, tokens) = foreign::npy(file)?;
            return Ok(Self::foreign(Format::Npy, offset, width, tokens));
        }
        foreign::check_headerless(file)?;
        if !file.len().is_multiple_of(2) {
            let size = file.len();
            return Err(damaged(
                Format::NanoGpt,
                format!("no header of vcycle or llm.c, and {size} bytes are not a whole number of two-byte tokens"),
            ));
        }
        Ok(Self::foreign(Format::NanoGpt, 0, 2, file.len() / 2))
    }

    fn foreign(format: Format, offset: usize, width: usize, tokens: usize) -> Layout {
        Layout { format, offset, width, tokens, vocab_size: None, starts: None, continues: false }
    }
}
