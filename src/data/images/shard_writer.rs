//! Writes image shards one image at a time. The format is described in [`shard`](super::shard).

use std::path::{Path, PathBuf};

use super::shard::{HEADER, MAGIC, MAX_CLASSES, MAX_SIDE, VERSION};
use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::error::{Error, Result};
use crate::files::AtomicFile;

/// Writes an image shard. If it is dropped before [`ImageWriter::commit`], no file is left behind.
pub struct ImageWriter {
    path: PathBuf,
    file: AtomicFile,
    shape: [usize; 3],
    labels: Vec<i32>,
    sum: Fingerprint,
}

impl ImageWriter {
    /// Creates a writer for images of `shape` `[channels, height, width]`.
    ///
    /// # Errors
    /// `channels` is not 1 or 3, a side is 0 or longer than 16,384, or no file can be created next to `path`.
    pub fn create(path: &Path, shape: [usize; 3]) -> Result<Self> {
        let [channels, height, width] = shape;
        if !matches!(channels, 1 | 3) {
            bail!("cannot write {}: {channels} channels; images must have 1 or 3", path.display());
        }
        if !(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width) {
            bail!(
                "cannot write {}: images of {height} x {width} pixels; each side must be 1 to {MAX_SIDE}",
                path.display()
            );
        }
        let mut file = AtomicFile::create(path)?;
        file.write(&[0; HEADER])?;
        Ok(ImageWriter { path: path.to_owned(), file, shape, labels: Vec::new(), sum: Fingerprint::default() })
    }

    /// Returns the number of images written so far.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether no image has been written yet.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Appends an image `[channels, height, width]` with its label.
    ///
    /// # Errors
    /// The image has another size, its label is not below 65,536, or the file cannot be written.
    pub fn push(&mut self, pixels: &[u8], label: usize) -> Result<()> {
        if pixels.len() != self.shape.iter().product::<usize>() {
            bail!("cannot write {}: {} pixels for an image of {:?}", self.path.display(), pixels.len(), self.shape);
        }
        if label >= MAX_CLASSES {
            bail!(
                "cannot write {}: class {label}; classes must be numbered from 0 to {}",
                self.path.display(),
                MAX_CLASSES - 1
            );
        }
        self.sum.add(pixels);
        self.labels.push(label as i32);
        self.file.write(pixels)
    }

    /// Completes the file and renames it to its path. `names` has one name for each class.
    ///
    /// # Errors
    /// There are no names, too many, or fewer than the labels need; or the file cannot be written.
    pub fn commit(mut self, names: &[String]) -> Result<()> {
        let (path, needed) = (self.path.display(), self.labels.iter().map(|&l| l as usize + 1).max().unwrap_or(1));
        if names.len() < needed || names.len() > MAX_CLASSES {
            bail!("cannot write {path}: {} class names; give {needed} to {MAX_CLASSES}", names.len());
        }
        let json = serde_json::to_vec(names).map_err(|e| Error::new(format!("cannot write {path}: {e}")))?;
        let labels: Vec<u8> = self.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        for part in [&labels, &json] {
            self.sum.add(part);
            self.file.write(part)?;
        }
        let Ok(json_bytes) = u32::try_from(json.len()) else {
            bail!("cannot write {path}: the class names are too long; shorten them");
        };
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        let [channels, height, width] = self.shape.map(|n| n as u32);
        let numbers = [VERSION, channels, height, width, names.len() as u32, json_bytes];
        for (bytes, number) in header[8..32].chunks_exact_mut(4).zip(numbers) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        header[32..40].copy_from_slice(&(self.labels.len() as u64).to_le_bytes());
        header[40..56].copy_from_slice(self.sum.hex().as_bytes());
        self.file.write_at_start(&header)?;
        self.file.commit()
    }
}
