//! Reads text files of any size as a stream of UTF-8, and other files as a stream of bytes, in bounded memory. Files
//! may be plain, gzip (one or more members) or Zstandard (one or more frames).

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::encodings;
use super::gzip::Gzip;
use crate::bail;
use crate::error::{Error, Result};
use crate::files;

/// The number of bytes read at a time. It is small for fuzzing, so that a part may end at any character.
const CHUNK: usize = if cfg!(fuzzing) { 128 } else { 256 << 10 };

/// The largest accepted ratio of decompressed to compressed size. Text compresses to about a fifth, the most repetitive
/// logs to a hundredth. The limit stops decompression bombs, which would fill any disk.
const LARGEST_RATIO: u64 = 200;
/// The decompressed size in bytes up to which [`LARGEST_RATIO`] is not checked.
const SMALL_TEXT: u64 = 64 << 20;

/// How the bytes of a file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not compressed.
    None,
    /// One or more Zstandard frames.
    Zstd,
    /// One or more gzip members.
    Gzip,
}

impl Compression {
    /// Detects the compression by the magic bytes in `first`, with which no text or image file begins. A Zstandard file
    /// may begin with other bytes (a skippable frame), so the extension `.zst` counts, too. A file that is only named
    /// `.gz` was decompressed in transit, as browsers do, and is read as it is.
    pub fn of(path: &Path, first: &[u8]) -> Self {
        let named = |name: &str| path.extension().is_some_and(|extension| extension == name);
        match first {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ if named("zst") => Compression::Zstd,
            [] | [_] if named("gz") => Compression::Gzip,
            _ => Compression::None,
        }
    }

    /// Detects the compression like [`Compression::of`].
    ///
    /// # Errors
    /// Fails if the file is a Git LFS pointer, or if its name says that it is compressed but its content is a web page,
    /// as a failed download leaves it.
    fn checked(path: &Path, first: &[u8]) -> Result<Self> {
        files::check_fetched(path, first)?;
        let compressed = path.extension().is_some_and(|extension| extension == "gz" || extension == "zst");
        if compressed && files::is_web_page(first) {
            return Err(files::web_page(path));
        }
        Ok(Self::of(path, first))
    }
}

/// Opens a regular file for sequential reading.
///
/// # Errors
/// Fails if the file is missing, unreadable, a folder, or not a regular file.
pub(in crate::data) fn open_file(path: &Path) -> Result<BufReader<File>> {
    let facts = fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if facts.is_dir() {
        bail!("cannot read {}: it is a folder; name one file in it", path.display());
    }
    if !facts.is_file() {
        bail!(
            "cannot read {}: it is not a regular file, but data is read more than once; write it to a file first",
            path.display()
        );
    }
    Ok(BufReader::with_capacity(CHUNK, File::open(path).map_err(|e| Error::io("read", path, e))?))
}

/// Reads the text of a file part by part.
pub struct TextReader {
    path: PathBuf,
    bytes: Bytes,
    buffer: Vec<u8>,
    /// The number of bytes at the front of `buffer` that are the start of a character whose end was not read yet.
    carried: usize,
    /// The number of bytes of text so far.
    offset: u64,
    /// The number of line ends so far.
    lines: u64,
    /// The largest accepted number of bytes after decompression.
    most: u64,
    /// Whether the text was only whitespace so far.
    blank: bool,
    /// Whether nothing was read yet.
    first: bool,
}

enum Bytes {
    Plain(Box<dyn Read + Send>),
    Zstd(Box<Zstd>),
    Gzip(Gzip),
}

