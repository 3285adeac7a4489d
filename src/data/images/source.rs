//! Converts image files into a shard once. The shard is cached under a hash of everything that it depends on.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::formats::{Decoded, ImageFiles, numbers};
use super::shard::{ImageWriter, Images, MAX_CLASSES};
use crate::bail;
use crate::data::fingerprint::Fingerprint;
use crate::data::labelled::classes;
use crate::data::prepared::cache::grouped;
use crate::error::{At, Error, Result};

/// Increased whenever the same inputs would produce a different shard.
const FORMAT: u32 = 1;
/// Number of images between progress notes.
const NOTED: usize = 50_000;

/// A set of labelled images, for example the training images.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// The files to read.
    pub files: ImageFiles,
    /// 1 (grey) or 3 (red, green, blue). Grey images are repeated, colour images are converted to luma. By default the
    /// number of channels of the files, which is 3 for a folder.
    #[serde(default)]
    pub channels: Option<usize>,
    /// Number of classes. By default as the format defines it, or one more than the largest label.
    #[serde(default)]
    pub classes: Option<usize>,
    /// Class names. By default as the format defines them, or the class numbers.
    #[serde(default)]
    pub names: Option<Vec<String>>,
}

impl ImageSpec {
    /// Returns a specification of `files` with all defaults.
    pub fn new(files: ImageFiles) -> Self {
        ImageSpec { files, channels: None, classes: None, names: None }
    }

    /// Returns the class names if they are known before any image is read.
    fn known_names(&self) -> Result<Option<Vec<String>>> {
        let defined = self.files.format().names()?;
        let count = defined.as_ref().map(Vec::len).or(self.classes).or(self.names.as_ref().map(Vec::len));
        if let Some((classes, count)) = self.classes.zip(count)
            && classes != count
        {
            bail!("classes: {classes}, but the images have {count} classes; remove this key");
        }
        if let Some((names, count)) = self.names.as_ref().zip(count)
            && names.len() != count
        {
            bail!("names: {} for {count} classes; give one name per class", names.len());
        }
        if let Some(count) = count.filter(|count| !(1..=MAX_CLASSES).contains(count)) {
            bail!("classes: {count} is not in 1..={MAX_CLASSES}");
        }
        Ok(self.names.clone().or(defined).or(count.map(numbers)))
    }
}

/// Opens the shard of `spec` in the folder `cache`. A shard that is missing or damaged is written first.
///
/// `note` receives a short message at each stage. Several processes may prepare the same images at once: each writes
/// its own temporary file, and the last one to finish replaces the identical files of the others.
///
/// # Errors
/// A file cannot be read, does not match its format (the message names the record, line or file) or contains no image;
/// a label is not below the number of classes; or `cache` cannot be written.
pub fn prepare(spec: &ImageSpec, cache: &Path, note: &mut dyn FnMut(&str)) -> Result<Images> {
    let channels = spec.channels.unwrap_or(spec.files.format().channels());
    if !matches!(channels, 1 | 3) {
        bail!("channels: {channels} is neither 1 (grey) nor 3 (red, green, blue)");
    }
    let names = spec.known_names()?;
    let path = cache.join(shard_name(spec, channels, names.as_deref())?);
    if path.exists() {
        match Images::open(&path).and_then(|images| images.verify().map(|()| images)) {
            Ok(images) => {
                note(&format!("using {}: {}", path.display(), counts(&images)));
                return Ok(images);
            }
            Err(error) => note(&format!("preparing the images again: {error}")),
        }
    }
    write(spec, channels, names, &path, note)?;
    let images = Images::open(&path)?;
    note(&format!("{}: {}", path.display(), counts(&images)));
    Ok(images)
}

/// Reads all images and writes the shard `path`.
fn write(
    spec: &ImageSpec,
    channels: usize,
    names: Option<Vec<String>>,
    path: &Path,
    note: &mut dyn FnMut(&str),
) -> Result<()> {
    let files = spec.files.format();
    let source = files.path().unwrap_or(Path::new("")).display().to_string();
    note(&format!("reading {source}"));
    let known = names.as_ref().map(Vec::len);
    let (mut writer, mut converted) = (None::<ImageWriter>, Vec::new());
    let mut present = Vec::new();
    let notes = files.read(&mut |image, place| {
        if image.label >= known.unwrap_or(MAX_CLASSES) {
            bail!(
                "{place}: label {} is not below {}; number the classes from 0, or increase `classes`",
                image.label,
                known.unwrap_or(MAX_CLASSES)
            );
        }
        present.resize(present.len().max(image.label + 1), false);
        present[image.label] = true;
        let [_, height, width] = image.shape;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(ImageWriter::create(path, [channels, height, width])?),
        };
        let pixels = convert(&image, channels, &mut converted);
        writer.push(pixels, image.label).at(place)?;
        if writer.len().is_multiple_of(NOTED) {
            note(&format!("{} images read", grouped(writer.len() as u64)));
        }
        Ok(())
    })?;
    notes.iter().for_each(|text| note(text));
    if names.is_none()
        && let Some(text) = classes::gaps(&present, "image")
    {
        note(&format!("{source}: warning: {text}{}", files.remedy_for_gaps()));
    }
    match writer {
        Some(writer) => writer.commit(&names.unwrap_or_else(|| numbers(present.len()))),
        None => bail!("{source}: no images; give a file that contains images"),
    }
}

/// Converts the pixels to `channels` channels: repeats grey, reduces colour to luma.
fn convert<'a>(image: &Decoded<'a>, channels: usize, converted: &'a mut Vec<u8>) -> &'a [u8] {
    let [native, height, width] = image.shape;
    if native == channels {
        return image.pixels;
    }
    converted.clear();
    if channels == 3 {
        (0..3).for_each(|_| converted.extend_from_slice(image.pixels));
    } else {
        let (red, rest) = image.pixels.split_at(height * width);
        let (green, blue) = rest.split_at(height * width);
        converted.extend(red.iter().zip(green).zip(blue).map(|((&r, &g), &b)| luma(r, g, b)));
    }
    converted
}

/// Returns the luma of a colour (ITU-R BT.601): 0.299 red + 0.587 green + 0.114 blue, rounded.
pub(super) fn luma(red: u8, green: u8, blue: u8) -> u8 {
    // Fixed point with 16 fractional bits; the weights add up to 65,536.
    ((19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue) + 32_768) >> 16) as u8
}

/// Returns `<stem>-<16 hexadecimal digits>.images`. The digits are a hash of everything that the shard depends on.
fn shard_name(spec: &ImageSpec, channels: usize, names: Option<&[String]>) -> Result<String> {
    let Some(path) = spec.files.format().path() else {
        bail!("files: the list is empty; name at least one file");
    };
    let mut print = Fingerprint::default();
    print.add(&FORMAT.to_le_bytes());
    spec.files.format().add_to(&mut print)?;
    print.add(&[channels as u8]);
    let names = serde_json::to_vec(&names).map_err(|e| Error::new(format!("names: {e}")))?;
    print.add(&names);
    let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default().chars().take(64);
    let stem: String = stem.map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    Ok(format!("{stem}-{}.images", print.hex()))
}

fn counts(images: &Images) -> String {
    let [height, width] = images.size();
    format!(
        "{} images of {} classes, {} x {height} x {width}",
        grouped(images.len() as u64),
        images.classes(),
        images.channels()
    )
}
