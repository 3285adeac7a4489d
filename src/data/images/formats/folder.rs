//! Reads a folder of class folders with JPEG and PNG files. Each folder is a class; classes are sorted by name.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::UNIX_EPOCH;

use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};

use super::{Decoded, ImageFormat, Sink};
use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::data::images::shard::MAX_SIDE;
use crate::data::images::{jpeg, jpeg_scan};
use crate::data::loader::prefetch::MORE_THREADS;
use crate::data::prepared::cache::grouped;
use crate::error::{Error, Result};
use crate::files;
use serde::{Deserialize, Serialize};

/// A folder with one folder of JPEG and PNG files for each class. The centre squares of the images are resized.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Folder {
    /// The folder.
    pub folder: PathBuf,
    /// Side length of the resized images in pixels.
    pub size: usize,
    /// The filter for resizing.
    #[serde(default)]
    pub filter: Filter,
    /// Skip and count files that cannot be decoded or are damaged. Otherwise the first file that cannot be decoded is an
    /// error.
    #[serde(default)]
    pub skip_broken: bool,
}

/// The filter that resizes an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Linear interpolation.
    Bilinear,
    #[default]
    /// Cubic interpolation (Catmull-Rom), as Pillow and timm use it.
    Bicubic,
}

impl ImageFormat for Folder {
    fn names(&self) -> Result<Option<Vec<String>>> {
        Ok(Some(classes(&self.folder)?.into_iter().map(|class| class.name).collect()))
    }

    fn channels(&self) -> usize {
        3
    }

    fn read(&self, sink: &mut Sink<'_>) -> Result<Vec<String>> {
        read(&self.folder, (self.size, self.filter, self.skip_broken), sink)
    }

    fn add_to(&self, print: &mut Fingerprint) -> Result<()> {
        // Different from the text of older versions, whose shards may contain truncated or damaged images.
        let broken = if self.skip_broken { "and damaged skipped" } else { "refused" };
        print.add(format!("folder {} {:?}, broken {broken}", self.size, self.filter).as_bytes());
        add_to(&self.folder, print)
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.folder)
    }
}

/// Memory limit for decoding one image, in bytes.
const DECODED: u64 = 512 << 20;
/// Largest plausible ratio of decoded bytes to file bytes. PNG packs up to 8,256 pixels into a byte, and each becomes
/// three bytes. Images that decode to at most [`SMALL_PICTURE`] bytes are not checked.
const LARGEST_RATIO: u64 = 25_000;
const SMALL_PICTURE: u64 = 32 << 20;
/// Number of files that each thread decodes before the images are written to the shard in order.
const RUN: usize = 16;

/// A class folder.
pub(super) struct Class {
    pub name: String,
    pub files: Vec<PathBuf>,
}

/// Returns the classes sorted by name, each with its files sorted by name.
///
/// # Errors
/// The folder cannot be read, contains no folder, or contains a folder without images.
pub(super) fn classes(folder: &Path) -> Result<Vec<Class>> {
    list(folder).map(|(classes, _)| classes)
}

/// Returns the classes, and the paths that are ignored but that a user may expect to be read.
fn list(folder: &Path) -> Result<(Vec<Class>, Vec<PathBuf>)> {
    let (mut classes, mut others) = (Vec::new(), Vec::new());
    for (name, path) in entries(folder)? {
        if path.is_dir() {
            let (files, rest): (Vec<_>, Vec<_>) =
                entries(&path)?.into_iter().map(|e| e.1).partition(|path| is_image(path));
            let mut rest: Vec<PathBuf> = rest.into_iter().filter(|path| seems_image(path) || path.is_dir()).collect();
            if files.is_empty() {
                let but = rest.first().map_or(String::new(), |path| format!(" ({} is ignored)", path.display()));
                bail!("{}: no .jpg, .jpeg or .png file{but}; add images or remove the folder", path.display());
            }
            classes.push(Class { name, files });
            others.append(&mut rest);
        } else if is_image(&path) || seems_image(&path) {
            others.push(path);
        }
    }
    if classes.is_empty() {
        bail!("{}: no class folders; put the images of each class in a folder of its own", folder.display());
    }
    Ok((classes, others))
}

