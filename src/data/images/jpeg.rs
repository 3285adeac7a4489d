//! Checks that a JPEG file is not truncated. Decoders fill in missing pixels, and a model would be trained on them.

/// Start-of-image marker, with which every file begins.
pub(super) const BEGIN: &[u8] = &[0xff, 0xd8];
/// End-of-image marker (EOI).
const END: u8 = 0xd9;
/// Start-of-scan marker (SOS).
const SCAN: u8 = 0xda;

/// Whether following the markers of the file leads to a scan and then to the end-of-image marker. Anything after that
/// is ignored.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let (mut at, mut scanned) = (BEGIN.len(), false);
    loop {
        // Skip scan data up to the next marker: 0xff in the data is followed by a zero, and restart markers are part of
        // a scan.
        let next =
            bytes[at..].windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff | 0xd0..=0xd7));
        let Some(next) = next else { return false };
        let mark = bytes[at + next + 1];
        at += next + 2;
        match mark {
            END => return scanned,
            // Markers without content.
            0x01 | 0xd8 => continue,
            _ => {}
        }
        // The length includes its own two bytes.
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
        // The embedded thumbnail has its own end marker; the scan has a stuffed byte and a restart marker.
        let thumbnail = segment(0xe1, &[0xff, 0xd8, 0xff, 0xda, 0, 2, 7, 0xff, 0xd9]);
        let scan = [segment(SCAN, &[1, 2, 3]), vec![1, 0xff, 0, 2, 0xff, 0xd3, 0xff, 0xff, 0xff, 0xd9]].concat();
        let whole = [BEGIN, &thumbnail, &segment(0xdb, &[9; 64]), &scan].concat();
        assert!(is_whole(&whole));
        assert!(is_whole(&[&whole[..], b"trailing data of a camera"].concat()));
        for length in 2..whole.len() {
            assert!(!is_whole(&whole[..length]), "{length}");
        }
        assert!(!is_whole(&[0xff, 0xd8, 0xff, 0xd9]));
    }
}
