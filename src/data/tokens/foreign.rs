//! Reads NumPy's token files, and rejects files that are not token files. The latter matters because nanoGPT's token
//! files have no header, so nearly any file could be read as two-byte tokens.

use std::collections::BTreeSet;

use crate::bail;
use crate::error::{Error, Result};

/// The number of bytes that are examined.
const LOOKED_AT: usize = 8192;
/// Fewer bytes than this are too few to decide.
const FEWEST: usize = 64;
/// The upper halves of four-byte tokens are below this, for vocabularies of up to 2^20 tokens.
const UPPER: u16 = 16;

/// The magic bytes of NumPy files.
pub(in crate::data) const NPY: &[u8] = b"\x93NUMPY";
/// The longest NumPy header that is read, in bytes. That of a plain numeric array has about 128.
const LONGEST_NPY: usize = 1 << 16;

/// The magic bytes of other kinds of files, and what these are.
const KINDS: [(&[u8], &str); 6] = [
    (b"PK\x03\x04", "a ZIP archive (such as NumPy's .npz and PyTorch's files)"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1\0\0", "an Arrow table"),
    (b"MMIDIDX\0", "the index of a Megatron dataset, whose tokens are in the .bin file"),
    (b"%PDF-", "a PDF document"),
    (b"\xfd7zXZ\0", "an xz archive"),
];

/// Rejects a file without the header of a token file that does not look like two-byte tokens either.
///
/// # Errors
/// Fails if the file looks like something else; the message says what it seems to be and what to do.
pub(in crate::data) fn check_headerless(file: &[u8]) -> Result<()> {
    if let Some((_, what)) = KINDS.iter().find(|(magic, _)| file.starts_with(magic)) {
        bail!("{what}, not a token file");
    }
    let first = &file[..file.len().min(LOOKED_AT)];
    if first.len() < FEWEST {
        return Ok(());
    }
    if is_safetensors(first) {
        bail!("a safetensors file, not a token file");
    }
    if is_text(first, file.len() > first.len()) {
        bail!(
            "text, not tokens; name it as data.text, or convert it to token files with `vcycle data prepare` (a token \
             file without a header has two bytes per token)"
        );
    }
    if let Some(width) = wider(first, file.len()) {
        bail!(
            "its numbers seem to have {width} bytes each, but a token file without a header has two bytes per token; \
             save it with a header, for example with numpy.save(\"tokens.npy\", numpy.fromfile(FILE, \
             \"<i{width}\").astype(\"<u4\"))"
        );
    }
    Ok(())
}

/// Returns whether a file begins like safetensors: with the length of a header, then the header, which is JSON.
fn is_safetensors(first: &[u8]) -> bool {
    first[4..8] == [0; 4] && first[8..].starts_with(b"{\"")
}

/// Returns whether the bytes are UTF-8 without control characters. Tokens of a character or byte vocabulary are not,
/// because their upper bytes are zero. `goes_on`: the file has more bytes than these.
fn is_text(first: &[u8], goes_on: bool) -> bool {
    let text = match str::from_utf8(first) {
        Ok(text) => text,
        // The last character may be incomplete.
        Err(e) if goes_on && e.error_len().is_none() => str::from_utf8(&first[..e.valid_up_to()]).unwrap_or_default(),
        Err(_) => return false,
    };
    text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t' | '\x0c'))
}

/// Returns the width of the numbers in bytes if it is certainly more than two. In numbers of four bytes, the upper half
/// is always small. In numbers of eight bytes, the second quarter is always small and the upper half is zero.
fn wider(first: &[u8], length: usize) -> Option<usize> {
    let halves: Vec<u16> = first.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let at = |place: usize, step: usize| halves.iter().skip(place).step_by(step).copied();
    let small = |place, step| at(place, step).all(|half| half < UPPER);
    let zero = |place, step| at(place, step).all(|half| half == 0);
    let several = |step| at(0, step).collect::<BTreeSet<u16>>().len() > 2;
    // With a small vocabulary of two-byte tokens, all numbers are small.
    let large = |step| at(0, step).any(|half| half >= 256) || zero(1, step) && several(step);
    if length.is_multiple_of(8) && large(4) && small(1, 4) && zero(2, 4) && zero(3, 4) {
        return Some(8);
    }
    (length.is_multiple_of(4) && large(2) && small(1, 2)).then_some(4)
}

/// Returns the offset of the tokens in a `.npy` file, the number of bytes per token, and the number of tokens.
///
/// # Errors
/// Fails if the header is damaged, does not match the length of the file, or describes anything but a one-dimensional
/// array of integers of two or four bytes.
pub(in crate::data) fn npy(file: &[u8]) -> Result<(usize, usize, usize)> {
    let damaged = || Error::new("a .npy file with a damaged header; write it again with numpy.save");
    // The two-byte version decides how many bytes the length of the header has.
    let (begin, length) = match file.get(NPY.len()..NPY.len() + 6).ok_or_else(damaged)? {
        [1, 0, a, b, ..] => (NPY.len() + 4, usize::from(u16::from_le_bytes([*a, *b]))),
        [2 | 3, 0, a, b, c, d] => (NPY.len() + 6, u32::from_le_bytes([*a, *b, *c, *d]) as usize),
        _ => return Err(damaged()),
    };
    let end = begin + length.min(LONGEST_NPY);
    let header = file.get(begin..end).filter(|_| length <= LONGEST_NPY).ok_or_else(damaged)?;
    let header = str::from_utf8(header).map_err(|_| damaged())?;
    let value = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
    let kind = value("descr").and_then(|rest| rest.strip_prefix('\'')).and_then(|rest| rest.split_once('\''));
    let kind = kind.map(|(kind, _)| kind).ok_or_else(damaged)?;
    let width = match kind {
        "<u2" => 2,
        "<u4" | "<i4" => 4,
        _ => bail!(
            "a .npy file of type {kind:?}, expected \"<u2\" or \"<u4\"; save the array again with .astype(\"<u4\")"
        ),
    };
    let shape = value("shape").and_then(|rest| rest.strip_prefix('(')).and_then(|rest| rest.split_once(')'));
    let (shape, _) = shape.ok_or_else(damaged)?;
    let sizes: Vec<&str> = shape.split(',').map(str::trim).filter(|size| !size.is_empty()).collect();
    let [size] = sizes[..] else {
        bail!("a .npy file of shape ({shape}), expected one dimension; save the array again with .ravel()");
    };
    let tokens: usize = size.parse().map_err(|_| damaged())?;
    let bytes = file.len() - end;
    if tokens.checked_mul(width) != Some(bytes) {
        bail!(
            "the .npy header says {tokens} tokens of {width} bytes, but the file has {bytes} bytes after the header; \
             fetch or write the file again"
        );
    }
    Ok((end, width, tokens))
}

#[cfg(test)]
mod tests {
    use crate::data::tokens::foreign::*;

    fn words(values: impl Iterator<Item = u16>) -> Vec<u8> {
        values.flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn tokens_of_two_bytes_are_never_refused() {
        let mixed = |i: u32| i.wrapping_mul(2_654_435_761) >> 16;
        for vocab in [2, 3, 17, 65, 256, 300, 50_257, 65_535] {
            let file = words((0..4096).map(|i| (mixed(i) % vocab) as u16));
            check_headerless(&file).unwrap_or_else(|e| panic!("{vocab}: {e}"));
        }
        // All the same; two alternating; a rare token.
        for file in [words((0..99).map(|_| 7)), words((0..98).map(|i| i % 2 * 9)), words((0..98).map(|i| i / 97 * 300))]
        {
            check_headerless(&file).unwrap();
        }
    }

    #[test]
    fn numpy_headers_are_read() {
        let file = |header: &str, bytes: usize| {
            [NPY, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), &vec![0; bytes]].concat()
        };
        let header = "{'descr': '<u2', 'fortran_order': False, 'shape': (3,), }\n";
        assert_eq!(npy(&file(header, 6)).unwrap(), (10 + header.len(), 2, 3));
        assert_eq!(npy(&file(&header.replace("<u2", "<i4"), 12)).unwrap().1, 4);
        for (bad, bytes) in [(header.replace("<u2", "<i8"), 24), (header.replace("3,", "3, 1"), 6), (header.into(), 7)]
        {
            assert!(npy(&file(&bad, bytes)).is_err(), "{bad}");
        }
        let whole = file(header, 6);
        (NPY.len()..whole.len()).for_each(|length| assert!(npy(&whole[..length]).is_err(), "{length}"));
    }
}
