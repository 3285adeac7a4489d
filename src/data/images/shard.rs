//! Image shards: flat files of decoded images of one size with their labels, memory-mapped for reading.
//!
//! Little-endian throughout:
//!
//! | bytes    | content                                                                                    |
//! |----------|--------------------------------------------------------------------------------------------|
//! | 0..8     | `VCYCIMG1`                                                                                 |
//! | 8..12    | `u32` format version, 1                                                                    |
//! | 12..24   | `u32` channels (1 or 3), `u32` height, `u32` width, both at most 16,384                    |
//! | 24..28   | `u32` number of classes, 1 to 65,536                                                       |
//! | 28..32   | `u32` length of the class names in bytes                                                   |
//! | 32..40   | `u64` number of images                                                                     |
//! | 40..56   | [`Fingerprint`] of everything from byte 64 on, image by image, 16 hexadecimal digits       |
//! | ..64     | zero                                                                                       |
//! | 64..     | pixels, `u8`, `[images, channels, height, width]`                                          |
//! | then     | labels, `i32`, `[images]`                                                                  |
//! | then     | class names, a JSON list of strings, up to the end of the file                             |

use std::path::{Path, PathBuf};

use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::data::mapped::Mapped;
use crate::error::{At, Error, Result};

pub use super::shard_writer::ImageWriter;

pub(super) const MAGIC: &[u8; 8] = b"VCYCIMG1";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 64;
/// Largest side length of an image in pixels.
pub(super) const MAX_SIDE: usize = 16_384;
/// Largest number of classes.
pub(super) const MAX_CLASSES: usize = 65_536;

/// An image shard, memory-mapped read-only.
#[derive(Debug)]
pub struct Images {
    path: PathBuf,
    map: Mapped,
    layout: Layout,
    names: Vec<String>,
    part: Part,
}

/// The subset of the images in a file that [`Images`] exposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    All,
    /// Images 0, n, 2 n and so on.
    Every(usize),
    /// All other images.
    Without(usize),
}

/// The content of a header, and what follows from it.
#[derive(Debug)]
struct Layout {
    channels: usize,
    height: usize,
    width: usize,
    classes: usize,
    images: usize,
    /// Byte offsets of the labels and of the class names.
    labels: usize,
    names: usize,
}

impl Layout {
    fn of(bytes: &[u8]) -> Result<Layout> {
        let Some(header) = bytes.get(..HEADER).filter(|header| header.starts_with(MAGIC)) else {
            bail!("not an image shard: it has no VCYCIMG1 header; {REMEDY}");
        };
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if number(8) != VERSION {
            bail!("an image shard of version {}, but this program reads version {VERSION}; {REMEDY}", number(8));
        }
        let [channels, height, width, classes, names] = [12, 16, 20, 24, 28].map(|at| number(at) as usize);
        let images = u64::from(number(32)) | u64::from(number(36)) << 32;
        let sides = 1..=MAX_SIDE;
        if !matches!(channels, 1 | 3)
            || !sides.contains(&height)
            || !sides.contains(&width)
            || !(1..=MAX_CLASSES).contains(&classes)
            || header[56..].iter().any(|&b| b != 0)
        {
            bail!("damaged: its header has invalid values; {REMEDY}");
        }
        let place = |images: usize| {
            let labels = images.checked_mul(channels * height * width)?.checked_add(HEADER)?;
            Some((labels, labels.checked_add(images.checked_mul(4)?)?))
        };
        let places = usize::try_from(images).ok().and_then(|images| Some((images, place(images)?)));
        match places {
            Some((images, (labels, names_at))) if names_at.checked_add(names) == Some(bytes.len()) => {
                Ok(Layout { channels, height, width, classes, images, labels, names: names_at })
            }
            _ => bail!("damaged: its {} bytes do not match its header; {REMEDY}", bytes.len()),
        }
    }

    /// Returns the size of an image in bytes.
    fn image(&self) -> usize {
        self.channels * self.height * self.width
    }
}

const REMEDY: &str = "remove it so that the images are prepared again";