/// Returns the entries of a folder that are not hidden, sorted by name.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let io = |e| Error::io("read", folder, e);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) if name.starts_with('.') => {}
            Some(name) => found.push((name.to_owned(), path)),
            None => bail!("{}: the name is not UTF-8; rename it", path.display()),
        }
    }
    found.sort();
    Ok(found)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    matches!(extension.as_str(), "jpg" | "jpeg" | "png")
}

/// Whether a file has the extension of an image format that is not supported.
fn seems_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let formats = ["webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "jfif", "jpe", "jp2", "jxl", "avif", "heic"];
    formats.contains(&extension.as_str())
}

/// Adds the names, sizes and modification times of all files. Hashing the content of millions of files would take as
/// long as decoding them.
pub(super) fn add_to(folder: &Path, print: &mut Fingerprint) -> Result<()> {
    let (classes, others) = list(folder)?;
    // Ignored files are reported when the images are read. With their names in the hash, a new one is reported as well.
    others.iter().for_each(|path| print.add(path.file_name().unwrap_or_default().as_encoded_bytes()));
    for class in classes {
        print.add(class.name.as_bytes());
        for file in &class.files {
            let facts = fs::metadata(file).map_err(|e| Error::io("read", file, e))?;
            let time = facts.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            print.add(file.file_name().unwrap_or_default().as_encoded_bytes());
            print.add(&facts.len().to_le_bytes());
            print.add(&time.as_nanos().to_le_bytes());
        }
    }
    Ok(())
}

/// Decodes all images on all CPU threads and passes them to `sink`, ordered by class and file. Returns notes and
/// warnings for the user. Without `skip_broken`, the first file that cannot be decoded is an error.
pub(super) fn read(
    folder: &Path,
    (size, filter, skip_broken): (usize, Filter, bool),
    sink: &mut Sink<'_>,
) -> Result<Vec<String>> {
    if !(1..=MAX_SIDE).contains(&size) {
        bail!("size: {size} is not in 1..={MAX_SIDE}; set it to the side length of the square images in pixels");
    }
    let (classes, others) = list(folder)?;
    let files: Vec<(&PathBuf, usize)> =
        classes.iter().enumerate().flat_map(|(label, c)| c.files.iter().map(move |file| (file, label))).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (mut broken_files, mut damaged, mut turned) = (Vec::new(), Vec::new(), 0);
    for files in files.chunks(threads * RUN) {
        let decode_run =
            |run: &[(&PathBuf, usize)]| run.iter().map(|file| read_and_decode(file.0, size, filter)).collect();
        let decoded = thread::scope(|scope| {
            let runs = files.chunks(files.len().div_ceil(threads));
            let start = |run| {
                let thread = thread::Builder::new().spawn_scoped(scope, move || -> Vec<_> { decode_run(run) });
                thread.map_err(|e| Error::new(format!("cannot start a thread to decode images: {e}; {MORE_THREADS}")))
            };
            let runs: Vec<_> = runs.map(start).collect::<Result<_>>()?;
            let broken = |_| Error::new(format!("{}: a decoder thread panicked", folder.display()));
            runs.into_iter().map(|run| run.join().map_err(broken)).collect::<Result<Vec<_>>>()
        })?;
        for ((path, label), pixels) in files.iter().zip(decoded.into_iter().flatten()) {
            match pixels? {
                Ok(Picture { damage: Some(damage), .. }) if skip_broken => broken_files.push(damage),
                Ok(picture) => {
                    sink(Decoded { pixels: &picture.pixels, shape: [3, size, size], label: *label }, &path.display())?;
                    damaged.extend(picture.damage);
                    turned += usize::from(picture.turned);
                }
                Err(error) if skip_broken => broken_files.push(error),
                Err(error) => bail!(
                    "{error}; remove the file, download it again, or set skip_broken = true next to `folder` to skip \
                     such files"
                ),
            }
        }
    }
    let files = |count: usize| format!("{} file{}", grouped(count as u64), if count == 1 { "" } else { "s" });
    let mut notes = Vec::new();
    if let Some(first) = broken_files.first() {
        notes.push(format!("{} skipped because of skip_broken = true; the first: {first}", files(broken_files.len())));
    }
    if let Some(first) = damaged.first() {
        notes.push(format!(
            "warning: {} damaged, decoded as far as possible, as in other programs; set skip_broken = true next to \
             `folder` to skip such files; the first: {first}",
            files(damaged.len())
        ));
    }
    if let Some(first) = others.first() {
        notes.push(format!(
            "warning: {} in {} skipped: only .jpg, .jpeg and .png files directly inside a class folder are read; the \
             first: {}",
            match others.len() {
                1 => "1 image or folder".to_owned(),
                count => format!("{} images or folders", grouped(count as u64)),
            },
            folder.display(),
            first.display()
        ));
    }
    if turned > 0 {
        notes.push(format!(
            "{} an EXIF orientation that rotates or mirrors the image; it is ignored, and the pixels are used as \
             stored",
            if turned == 1 { "1 file has".to_owned() } else { format!("{} have", files(turned)) }
        ));
    }
    Ok(notes)
}

