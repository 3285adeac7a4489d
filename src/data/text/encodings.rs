//! Detects text encodings other than UTF-8 (UTF-16 and UTF-32) where the first bytes make them certain.

use std::path::Path;

use crate::files::shell_quote;

/// The number of bytes that are examined.
const LOOKED_AT: usize = 4096;
/// Without a byte order mark, fewer bytes than this are too few to decide.
const FEWEST: usize = 16;

/// Returns the encoding of a text by its first bytes, as `iconv` names it, or `None` if it may be UTF-8. A byte order
/// mark decides. Without one, the text is UTF-16 if nearly every other byte is zero (UTF-32: three of every four),
/// which holds for most European languages and few others.
pub(in crate::data) fn other_than_utf8(first: &[u8]) -> Option<&'static str> {
    match first {
        // UTF-32 first: as UTF-16LE, the first of these would begin with a NUL character.
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => return Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Some("UTF-16"),
        _ => {}
    }
    let looked_at = &first[..first.len().min(LOOKED_AT) / 4 * 4];
    if looked_at.len() < FEWEST {
        return None;
    }
    let zeros = |place: usize| looked_at.iter().skip(place).step_by(4).filter(|&&byte| byte == 0).count();
    let quarter = looked_at.len() / 4;
    let [mostly, rarely] = [quarter * 3 / 4, quarter / 16];
    let is = [0, 1, 2, 3].map(|place| match zeros(place) {
        count if count >= mostly => Some(true),
        count if count <= rarely => Some(false),
        _ => None,
    });
    match is {
        [Some(false), Some(true), Some(true), Some(true)] => Some("UTF-32LE"),
        [Some(true), Some(true), Some(true), Some(false)] => Some("UTF-32BE"),
        [Some(false), Some(true), Some(false), Some(true)] => Some("UTF-16LE"),
        [Some(true), Some(false), Some(true), Some(false)] => Some("UTF-16BE"),
        _ => None,
    }
}

/// Returns the error message for a text in another encoding, with the command that converts it.
pub(in crate::data) fn named(path: &Path, encoding: &str, compressed: bool) -> String {
    let place = path.display();
    if compressed {
        return format!(
            "{place}: the text is {encoding}, not UTF-8; decompress it and convert it with `iconv -f {encoding} -t \
             UTF-8`"
        );
    }
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    let to = path.with_extension(format!("utf8{extension}"));
    let [from, to] = [path, &to].map(shell_quote);
    format!("{place}: the text is {encoding}, not UTF-8; convert it with `iconv -f {encoding} -t UTF-8 {from} > {to}`")
}