impl Images {
    /// Maps the shard at `path`. The header, labels and class names are checked here; [`Images::verify`] also checks
    /// the pixels.
    ///
    /// # Errors
    /// The file cannot be read, is not an image shard of a known version, or does not match its header.
    pub fn open(path: &Path) -> Result<Images> {
        let map = Mapped::open(path, "an image shard")?;
        let layout = Layout::of(&map).at(path.display())?;
        let names: Vec<String> = serde_json::from_slice(&map[layout.names..]).map_err(|e| {
            Error::new(format!("{}: damaged: cannot read its class names: {e}; {REMEDY}", path.display()))
        })?;
        if names.len() != layout.classes {
            bail!("{}: damaged: {} names for {} classes; {REMEDY}", path.display(), names.len(), layout.classes);
        }
        let images = Images { path: path.to_owned(), map, layout, names, part: Part::All };
        let classes = images.classes();
        let known = |i| usize::try_from(images.label(i)).is_ok_and(|label| label < classes);
        if let Some(i) = (0..images.len()).find(|&i| !known(i)) {
            let label = images.label(i);
            bail!(
                "{}: damaged: image {i} has label {label}, but there are {classes} classes; {REMEDY}",
                path.display()
            );
        }
        Ok(images)
    }

    /// Reads the whole file and compares its checksum with that in the header.
    ///
    /// # Errors
    /// The checksums differ, so the file is damaged.
    pub fn verify(&self) -> Result<()> {
        let mut print = Fingerprint::default();
        let (pixels, rest) = self.map[HEADER..].split_at(self.layout.labels - HEADER);
        pixels.chunks_exact(self.layout.image()).for_each(|image| print.add(image));
        let (labels, names) = rest.split_at(self.layout.names - self.layout.labels);
        print.add(labels);
        print.add(names);
        if print.hex().as_bytes() != &self.map[40..56] {
            bail!(
                "{}: damaged: the checksum of its content differs from that in its header; {REMEDY}",
                self.path.display()
            );
        }
        Ok(())
    }

    /// Returns the images without numbers 0, n, 2 n and so on: the training split when those are held out.
    ///
    /// # Errors
    /// No image would be left.
    pub fn training_split(self, n: usize) -> Result<Images> {
        self.part(Part::Without(n))
    }

    /// Returns only images 0, n, 2 n and so on: the held-out split.
    ///
    /// # Errors
    /// No image would be left.
    pub fn every(self, n: usize) -> Result<Images> {
        self.part(Part::Every(n))
    }

    fn part(self, part: Part) -> Result<Images> {
        let images = Images { part, ..self };
        if images.is_empty() {
            bail!("{}: too few images to hold some out; add more images", images.path.display());
        }
        Ok(images)
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        let all = self.layout.images;
        match self.part {
            Part::All => all,
            Part::Every(n) => all.div_ceil(n.max(1)),
            Part::Without(n) => all - all.div_ceil(n.max(1)),
        }
    }

    /// Returns the number of image `i` within the file.
    fn number(&self, i: usize) -> usize {
        match self.part {
            Part::All => i,
            Part::Every(n) => i * n,
            Part::Without(n) => i + i / n.saturating_sub(1).max(1) + 1,
        }
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of classes. Every label is below it.
    pub fn classes(&self) -> usize {
        self.layout.classes
    }

    /// Returns the class names, indexed by label.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the number of channels: 1 (grey) or 3 (red, green, blue).
    pub fn channels(&self) -> usize {
        self.layout.channels
    }

    /// Returns `[height, width]` in pixels.
    pub fn size(&self) -> [usize; 2] {
        [self.layout.height, self.layout.width]
    }

    /// Returns the path that the shard was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks that the file has not been written to since it was opened.
    ///
    /// # Errors
    /// The file has changed.
    pub fn check_unchanged(&self) -> Result<()> {
        self.map.check_unchanged()
    }

    /// Returns the checksum in the header, 16 hexadecimal digits. It identifies the content.
    pub fn sum(&self) -> String {
        String::from_utf8_lossy(&self.map[40..56]).into_owned()
    }

    /// Returns the pixels `[channels, height, width]` and the label of image `i`.
    ///
    /// # Panics
    /// Panics if `i` is not below [`Images::len`].
    pub fn sample(&self, i: usize) -> (&[u8], i32) {
        assert!(i < self.len(), "image {i} is out of range: the shard has {} images", self.len());
        let (i, image) = (self.number(i), self.layout.image());
        (&self.map[HEADER + i * image..][..image], self.label(i))
    }

    /// Returns the label of image `i` of the file.
    fn label(&self, i: usize) -> i32 {
        let bytes = &self.map[self.layout.labels + 4 * i..][..4];
        i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}