/// A decoded image in the layout of a shard.
struct Picture {
    /// `[3, size, size]`.
    pixels: Vec<u8>,
    /// Damage found in a file that could be decoded all the same.
    damage: Option<Error>,
    /// Whether the file has an EXIF orientation that rotates or mirrors the image.
    turned: bool,
}

/// Reads and decodes a file. The inner result is the image, or the reason why it cannot be decoded.
///
/// # Errors
/// The file cannot be read. This is not a fault of its content, so `skip_broken` does not skip it.
fn read_and_decode(path: &Path, size: usize, filter: Filter) -> Result<Result<Picture>> {
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    Ok(decode(path, bytes, size, filter))
}

/// Returns a message if the header claims more pixels than the memory limit allows or than a file of this size can
/// encode.
fn too_large(bytes: &[u8]) -> Option<String> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
    // The decoder reports a bad header.
    let (width, height) = reader.into_dimensions().ok()?;
    let most = (bytes.len() as u64).saturating_mul(LARGEST_RATIO).clamp(SMALL_PICTURE, DECODED);
    let pixels = u64::from(width) * u64::from(height);
    (pixels.saturating_mul(3) > most)
        .then(|| format!("its header claims {width} x {height} pixels, too many for a file of {} bytes", bytes.len()))
}

/// Decodes an image, crops its centre square and resizes that to `size` x `size`.
fn decode(path: &Path, bytes: Vec<u8>, size: usize, filter: Filter) -> Result<Picture> {
    let bad = |e: &dyn std::fmt::Display| {
        // The decoder's messages may span several lines.
        let cause = e.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Error::new(format!("{}: cannot decode the image: {cause}", path.display()))
    };
    if let Some(fault) = too_large(&bytes) {
        return Err(bad(&fault));
    }
    if bytes.is_empty() {
        return Err(bad(&"the file is empty"));
    }
    files::check_fetched(path, &bytes)?;
    if files::is_web_page(&bytes) {
        return Err(files::web_page(path));
    }
    // The decoder would fill in missing pixels.
    if bytes.starts_with(jpeg::BEGIN) && !jpeg::is_whole(&bytes) {
        return Err(bad(&"the JPEG is truncated"));
    }
    let damage = if bytes.starts_with(jpeg::BEGIN) { jpeg_scan::fault(&bytes) } else { None };
    let damage = damage.map(|fault| Error::new(format!("{}: {}", path.display(), fault.text())));
    let mut reader = ImageReader::new(Cursor::new(bytes));
    // Detect the format from the first bytes: many datasets have files with the wrong extension.
    reader = reader.with_guessed_format().map_err(|e| Error::io("read", path, e))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODED);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(|e| bad(&e))?;
    limits.reserve(decoder.total_bytes()).map_err(|e| bad(&e))?;
    decoder.set_limits(limits).map_err(|e| bad(&e))?;
    let turned = decoder.orientation().is_ok_and(|orientation| orientation != Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder).map_err(|e| bad(&e))?.into_rgb8();
    let (width, height) = image.dimensions();
    let side = width.min(height);
    if side == 0 {
        return Err(bad(&"the image has no pixels"));
    }
    // Crop before resizing. Resized first, an image one pixel high could become arbitrarily wide.
    let square = imageops::crop_imm(&image, (width - side) / 2, (height - side) / 2, side, side);
    let square: RgbImage = if side as usize == size {
        square.to_image()
    } else {
        let filter = match filter {
            Filter::Bilinear => FilterType::Triangle,
            Filter::Bicubic => FilterType::CatmullRom,
        };
        imageops::resize(&*square, size as u32, size as u32, filter)
    };
    let interleaved = square.into_raw();
    let pixels = (0..3).flat_map(|channel| interleaved.iter().skip(channel).step_by(3)).copied().collect();
    Ok(Picture { pixels, damage, turned })
}
