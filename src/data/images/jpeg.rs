//! Whether a JPEG file is whole: decoders fill up what is missing, and a model would learn from pixels that nobody took.

/// What a file begins with.
pub(super) const BEGIN: &[u8] = &[0xff, 0xd8];
const END: u8 = 0xd9;
const SCAN: u8 = 0xda;

/// Whether the marks of the file lead to a scan, and through it to the mark of the end. What follows that is not looked at.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let (mut at, mut scanned) = (BEGIN.len(), false);
    loop {
        // In a scan, up to the next mark: 0xff is followed by a zero where it is a number, and restarts are part of it.
        let next =
            bytes[at..].windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff | 0xd0..=0xd7));
        let Some(next) = next else { return false };
        let mark = bytes[at + next + 1];
        at += next + 2;
        match mark {
            END => return scanned,
            // Marks without content.
            0x01 | 0xd8 => continue,
            _ => {}
        }
        // The length counts its own two bytes.
        let length = bytes.get(at..at + 2).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
        match length.and_then(|length| at.checked_add(length)).filter(|&end| end <= bytes.len()) {
            Some(end) => at = end,
            None => return false,
        }
        scanned |= mark == SCAN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_must_follow_a_scan() {
        let segment =
            |mark: u8, content: &[u8]| [&[0xff, mark][..], &(content.len() as u16 + 2).to_be_bytes(), content].concat();
        // A thumbnail within has an end of its own; the scan has a stuffed byte and a restart.
        let thumbnail = segment(0xe1, &[0xff, 0xd8, 0xff, 0xda, 0, 2, 7, 0xff, 0xd9]);
        let scan = [segment(SCAN, &[1, 2, 3]), vec![1, 0xff, 0, 2, 0xff, 0xd3, 0xff, 0xff, 0xff, 0xd9]].concat();
        let whole = [BEGIN, &thumbnail, &segment(0xdb, &[9; 64]), &scan].concat();
        assert!(is_whole(&whole));
        assert!(is_whole(&[&whole[..], b"what a camera put behind it"].concat()));
        for length in 2..whole.len() {
            assert!(!is_whole(&whole[..length]), "{length}");
        }
        assert!(!is_whole(&[0xff, 0xd8, 0xff, 0xd9]));
    }
}
