//! Reads zip archives in memory, as written by `torch.save`.
//!
//! This is a custom reader because little is needed: no encryption, no archives split over several files, no legacy
//! code pages. Stored files are borrowed instead of copied. Everything is taken from the central directory at the end
//! of the archive (APPNOTE 6.3.10, sections 4.3.12 to 4.3.16); the local header before each file is used only to find
//! its first byte.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;

use flate2::read::DeflateDecoder;

use crate::bail;
use crate::error::{At, Error, Result};
use crate::memory;

const REMEDY: &str = "the file is truncated or damaged; download or save it again";

/// The first bytes of an archive.
pub const MAGIC: &[u8] = b"PK\x03\x04";

const END: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const END_64: &[u8] = b"PK\x06\x06";
const END_64_BYTES: usize = 56;
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const LOCATOR_64_BYTES: usize = 20;
const ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY_BYTES: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_BYTES: usize = 30;
/// Id of the extra field with 64-bit sizes.
const EXTRA_64: u16 = 1;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// Largest accepted compression ratio. Weights hardly compress; only zeros exceed this ratio, and no real checkpoint
/// consists of zeros.
const MAX_EXPANSION: u64 = 64;
/// Number of bytes to which any archive may expand, regardless of its size.
const FREE_EXPANSION: u64 = 1 << 20;

/// An archive and its directory.
pub struct Zip<'a> {
    bytes: &'a [u8],
    entries: HashMap<&'a str, Entry>,
    size: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    method: u16,
    encrypted: bool,
    crc: u32,
    packed: u64,
    size: u64,
    local: u64,
}

impl<'a> Zip<'a> {
    /// Reads the directory of an archive.
    ///
    /// # Errors
    /// The archive is truncated, damaged or split over several files; a name is not UTF-8 or appears twice; or files
    /// overlap or would expand to more than 64 times the size of the archive.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let (count, mut directory) = directory(bytes)?;
        let mut entries = HashMap::new();
        let (mut packed, mut size) = (0u64, 0u64);
        for _ in 0..count {
            let Some(fixed) = directory.get(..ENTRY_BYTES).filter(|b| b.starts_with(ENTRY)) else {
                bail!("the zip directory claims {count} files but lists {}; {REMEDY}", entries.len());
            };
            let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(u16_at(fixed, at)));
            let Some(record) = directory.get(ENTRY_BYTES..ENTRY_BYTES + name + extra + comment) else {
                bail!("the zip directory ends inside an entry; {REMEDY}");
            };
            let Ok(path) = std::str::from_utf8(&record[..name]) else {
                bail!("a name in the zip directory is not UTF-8; {REMEDY}");
            };
            let entry = entry(fixed, &record[name..name + extra]).at(format_args!("{path:?} in the archive"))?;
            packed = packed.saturating_add(entry.packed);
            size = size.saturating_add(entry.size);
            if entries.insert(path, entry).is_some() {
                bail!("{path:?} appears twice in the archive; {REMEDY}");
            }
            directory = &directory[ENTRY_BYTES + name + extra + comment..];
        }
        let whole = bytes.len() as u64;
        if packed > whole {
            bail!("the files in the archive overlap: they have {packed} bytes in total, the archive {whole}; {REMEDY}");
        }
        if size > whole.saturating_mul(MAX_EXPANSION).max(FREE_EXPANSION) {
            bail!("{whole} bytes claim to expand to {size}, more than {MAX_EXPANSION} times the size; {REMEDY}");
        }
        Ok(Zip { bytes, entries, size })
    }

    /// Returns the names of all files, in arbitrary order.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    /// Returns the total uncompressed size of all files in bytes.
    pub fn size(&self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }

    /// Whether the archive contains a file.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Returns the content of a file, borrowed if it is stored without compression.
    ///
    /// # Errors
    /// There is no such file, its method is neither stored nor deflate, its bytes are not inside the archive, or its
    /// checksum or size does not match the directory.
    pub fn read(&self, name: &str) -> Result<Cow<'a, [u8]>> {
        let Some(entry) = self.entries.get(name) else {
            bail!("{name:?} is missing from the archive; {REMEDY}");
        };
        self.content(entry).at(format_args!("{name:?} in the archive"))
    }

    fn content(&self, entry: &Entry) -> Result<Cow<'a, [u8]>> {
        if entry.encrypted {
            bail!("it is encrypted; save the checkpoint without a password");
        }
        let after = |at: u64| usize::try_from(at).ok().and_then(|at| self.bytes.get(at..));
        let Some(local) = after(entry.local).filter(|b| b.len() >= LOCAL_BYTES && b.starts_with(LOCAL)) else {
            bail!("it does not begin where the zip directory says; {REMEDY}");
        };
        let begin = LOCAL_BYTES + usize::from(u16_at(local, 26)) + usize::from(u16_at(local, 28));
        let end = usize::try_from(entry.packed).ok().and_then(|n| n.checked_add(begin));
        let Some(packed) = end.and_then(|end| local.get(begin..end)) else {
            bail!("its {} bytes are not inside the archive; {REMEDY}", entry.packed);
        };
        let content = match entry.method {
            STORED => Cow::Borrowed(packed),
            DEFLATED => Cow::Owned(inflate(packed, entry.size)?),
            other => {
                bail!("compression method {other} is not supported; save it with torch.save, which does not compress")
            }
        };
        if content.len() as u64 != entry.size {
            bail!("its size is {} bytes, but the zip directory says {}; {REMEDY}", content.len(), entry.size);
        }
        let mut sum = flate2::Crc::new();
        sum.update(&content);
        if sum.sum() != entry.crc {
            bail!("its checksum does not match the zip directory; {REMEDY}");
        }
        Ok(content)
    }
}

