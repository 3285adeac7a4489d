//! gzip and Zstandard. The first byte selects how the input is used: as the whole file under one of three names, or as
//! raw deflate data of gzip members, for which the target adds the correct checksum, since mutation would never find
//! it.
//!
//! Sources: src/data/text/reader.rs src/data/text/gzip.rs src/data/text/encodings.rs src/data/text/documents.rs
#![no_main]

use flate2::read::DeflateDecoder;
use harness::{Case, Memory, choice, run, same};
use std::io::Read;
use vcycle::data::text::read_text;
use vcycle::data::text::reader::TextReader;

/// The largest number of bytes that this target inflates from a member.
const MOST: u64 = 1 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = choice(data) else { return };
    // Up to 64 MiB of text are always accepted, however small the file (`SMALL_TEXT` in src/data/text/reader.rs).
    run(data, Memory { mib: 200, per_byte: 64 }, |case| match which % 4 {
        0 => drop(read(case, "text.gz", data)),
        1 => drop(read(case, "text.zst", data)),
        2 => drop(read(case, "text.txt", data)),
        _ => members(case, data, usize::from(which / 4)),
    });
});

/// Reads a text as a stream, and as a whole.
fn read(case: &Case, name: &str, data: &[u8]) -> Option<String> {
    let path = case.file(name, data);
    let mut reader = case.accepted(TextReader::open(&path), name)?;
    let (mut part, mut bytes) = (String::new(), 0);
    while case.accepted(reader.read(&mut part), name)? {
        bytes += part.len();
        part.clear();
    }
    let text = case.accepted(read_text(&path), name)?;
    // If the content is JSON lines, only their texts are returned.
    assert!(text.len() <= bytes);
    Some(text)
}

/// Makes a gzip member of raw deflate data. Returns it with its text, or `None` if the data is invalid or too long.
fn member(packed: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut decoder, mut text) = (DeflateDecoder::new(packed), Vec::new());
    decoder.by_ref().take(MOST).read_to_end(&mut text).ok()?;
    if decoder.read(&mut [0]).ok()? != 0 {
        return None;
    }
    let used = decoder.total_in() as usize;
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    file.extend(&packed[..used]);
    file.extend(crc32fast::hash(&text).to_le_bytes());
    file.extend((text.len() as u32).to_le_bytes());
    Some((file, text))
}

/// Reads a gzip file with one or two members, followed by `zeros` zeros.
fn members(case: &Case, data: &[u8], zeros: usize) {
    let (first, second) = data.split_at(data.len() / 2);
    let (Some((mut file, mut text)), second) = (member(first), member(second)) else { return };
    if let Some((more, after)) = second {
        file.extend(more);
        text.extend(after);
    }
    file.resize(file.len() + zeros, 0);
    let found = read(case, "text.gz", &file);
    let Ok(text) = String::from_utf8(text) else { return assert!(found.is_none()) };
    // Text in another encoding and blank text are rejected; JSON lines are not returned unchanged.
    if let Some(found) = found.filter(|_| !text.trim_start_matches('\u{feff}').trim_start().starts_with('{')) {
        same("the text", &found.as_str(), &text.strip_prefix('\u{feff}').unwrap_or(&text));
    }
}
