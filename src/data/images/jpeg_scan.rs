//! Checks that the compressed data of a JPEG is complete: as many blocks as its header announces, valid Huffman codes,
//! nothing after them.
//!
//! Decoders return an image for nearly any data: they skip what they cannot read and fill in what is missing. After a
//! damaged byte the rest is decoded from wrong bit positions, and hardly ever ends where the data ends. So the codes
//! are read to the end here, without computing pixels. Only sequential Huffman coding is supported, which nearly all
//! files use; progressive files are not examined.

/// A fault in a file that decoders accept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The data ends before the last block.
    Missing,
    /// The data continues after the last block.
    Surplus,
    /// A code that is not in the table, or more than 64 coefficients in a block.
    Code,
    /// A marker other than the next restart marker.
    Restart,
}

impl Fault {
    pub fn text(&self) -> &'static str {
        match self {
            Fault::Missing => "the JPEG's data ends before its last pixels",
            Fault::Surplus => "the JPEG's data continues after its last pixels",
            Fault::Code => "the JPEG's data has an undefined Huffman code",
            Fault::Restart => "the JPEG's restart markers are out of order",
        }
    }
}

/// Lookup table by the next 16 bits: the length of the code that they begin with (0: undefined), and its symbol.
type Codes = Vec<(u8, u8)>;

#[derive(Clone, Copy)]
struct Component {
    id: u8,
    /// Sampling factors: the blocks of an MCU in each direction.
    across: usize,
    down: usize,
}

/// What has been read from the headers so far.
#[derive(Default)]
struct Frame {
    width: usize,
    height: usize,
    components: Vec<Component>,
    /// Huffman tables for DC and AC coefficients.
    codes: [[Option<Codes>; 4]; 2],
    /// Number of Huffman tables read.
    tables: usize,
    /// Number of MCUs between restart markers; 0: no restart markers.
    restart: usize,
}

/// Limit on the Huffman tables of a file. No file needs more, and building a table takes far longer than writing one to
/// a file.
const MAX_TABLES: usize = 64;

/// Returns the first fault of a file whose markers are in order, or `None` if there is none or the file is not
/// supported.
pub(super) fn fault(bytes: &[u8]) -> Option<Fault> {
    let mut frame = Frame::default();
    let mut at = 2;
    loop {
        // Skip any bytes before the next marker.
        at += bytes
            .get(at..)?
            .windows(2)
            .position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff | 0xd0..=0xd7))?;
        let mark = bytes[at + 1];
        at += 2;
        match mark {
            0xd9 => return None,
            0x01 | 0xd8 => continue,
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let content = bytes.get(at + 2..at + length)?;
        at += length;
        match mark {
            0xc0 | 0xc1 => frame.begin(content)?,
            0xc4 => frame.add_codes(content)?,
            // Progressive, lossless and arithmetic coding, and a height that is defined after the scan (DNL).
            0xc2..=0xcf | 0xdc => return None,
            0xdd => frame.restart = usize::from(u16::from_be_bytes([*content.first()?, *content.get(1)?])),
            0xda => match frame.scan(content, &bytes[at..])? {
                Ok(length) => at += length,
                Err(fault) => return Some(fault),
            },
            _ => {}
        }
    }
}

impl Frame {
    fn begin(&mut self, content: &[u8]) -> Option<()> {
        let [_, h1, h0, w1, w0, count, rest @ ..] = content else { return None };
        (self.height, self.width) =
            (usize::from(u16::from_be_bytes([*h1, *h0])), usize::from(u16::from_be_bytes([*w1, *w0])));
        let component =
            |part: &[u8]| Component { id: part[0], across: usize::from(part[1] >> 4), down: usize::from(part[1] & 15) };
        self.components = rest.chunks_exact(3).take(usize::from(*count)).map(component).collect();
        let sane = self.components.iter().all(|c| (1..=4).contains(&c.across) && (1..=4).contains(&c.down));
        (sane && self.height > 0 && self.width > 0 && (1..=4).contains(&self.components.len())).then_some(())
    }