impl TextReader {
    /// Opens the text at `path` and reads its first bytes to detect the compression.
    ///
    /// # Errors
    /// Fails if the file is missing, unreadable, not a regular file, empty, a Git LFS pointer, or a web page in place
    /// of a compressed file.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = open_file(path)?;
        let first = file.fill_buf().map_err(|e| Error::io("read", path, e))?;
        if first.is_empty() {
            bail!("{}: the file is empty; give a file with text in it", path.display());
        }
        let compression = Compression::checked(path, first)?;
        let (bytes, most) = Bytes::open(compression, path, file)?;
        Ok(Self::new(path, bytes, most))
    }

    /// Returns a reader of a text in memory. `name` stands for its path in error messages.
    pub(in crate::data) fn in_memory(name: &Path, text: Vec<u8>) -> Self {
        Self::new(name, Bytes::Plain(Box::new(io::Cursor::new(text))), u64::MAX)
    }

    fn new(path: &Path, bytes: Bytes, most: u64) -> Self {
        let path = path.to_owned();
        TextReader {
            path,
            bytes,
            buffer: vec![0; CHUNK],
            carried: 0,
            offset: 0,
            lines: 0,
            most,
            blank: true,
            first: true,
        }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the next part of the text, at most 256 KiB, to `out`. Returns false at the end of the file.
    ///
    /// # Errors
    /// Fails if the file cannot be read, is corrupt or truncated, decompresses to far more than text does, is not UTF-8
    /// (the message has the byte offset and line of the first bad byte), or consists only of whitespace.
    pub fn read(&mut self, out: &mut String) -> Result<bool> {
        loop {
            let read = self.bytes.read(&self.path, &mut self.buffer[self.carried..])?;
            let filled = self.carried + read;
            if std::mem::take(&mut self.first)
                && let Some(encoding) = encodings::other_than_utf8(&self.buffer[..filled])
            {
                return Err(Error::new(encodings::named(&self.path, encoding, self.is_compressed())));
            }
            let (text, bad) = match str::from_utf8(&self.buffer[..filled]) {
                Ok(text) => (text, false),
                // The last character may continue in the next part, if there is one.
                Err(e) => {
                    let good = &self.buffer[..e.valid_up_to()];
                    (str::from_utf8(good).unwrap_or_default(), e.error_len().is_some() || read == 0)
                }
            };
            let valid = text.len();
            self.offset += valid as u64;
            self.lines += text.bytes().filter(|&b| b == b'\n').count() as u64;
            if bad {
                return Err(self.not_utf8());
            }
            if self.offset > self.most {
                bail!(
                    "{}: the compressed file expands to more than {} bytes, far more than text of its size does; give \
                     the uncompressed text",
                    self.path.display(),
                    self.most
                );
            }
            // Drop a byte order mark at the start.
            let text = if self.offset == valid as u64 { text.strip_prefix('\u{feff}').unwrap_or(text) } else { text };
            self.blank = self.blank && text.trim().is_empty();
            out.push_str(text);
            self.buffer.copy_within(valid..filled, 0);
            self.carried = filled - valid;
            if read == 0 && self.blank {
                bail!("{}: the text is only whitespace; give a file with text in it", self.path.display());
            }
            if read == 0 || valid > 0 {
                return Ok(read > 0);
            }
        }
    }

    fn is_compressed(&self) -> bool {
        !matches!(self.bytes, Bytes::Plain(_))
    }

    fn not_utf8(&self) -> Error {
        let (what, bytes) = match self.is_compressed() {
            false => ("byte", "file"),
            true => ("decompressed byte", "text"),
        };
        Error::new(format!(
            "{}: not UTF-8 at {what} {} (line {}); convert the {bytes} to UTF-8, for example with \
             `iconv -f LATIN1 -t UTF-8` if it is Latin-1",
            self.path.display(),
            self.offset,
            self.lines + 1
        ))
    }
}

/// Reads the bytes of a binary file, decompressed like text files are.
pub(in crate::data) struct ByteReader {
    path: PathBuf,
    bytes: Bytes,
    offset: u64,
    most: u64,
}

impl ByteReader {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// Fails if the file is missing, unreadable, not a regular file, a Git LFS pointer, or a web page in place of a
    /// compressed file.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = open_file(path)?;
        let first = file.fill_buf().map_err(|e| Error::io("read", path, e))?;
        let compression = Compression::checked(path, first)?;
        let (bytes, most) = Bytes::open(compression, path, file)?;
        Ok(ByteReader { path: path.to_owned(), bytes, offset: 0, most })
    }

    /// Fills `out` and returns the number of bytes written, which is less than its length only at the end of the file.
    ///
    /// # Errors
    /// Fails if the file cannot be read, is corrupt, or is far larger than its compressed size suggests.
    pub fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            let read = self.bytes.read(&self.path, &mut out[filled..])?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        self.offset += filled as u64;
        if self.offset > self.most {
            bail!(
                "{}: the compressed file expands to more than {} bytes, far more than data of its size does; give the \
                 uncompressed file",
                self.path.display(),
                self.most
            );
        }
        Ok(filled)
    }

    /// Reads up to `count` bytes into `out`, replacing its content, and returns how many were read. `out` grows with
    /// the bytes that are there, so a header that claims too many does not exhaust the memory.
    ///
    /// # Errors
    /// See [`ByteReader::fill`].
    pub fn read(&mut self, out: &mut Vec<u8>, count: usize) -> Result<usize> {
        out.clear();
        while out.len() < count {
            let (begin, end) = (out.len(), count.min(2 * out.len() + CHUNK));
            out.resize(end, 0);
            let read = self.fill(&mut out[begin..])?;
            if begin + read < end {
                out.truncate(begin + read);
                break;
            }
        }
        Ok(out.len())
    }
}

