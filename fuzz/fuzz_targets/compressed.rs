//! gzip and Zstandard. The first byte chooses: the file as it is, under one of two names, or raw deflate data that becomes a
//! member of a gzip file with the right sum, since no mutation would find that.
//!
//! Sources: src/data/text/reader.rs src/data/text/gzip.rs src/data/text/encodings.rs src/data/text/documents.rs
#![no_main]

use flate2::read::DeflateDecoder;
use harness::{Case, Memory, choice, run, same};
use std::io::Read;
use vcycle::data::text::reader::TextReader;
use vcycle::data::text::read_text;

/// What is inflated here.
const MOST: u64 = 1 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = choice(data) else { return };
    // Up to 64 MiB of text are never refused, however small the file (`SMALL_TEXT` in src/data/text/reader.rs).
    run(data, Memory { mib: 200, per_byte: 64 }, |case| match which % 4 {
        0 => drop(read(case, "text.gz", data)),
        1 => drop(read(case, "text.zst", data)),
        2 => drop(read(case, "text.txt", data)),
        _ => members(case, data, usize::from(which / 4)),
    });
});

/// Streamed, and whole.
fn read(case: &Case, name: &str, data: &[u8]) -> Option<String> {
    let path = case.file(name, data);
    let mut reader = case.accepted(TextReader::open(&path), name)?;
    let (mut part, mut bytes) = (String::new(), 0);
    while case.accepted(reader.read(&mut part), name)? {
        bytes += part.len();
        part.clear();
    }
    let text = case.accepted(read_text(&path), name)?;
    // JSON lines by content are read for their texts.
    assert!(text.len() <= bytes);
    Some(text)
}

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

/// Two members, and `zeros` after them.
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
    // What has an encoding's mark or is blank is refused; JSON is not read as it is.
    if let Some(found) = found.filter(|_| !text.trim_start_matches('\u{feff}').trim_start().starts_with('{')) {
        same("the text", &found.as_str(), &text.strip_prefix('\u{feff}').unwrap_or(&text));
    }
}