    fn add_codes(&mut self, mut content: &[u8]) -> Option<()> {
        while let Some((&place, rest)) = content.split_first() {
            let (counts, rest) = rest.split_at_checked(16)?;
            let (symbols, rest) = rest.split_at_checked(counts.iter().map(|&count| usize::from(count)).sum())?;
            content = rest;
            self.tables += 1;
            if self.tables > MAX_TABLES {
                return None;
            }
            let mut codes = vec![(0, 0); 1 << 16];
            let (mut next, mut symbols) = (0, symbols.iter());
            for (length, &count) in (1..).zip(counts) {
                for &symbol in symbols.by_ref().take(usize::from(count)) {
                    // All 16-bit values that begin with the code.
                    let end = next + (1 << (16 - length));
                    codes.get_mut(next..end)?.fill((length as u8, symbol));
                    next = end;
                }
            }
            *self.codes.get_mut(usize::from(place >> 4))?.get_mut(usize::from(place & 15))? = Some(codes);
        }
        Some(())
    }

    /// Returns the length of a scan's data, or `None` if the headers are incomplete or inconsistent.
    fn scan(&self, content: &[u8], data: &[u8]) -> Option<Result<usize, Fault>> {
        let (&count, rest) = content.split_first()?;
        if count == 0 || rest.len() < 2 * usize::from(count) {
            return None;
        }
        let mut blocks = Vec::new();
        for part in rest.chunks_exact(2).take(usize::from(count)) {
            let component = self.components.iter().find(|component| component.id == part[0])?;
            let [dc, ac] = [part[1] >> 4, part[1] & 15].map(usize::from);
            let codes = (self.codes[0].get(dc)?.as_ref()?, self.codes[1].get(ac)?.as_ref()?);
            // In a scan of a single component, each MCU is one block.
            let times = if count == 1 { 1 } else { component.across * component.down };
            blocks.extend(std::iter::repeat_n(codes, times));
        }
        let most = |side: fn(&Component) -> usize| self.components.iter().map(side).max();
        let (across, down) = (most(|c| c.across)?, most(|c| c.down)?);
        let mcus = match self.components.iter().find(|component| count == 1 && component.id == rest[0]) {
            Some(c) => {
                (self.width * c.across).div_ceil(across).div_ceil(8) * (self.height * c.down).div_ceil(down).div_ceil(8)
            }
            None => self.width.div_ceil(8 * across) * self.height.div_ceil(8 * down),
        };
        let mut bits = Bits { data, at: 0, bits: 0, count: 0 };
        Some(bits.read_scan(&blocks, mcus, self.restart).map(|()| bits.at))
    }
}

/// The bits of a scan, up to the next marker.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next `count` bits, from the most significant bit.
    bits: u64,
    count: u32,
}

