//! JPEG files, and whether they are whole: decoders fill up what is missing, and a model would learn from pixels that nobody took.

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// What a file begins with.
pub(super) const BEGIN: &[u8] = &[0xff, 0xd8];
const END: u8 = 0xd9;
const SCAN: u8 = 0xda;

/// What a file without fault holds.
pub(super) struct Jpeg {
    /// `None`: another kind of image than is decoded here.
    pub image: Option<DynamicImage>,
    /// Whether the file says that the image is to be turned or mirrored.
    pub turned: bool,
}

/// Decodes a file of at most `most` bytes of pixels, as the `image` crate does, but with every fault an error: that crate has no way
/// to know of one, and fills up what cannot be decoded.
///
/// # Errors
/// What is wrong with the file. Other decoders may be able to make an image of it.
pub(super) fn decode(bytes: &[u8], most: u64) -> Result<Jpeg, String> {
    let options = DecoderOptions::default().set_strict_mode(true).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let fault = |e: &dyn std::fmt::Debug| {
        // Several lines, some with quotes around.
        let text = format!("{e:?}").split_whitespace().collect::<Vec<_>>().join(" ");
        format!("faulty JPEG data: {}", text.replace('"', ""))
    };
    decoder.decode_headers().map_err(|e| fault(&e))?;
    let turned = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let turned = turned.is_some_and(|orientation| orientation != Orientation::NoTransforms);
    let (size, colours) = (decoder.dimensions(), decoder.input_colorspace());
    let (Some((width, height)), Some(colours)) = (size, colours) else { return Ok(Jpeg { image: None, turned }) };
    let (out, channels) = match colours {
        ColorSpace::Luma => (ColorSpace::Luma, 1),
        ColorSpace::RGB | ColorSpace::YCbCr | ColorSpace::CMYK | ColorSpace::YCCK => (ColorSpace::RGB, 3),
        _ => return Ok(Jpeg { image: None, turned }),
    };
    if width as u64 * height as u64 * channels > most {
        return Ok(Jpeg { image: None, turned });
    }
    decoder.set_options(options.jpeg_set_out_colorspace(out));
    let pixels = decoder.decode().map_err(|e| fault(&e))?;
    let (width, height) = (width as u32, height as u32);
    let image = match out {
        ColorSpace::Luma => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        _ => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
    };
    Ok(Jpeg { image, turned })
}

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