impl Bytes {
    /// Returns the decompressed bytes of an open file, and the largest accepted number of them.
    fn open(compression: Compression, path: &Path, file: BufReader<File>) -> Result<(Self, u64)> {
        let size = file.get_ref().metadata().map_err(|e| Error::io("read", path, e))?.len();
        let most = SMALL_TEXT.max(size.saturating_mul(LARGEST_RATIO));
        Ok(match compression {
            Compression::None => (Bytes::Plain(Box::new(file)), u64::MAX),
            Compression::Zstd => (Bytes::Zstd(Box::new(Zstd::new(file))), most),
            Compression::Gzip => (Bytes::Gzip(Gzip::new(file)), most),
        })
    }

    /// Reads the next bytes into `out` and returns how many, 0 at the end.
    fn read(&mut self, path: &Path, out: &mut [u8]) -> Result<usize> {
        loop {
            let read = match self {
                Bytes::Plain(file) => file.read(out),
                Bytes::Zstd(frames) => return frames.read(path, out),
                Bytes::Gzip(members) => members.read(out),
            };
            return match (read, &self) {
                (Ok(read), _) => Ok(read),
                (Err(e), _) if e.kind() == io::ErrorKind::Interrupted => continue,
                // Errors of the operating system have a code; those of the decoder have none.
                (Err(e), Bytes::Gzip(_)) if e.raw_os_error().is_none() => Err(Error::new(format!(
                    "{}: corrupt gzip data: {e}; fetch or compress the file again (`gzip -t` checks it)",
                    path.display()
                ))),
                (Err(e), _) => Err(Error::io("read", path, e)),
            };
        }
    }
}

/// Decompresses a sequence of Zstandard frames.
struct Zstd {
    file: Counted,
    decoder: FrameDecoder,
    /// Whether the decoder is within a frame.
    inside: bool,
}

impl Zstd {
    fn new(file: BufReader<File>) -> Self {
        Zstd { file: Counted { file, bytes: 0 }, decoder: FrameDecoder::new(), inside: false }
    }

    fn read(&mut self, path: &Path, out: &mut [u8]) -> Result<usize> {
        loop {
            if !self.inside && !self.enter(path)? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let decoded = self.decoder.decode_blocks(&mut self.file, BlockDecodingStrategy::UptoBlocks(1));
                decoded.map_err(|e| self.corrupt(path, &e))?;
            }
            let read = self.decoder.read(out).map_err(|e| self.corrupt(path, &e))?;
            if read > 0 {
                return Ok(read);
            }
            let stored = self.decoder.get_checksum_from_data();
            if stored.is_some() && stored != self.decoder.get_calculated_checksum() {
                return Err(self.corrupt(path, &"the checksum does not match"));
            }
            self.inside = false;
        }
    }

    /// Reads the header of the next frame that has content. Returns false at the end of the file.
    fn enter(&mut self, path: &Path) -> Result<bool> {
        while !self.file.file.fill_buf().map_err(|e| Error::io("read", path, e))?.is_empty() {
            match self.decoder.reset(&mut self.file) {
                Ok(()) => {
                    self.inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut Read::by_ref(&mut self.file).take(length), &mut io::sink());
                    if skipped.map_err(|e| Error::io("read", path, e))? < length {
                        return Err(self.corrupt(path, &"a skippable frame is cut short"));
                    }
                }
                Err(error) => return Err(self.corrupt(path, &error)),
            }
        }
        Ok(false)
    }

    fn corrupt(&self, path: &Path, error: &dyn std::fmt::Display) -> Error {
        Error::new(format!(
            "{}: corrupt Zstandard data at or before byte {}: {error}; fetch or compress the file again \
             (`zstd -t` checks it)",
            path.display(),
            self.file.bytes
        ))
    }
}

/// A file that counts the bytes read from it.
struct Counted {
    file: BufReader<File>,
    bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(out)?;
        self.bytes += read as u64;
        Ok(read)
    }
}
