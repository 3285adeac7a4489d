//! An image shard: decoded images of one size and their classes as a flat file, memory-mapped for reading.
//!
//! Little-endian throughout:
//!
//! | bytes    | content                                                                                    |
//! |----------|--------------------------------------------------------------------------------------------|
//! | 0..8     | `VCYCIMG1`                                                                                 |
//! | 8..12    | `u32` format version, 1                                                                    |
//! | 12..24   | `u32` channels (1 or 3), `u32` height, `u32` width, both at most 16,384                    |
//! | 24..28   | `u32` classes, 1 to 65,536                                                                 |
//! | 28..32   | `u32` bytes of the names                                                                   |
//! | 32..40   | `u64` images                                                                               |
//! | 40..56   | the [`Fingerprint`] of everything from byte 64 on, image by image, 16 hexadecimal digits   |
//! | ..64     | zero                                                                                       |
//! | 64..     | the pixels, `u8`, `[images, channels, height, width]`                                      |
//! | then     | the classes, `i32`, `[images]`                                                             |
//! | then     | the names of the classes, a JSON list of strings; the file ends with it                    |

use std::path::{Path, PathBuf};

use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::data::mapped::Mapped;
use crate::error::{At, Error, Result};

pub use super::shard_writer::ImageWriter;

pub(super) const MAGIC: &[u8; 8] = b"VCYCIMG1";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER: usize = 64;
/// The longest side of an image in pixels.
pub(super) const MAX_SIDE: usize = 16_384;
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

/// Which images of a file count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    All,
    Every(usize),
    Without(usize),
}

/// What a header says.
#[derive(Debug)]
struct Layout {
    channels: usize,
    height: usize,
    width: usize,
    classes: usize,
    images: usize,
    /// Where the classes, and where their names begin.
    labels: usize,
    names: usize,
}

impl Layout {
    fn of(bytes: &[u8]) -> Result<Layout> {
        let Some(header) = bytes.get(..HEADER).filter(|header| header.starts_with(MAGIC)) else {
            bail!("not an image shard: it does not begin as one; {REMEDY}");
        };
        let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if number(8) != VERSION {
            bail!("an image shard of version {}, and this program knows {VERSION}; {REMEDY}", number(8));
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
            bail!("damaged: its header makes no sense; {REMEDY}");
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
            _ => bail!("damaged: {} bytes are not what its header says; {REMEDY}", bytes.len()),
        }
    }

    /// Bytes of an image.
    fn image(&self) -> usize {
        self.channels * self.height * self.width
    }
}

const REMEDY: &str = "remove it to have the images prepared again";

impl Images {
    /// Maps the shard at `path`. Header, classes and names are checked here; pixels can be anything, see [`Images::verify`].
    ///
    /// # Errors
    /// When the file cannot be read, is not an image shard of a known version, or does not hold what its header says.
    pub fn open(path: &Path) -> Result<Images> {
        let map = Mapped::open(path, "an image shard")?;
        let layout = Layout::of(&map).at(path.display())?;
        let names: Vec<String> = serde_json::from_slice(&map[layout.names..])
            .map_err(|e| Error::new(format!("{}: damaged: the names of its classes: {e}; {REMEDY}", path.display())))?;
        if names.len() != layout.classes {
            bail!("{}: damaged: {} names for {} classes; {REMEDY}", path.display(), names.len(), layout.classes);
        }
        let images = Images { path: path.to_owned(), map, layout, names, part: Part::All };
        let classes = images.classes();
        let known = |i| usize::try_from(images.label(i)).is_ok_and(|label| label < classes);
        if let Some(i) = (0..images.len()).find(|&i| !known(i)) {
            let label = images.label(i);
            bail!("{}: damaged: image {i} has class {label} of {classes}; {REMEDY}", path.display());
        }
        Ok(images)
    }

    /// Reads everything and compares it with the sum in the header.
    ///
    /// # Errors
    /// When they differ: the file is damaged.
    pub fn verify(&self) -> Result<()> {
        let mut print = Fingerprint::default();
        let (pixels, rest) = self.map[HEADER..].split_at(self.layout.labels - HEADER);
        pixels.chunks_exact(self.layout.image()).for_each(|image| print.add(image));
        let (labels, names) = rest.split_at(self.layout.names - self.layout.labels);
        print.add(labels);
        print.add(names);
        if print.hex().as_bytes() != &self.map[40..56] {
            bail!("{}: damaged: its content has another sum than its header says; {REMEDY}", self.path.display());
        }
        Ok(())
    }

    /// The same images without number 0, n, 2 n and so on: what is left to train on where these are held out.
    ///
    /// # Errors
    /// Nothing would be left.
    pub fn without_every(self, n: usize) -> Result<Images> {
        self.part(Part::Without(n))
    }

    /// Of the images number 0, n, 2 n and so on.
    ///
    /// # Errors
    /// Nothing would be left.
    pub fn every(self, n: usize) -> Result<Images> {
        self.part(Part::Every(n))
    }

    fn part(self, part: Part) -> Result<Images> {
        let images = Images { part, ..self };
        if images.is_empty() {
            bail!("{}: too few images to hold some out; give more", images.path.display());
        }
        Ok(images)
    }

    pub fn len(&self) -> usize {
        let all = self.layout.images;
        match self.part {
            Part::All => all,
            Part::Every(n) => all.div_ceil(n.max(1)),
            Part::Without(n) => all - all.div_ceil(n.max(1)),
        }
    }

    /// Number in the file of image `i`.
    fn number(&self, i: usize) -> usize {
        match self.part {
            Part::All => i,
            Part::Every(n) => i * n,
            Part::Without(n) => i + i / n.saturating_sub(1).max(1) + 1,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every label is below this.
    pub fn classes(&self) -> usize {
        self.layout.classes
    }

    /// The names of the classes, by label.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// 1 (grey) or 3 (red, green, blue).
    pub fn channels(&self) -> usize {
        self.layout.channels
    }

    /// Height and width in pixels.
    pub fn size(&self) -> [usize; 2] {
        [self.layout.height, self.layout.width]
    }

    /// The file the shard was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Nobody has written to the file since it was opened.
    ///
    /// # Errors
    /// Somebody has.
    pub fn check_unchanged(&self) -> Result<()> {
        self.map.check_unchanged()
    }

    /// The sum in the header: a name that other images would not have, 16 hexadecimal digits.
    pub fn sum(&self) -> String {
        String::from_utf8_lossy(&self.map[40..56]).into_owned()
    }

    /// Pixels `[channels, height, width]` and label of image `i`.
    ///
    /// # Panics
    /// When `i` is not below [`Images::len`], as with a slice.
    pub fn sample(&self, i: usize) -> (&[u8], i32) {
        assert!(i < self.len(), "image {i} of a shard of {}", self.len());
        let (i, image) = (self.number(i), self.layout.image());
        (&self.map[HEADER + i * image..][..image], self.label(i))
    }

    fn label(&self, i: usize) -> i32 {
        let bytes = &self.map[self.layout.labels + 4 * i..][..4];
        i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}