impl Bits<'_> {
    fn read_scan(&mut self, blocks: &[(&Codes, &Codes)], mcus: usize, restart: usize) -> Result<(), Fault> {
        for mcu in 0..mcus {
            if restart > 0 && mcu > 0 && mcu % restart == 0 {
                self.check_end()?;
                let number = (mcu / restart - 1) % 8;
                if self.data.get(self.at + 1) != Some(&(0xd0 + number as u8)) {
                    return Err(Fault::Restart);
                }
                self.at += 2;
            }
            blocks.iter().try_for_each(|(dc, ac)| self.read_block(dc, ac))?;
        }
        self.check_end()
    }

    fn read_block(&mut self, dc: &Codes, ac: &Codes) -> Result<(), Fault> {
        let size = self.symbol(dc)?;
        if size > 16 {
            return Err(Fault::Code);
        }
        self.drop(u32::from(size))?;
        let mut place = 1;
        while place < 64 {
            let symbol = self.symbol(ac)?;
            let (zeros, size) = (symbol >> 4, symbol & 15);
            match (zeros, size) {
                (15, 0) => place += 16,
                (_, 0) => break,
                _ => place += usize::from(zeros) + 1,
            }
            if place > 64 {
                return Err(Fault::Code);
            }
            self.drop(u32::from(size))?;
        }
        Ok(())
    }

    fn symbol(&mut self, codes: &Codes) -> Result<u8, Fault> {
        self.fill();
        let (length, symbol) = codes[(self.bits >> 48) as usize];
        if length == 0 {
            return Err(if self.count < 16 { Fault::Missing } else { Fault::Code });
        }
        self.drop(u32::from(length))?;
        Ok(symbol)
    }

    /// Skips bits.
    fn drop(&mut self, bits: u32) -> Result<(), Fault> {
        if self.count < bits {
            self.fill();
        }
        self.count = self.count.checked_sub(bits).ok_or(Fault::Missing)?;
        self.bits <<= bits;
        Ok(())
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let Some(&byte) = self.data.get(self.at) else { return };
            if byte == 0xff {
                match self.data.get(self.at + 1) {
                    Some(0) => self.at += 1,
                    _ => return,
                }
            }
            self.at += 1;
            self.bits |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Checks that only a marker follows the bits that were read. Some encoders write padding before it.
    fn check_end(&mut self) -> Result<(), Fault> {
        // Drop the rest of the last byte.
        let left = self.count % 8;
        self.bits <<= left;
        self.count -= left;
        loop {
            self.fill();
            if self.count == 0 {
                break;
            }
            if !matches!(self.bits >> 56, 0 | 0xff) {
                return Err(Fault::Surplus);
            }
            self.bits <<= 8;
            self.count -= 8;
        }
        while self.data.get(self.at + 1) == Some(&0xff) {
            self.at += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::codecs::jpeg::JpegEncoder;
    use image::{ExtendedColorType, RgbImage};

    fn encoded(width: u32, height: u32, quality: u8) -> Vec<u8> {
        let noise = |x: u32, y: u32| [x * 7 + y, x * y, x ^ y].map(|v| (v.wrapping_mul(2_654_435_761) >> 24) as u8);
        let image = RgbImage::from_fn(width, height, |x, y| image::Rgb(noise(x, y)));
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
        encoder.encode(&image, width, height, ExtendedColorType::Rgb8).unwrap();
        bytes
    }

    #[test]
    fn whole_files_have_no_fault() {
        for (width, height) in [(1, 1), (8, 8), (17, 33), (64, 9), (100, 75)] {
            for quality in [1, 50, 100] {
                let bytes = encoded(width, height, quality);
                assert_eq!(fault(&bytes), None, "{width} x {height} at {quality}");
                // Padding before the end marker, and trailing data as some cameras write.
                let end = bytes.len() - 2;
                assert_eq!(fault(&[&bytes[..end], &[0, 0, 0xff, 0xff], &bytes[end..], &bytes].concat()), None);
            }
        }
    }

    #[test]
    fn what_is_wrong_in_the_middle_is_found() {
        let bytes = encoded(160, 120, 80);
        let middle = bytes.len() / 2;
        for cut in [200, 400, 800] {
            let found = fault(&[&bytes[..middle], &bytes[middle + cut..]].concat());
            assert!(found.is_some(), "{cut} bytes are missing");
            let found = fault(&[&bytes[..middle + cut], &bytes[middle..]].concat());
            assert!(found.is_some(), "{cut} bytes are there twice");
            let mut zeros = bytes.clone();
            zeros[middle..middle + cut].fill(0);
            assert!(fault(&zeros).is_some(), "{cut} zeros");
        }
        let early = [&bytes[..middle], &[0xff, 0xd9], &bytes[middle..]].concat();
        assert_eq!(fault(&early), Some(Fault::Missing));
        let surplus = [&bytes[..bytes.len() - 2], &[1, 2, 3, 0xff, 0xd9]].concat();
        assert_eq!(fault(&surplus), Some(Fault::Surplus));
    }

    #[test]
    fn no_file_is_too_damaged() {
        let bytes = encoded(40, 40, 50);
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff, bytes[at] ^ 0x10] {
                let mut bad = bytes.clone();
                bad[at] = value;
                let _ = fault(&bad);
                let _ = fault(&bad[..at]);
            }
        }
    }
}
