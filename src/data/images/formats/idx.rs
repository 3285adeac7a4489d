//! Reads IDX, the format of MNIST: two zero bytes, the element type, the number of dimensions, each dimension as a
//! big-endian `u32`, then the elements.

use std::path::Path;

use super::{Decoded, ImageFormat, Place, Sink, add_files};
use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::data::images::shard::MAX_SIDE;
use crate::data::text::reader::ByteReader;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The format of MNIST with unsigned bytes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Idx {
    /// Images, `[images, rows, columns]`.
    pub images: PathBuf,
    /// Labels, `[images]`.
    pub labels: PathBuf,
}

impl ImageFormat for Idx {
    fn channels(&self) -> usize {
        1
    }

    fn read(&self, sink: &mut Sink<'_>) -> Result<Vec<String>> {
        read(&self.images, &self.labels, sink).map(|()| Vec::new())
    }

    fn add_to(&self, print: &mut Fingerprint) -> Result<()> {
        add_files(print, "idx", [&self.images, &self.labels])
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.images)
    }
}

/// The element type of images and labels.
const UNSIGNED_BYTE: u8 = 8;

/// Reads the header of an IDX file, which must have `D` dimensions, and returns these.
fn header<const D: usize>(path: &Path, file: &mut ByteReader, what: &str) -> Result<[u32; D]> {
    let mut start = [0; 4];
    let read = file.fill(&mut start)?;
    if read < 4 || start[..2] != [0, 0] {
        bail!(
            "{}: not an IDX file: it does not begin with two zero bytes; give {what} in the format of MNIST",
            path.display()
        );
    }
    if start[2] != UNSIGNED_BYTE {
        bail!(
            "{}: elements of type {:#04x} are not supported; expected unsigned bytes (0x08)",
            path.display(),
            start[2]
        );
    }
    if usize::from(start[3]) != D {
        bail!("{}: {} dimensions, but {what} have {D}; are the images and labels swapped?", path.display(), start[3]);
    }
    let mut sizes = [0; D];
    for size in &mut sizes {
        let mut bytes = [0; 4];
        if file.fill(&mut bytes)? < 4 {
            bail!("{}: the header is truncated; download the file again", path.display());
        }
        *size = u32::from_be_bytes(bytes);
    }
    Ok(sizes)
}

/// Passes every image with its label to `sink`.
pub(super) fn read(images: &Path, labels: &Path, sink: &mut Sink<'_>) -> Result<()> {
    let mut image_file = ByteReader::open(images)?;
    let mut label_file = ByteReader::open(labels)?;
    let [count, height, width] = header::<3>(images, &mut image_file, "images")?;
    let [label_count] = header::<1>(labels, &mut label_file, "labels")?;
    if count != label_count {
        bail!(
            "{}: {count} images, but {} has {label_count} labels; give two files that belong together",
            images.display(),
            labels.display()
        );
    }
    let [height, width] = [height, width].map(|side| side as usize);
    if !(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width) {
        bail!("{}: images of {height} x {width} pixels; each side must be 1 to {MAX_SIDE}", images.display());
    }
    let (mut pixels, mut label) = (Vec::new(), [0]);
    for number in 0..u64::from(count) {
        let place = Place { path: images, unit: "image", number };
        if image_file.read(&mut pixels, height * width)? < height * width {
            bail!("{place} of {count}: the file ends inside this image; download it again");
        }
        if label_file.fill(&mut label)? < 1 {
            bail!("{}: the file ends before label {number} of {count}; download it again", labels.display());
        }
        sink(Decoded { pixels: &pixels, shape: [1, height, width], label: usize::from(label[0]) }, &place)?;
    }
    for (path, mut file) in [(images, image_file), (labels, label_file)] {
        if file.fill(&mut [0])? > 0 {
            bail!("{}: the file continues after the last of {count} items; download it again", path.display());
        }
    }
    Ok(())
}
