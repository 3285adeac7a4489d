//! Text files of any size as a stream of UTF-8, in bounded memory: plain, gzip (one or more members) and Zstandard (one or
//! more frames). Other files as a stream of bytes.

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

/// Bytes read at a time; few where inputs are made up to break this, so that a part may end anywhere.
const CHUNK: usize = if cfg!(fuzzing) { 128 } else { 256 << 10 };

/// Text compresses to a fifth, the most repetitive logs to a hundredth. Beyond this, a few bytes could fill any disk and
/// take for ever; up to [`SMALL_TEXT`] bytes nothing is refused.
const LARGEST_RATIO: u64 = 200;
const SMALL_TEXT: u64 = 64 << 20;

/// How the bytes of a file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Zstd,
    Gzip,
}

impl Compression {
    /// By the first bytes, none of which a text or an image file has. Zstandard has other ways to begin, so there the name counts;
    /// a file that is only called `.gz` was decompressed on its way, as browsers do.
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

    /// As [`Compression::of`].
    ///
    /// # Errors
    /// The file stands for another one, or is what a failed download leaves.
    fn checked(path: &Path, first: &[u8]) -> Result<Self> {
        files::check_fetched(path, first)?;
        let compressed = path.extension().is_some_and(|extension| extension == "gz" || extension == "zst");
        if compressed && files::is_web_page(first) {
            return Err(files::web_page(path));
        }
        Ok(Self::of(path, first))
    }
}

/// Opens a regular file for reading from its begin to its end.
///
/// # Errors
/// When it is missing, a folder or another thing that is no file, or unreadable.
pub(in crate::data) fn open_file(path: &Path) -> Result<BufReader<File>> {
    let facts = fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if facts.is_dir() {
        bail!("cannot read {}: it is a folder; name one file in it", path.display());
    }
    if !facts.is_file() {
        bail!(
            "cannot read {}: it is not a regular file, and data is read more than once; write it to a file first",
            path.display()
        );
    }
    Ok(BufReader::with_capacity(CHUNK, File::open(path).map_err(|e| Error::io("read", path, e))?))
}

/// A file's text, piece by piece.
pub struct TextReader {
    path: PathBuf,
    bytes: Bytes,
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that begin a character whose end is not read yet.
    carried: usize,
    /// Bytes and line ends of the text so far, for errors.
    offset: u64,
    lines: u64,
    /// More bytes than this are no text that was compressed.
    most: u64,
    blank: bool,
    /// Nothing was read yet.
    first: bool,
}

enum Bytes {
    Plain(Box<dyn Read + Send>),
    Zstd(Box<Zstd>),
    Gzip(Gzip),
}

impl TextReader {
    /// Opens the text at `path`; nothing but its first bytes is read yet.
    ///
    /// # Errors
    /// When the file is missing, unreadable, not a regular file, or empty.
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

    /// A text in memory, under a name for errors.
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

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the next part of the text, at most 256 KiB, to `out`; false: there was none left.
    ///
    /// # Errors
    /// When the file cannot be read, is corrupt or cut short, is not UTF-8 (with the byte offset and line of the first
    /// bad byte), or ends and was only whitespace.
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
                // A character may go on in the next part, if there is one.
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
                    "{}: the compressed file holds more than {} bytes, as no text of its size does; give the text itself",
                    self.path.display(),
                    self.most
                );
            }
            // A byte order mark is no text.
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
            "{}: not UTF-8 at {what} {} (line {}); convert the {bytes} to UTF-8 from whatever it is in, for instance with \
             `iconv -f LATIN1 -t UTF-8` if that is Latin-1",
            self.path.display(),
            self.offset,
            self.lines + 1
        ))
    }
}

/// A file's bytes, decompressed as text is: for formats that are none.
pub(in crate::data) struct ByteReader {
    path: PathBuf,
    bytes: Bytes,
    offset: u64,
    most: u64,
}

impl ByteReader {
    /// # Errors
    /// When the file is missing, unreadable or not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = open_file(path)?;
        let first = file.fill_buf().map_err(|e| Error::io("read", path, e))?;
        let compression = Compression::checked(path, first)?;
        let (bytes, most) = Bytes::open(compression, path, file)?;
        Ok(ByteReader { path: path.to_owned(), bytes, offset: 0, most })
    }

    /// Fills `out` as far as the file reaches, and says how far: less than all of it only at the end.
    ///
    /// # Errors
    /// When the file cannot be read, is corrupt, or far larger than what it was compressed to.
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
                "{}: the compressed file holds more than {} bytes, as no data of its size does; give it uncompressed",
                self.path.display(),
                self.most
            );
        }
        Ok(filled)
    }

    /// As [`ByteReader::fill`], of `count` bytes that a header claims: memory grows with what is there.
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
    /// The bytes of an open file, and the most that it may hold.
    fn open(compression: Compression, path: &Path, file: BufReader<File>) -> Result<(Self, u64)> {
        let size = file.get_ref().metadata().map_err(|e| Error::io("read", path, e))?.len();
        let most = SMALL_TEXT.max(size.saturating_mul(LARGEST_RATIO));
        Ok(match compression {
            Compression::None => (Bytes::Plain(Box::new(file)), u64::MAX),
            Compression::Zstd => (Bytes::Zstd(Box::new(Zstd::new(file))), most),
            Compression::Gzip => (Bytes::Gzip(Gzip::new(file)), most),
        })
    }

    /// The next bytes; 0: there are no more.
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
                // The system's own errors have a code, the decoder's have none.
                (Err(e), Bytes::Gzip(_)) if e.raw_os_error().is_none() => Err(Error::new(format!(
                    "{}: corrupt gzip data: {e}; fetch or compress the file again (`gzip -t` checks it)",
                    path.display()
                ))),
                (Err(e), _) => Err(Error::io("read", path, e)),
            };
        }
    }
}

/// Zstandard frames, one after another.
struct Zstd {
    file: Counted,
    decoder: FrameDecoder,
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

    /// Reads the header of the next frame that has content; false: the file has no more.
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
            "{}: corrupt Zstandard data in the frame or just before byte {}: {error}; fetch or compress the file again \
             (`zstd -t` checks it)",
            path.display(),
            self.file.bytes
        ))
    }
}

/// A file that knows how far it was read.
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