/// Decompresses a file of `size` bytes, which [`Zip::open`] has checked. Returns one byte more if there is more, so
/// that the caller notices.
fn inflate(packed: &[u8], size: u64) -> Result<Vec<u8>> {
    let mut content = memory::with_capacity(usize::try_from(size + 1).unwrap_or(usize::MAX))?;
    let mut source = DeflateDecoder::new(packed).take(size + 1);
    source.read_to_end(&mut content).map_err(|e| Error::new(format!("it cannot be decompressed: {e}; {REMEDY}")))?;
    Ok(content)
}

/// Returns the number of files and the bytes of the central directory.
fn directory(bytes: &[u8]) -> Result<(u64, &[u8])> {
    let last = bytes.len().saturating_sub(END_BYTES);
    // A comment of up to 65,535 bytes may follow.
    let found = (last.saturating_sub(usize::from(u16::MAX))..=last).rev().find(|&at| {
        bytes[at..].starts_with(END)
            && bytes[at..].get(20..22).is_some_and(|n| at + END_BYTES + usize::from(u16_at(n, 0)) == bytes.len())
    });
    let Some(at) = found else {
        bail!("a zip archive without the directory at its end; {REMEDY}");
    };
    let end = &bytes[at..];
    let locator = at.checked_sub(LOCATOR_64_BYTES).map(|from| &bytes[from..at]).filter(|b| b.starts_with(LOCATOR_64));
    let [disk, first_disk, on_disk, count] = [4, 6, 8, 10].map(|at| u16_at(end, at));
    let mut facts = [u64::from(count), u64::from(u32_at(end, 12)), u64::from(u32_at(end, 16))];
    let mut parts = [disk, first_disk].map(u32::from);
    if let Some(locator) = locator {
        let begin = usize::try_from(u64_at(locator, 8)).ok();
        let Some(wide) =
            begin.and_then(|b| bytes.get(b..)).filter(|b| b.len() >= END_64_BYTES && b.starts_with(END_64))
        else {
            bail!("the 64-bit part of the zip directory is missing; {REMEDY}");
        };
        facts = [32, 40, 48].map(|at| u64_at(wide, at));
        parts = [16, 20].map(|at| u32_at(wide, at));
    } else if on_disk != count {
        parts[0] = 1;
    }
    if parts != [0, 0] {
        bail!("one part of an archive that is split over several files; join them into one");
    }
    let [count, size, begin] = facts;
    let range = || Some(usize::try_from(begin).ok()?..usize::try_from(begin.checked_add(size)?).ok()?);
    match range().and_then(|range| bytes.get(range)) {
        Some(directory) => Ok((count, directory)),
        None => bail!("the zip directory is not inside the file; {REMEDY}"),
    }
}

/// Parses an entry of the directory from its fixed part and its extra fields.
fn entry(fixed: &[u8], mut extra: &[u8]) -> Result<Entry> {
    let narrow = |at: usize| u64::from(u32_at(fixed, at));
    let (mut packed, mut size, mut local) = (narrow(20), narrow(24), narrow(42));
    while extra.len() >= 4 {
        let (kind, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let Some(field) = extra.get(4..4 + length) else {
            bail!("a field of its zip entry is truncated; {REMEDY}");
        };
        if kind == EXTRA_64 {
            // The field contains only the numbers that did not fit into 32 bits, in this order.
            let mut wide = field.as_chunks::<8>().0.iter();
            for number in [&mut size, &mut packed, &mut local] {
                if *number == u64::from(u32::MAX) {
                    let Some(&value) = wide.next() else {
                        bail!("a 64-bit number of its zip entry is missing; {REMEDY}");
                    };
                    *number = u64::from_le_bytes(value);
                }
            }
        }
        extra = &extra[4 + length..];
    }
    let (encrypted, method, crc) = (u16_at(fixed, 8) & 1 != 0, u16_at(fixed, 10), u32_at(fixed, 16));
    Ok(Entry { method, encrypted, crc, packed, size, local })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
