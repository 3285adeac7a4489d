//! Converts image files into a shard once. The shard is cached under a hash of everything that it depends on.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::csv::{self, LabelColumn};
use super::shard::{ImageWriter, Images, MAX_CLASSES};
use super::{cifar, folder, idx};
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

/// The format and paths of image files. All files except those of a folder may be compressed as `.gz` or `.zst`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "format", rename_all = "lowercase", deny_unknown_fields)]
pub enum ImageFiles {
    /// The format of MNIST with unsigned bytes: images `[images, rows, columns]` and labels `[images]`.
    Idx { images: PathBuf, labels: PathBuf },
    /// The binary version of CIFAR-10: records of a label and 3 x 32 x 32 pixels.
    Cifar10 { files: Vec<PathBuf> },
    /// The binary version of CIFAR-100, with two labels per record.
    Cifar100 {
        files: Vec<PathBuf>,
        #[serde(default)]
        labels: Cifar100Labels,
    },
    /// One line for each square grey image: its values row by row and its label, separated by commas.
    Csv {
        file: PathBuf,
        /// The value of white. By default 16 if no value is larger, else 255.
        #[serde(default)]
        maximum: Option<u8>,
        /// The position of the label in a line.
        #[serde(default, skip_serializing_if = "is_default")]
        label: LabelColumn,
    },
    /// A folder with one folder of JPEG and PNG files for each class. The centre squares of the images are resized.
    Folder {
        folder: PathBuf,
        /// Side length of the resized images in pixels.
        size: usize,
        /// The filter for resizing.
        #[serde(default)]
        filter: Filter,
        /// Skip and count files that cannot be decoded or are damaged. Otherwise the first file that cannot be decoded
        /// is an error.
        #[serde(default)]
        skip_broken: bool,
    },
}

/// The labels of CIFAR-100 to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cifar100Labels {
    /// 100 classes.
    #[default]
    Fine,
    /// 20 groups of classes.
    Coarse,
}

/// The filter that resizes an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    Bilinear,
    #[default]
    Bicubic,
}

/// An image that a reader passes to its sink: pixels `[channels, height, width]`, and `shape` with these sizes.
pub(super) struct Decoded<'a> {
    pub pixels: &'a [u8],
    pub shape: [usize; 3],
    pub label: usize,
}

/// The position of an image in a file, for error messages: `a.bin: record 7`.
pub(super) struct Place<'a> {
    pub path: &'a Path,
    pub unit: &'static str,
    pub number: u64,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.path.display(), self.unit, self.number)
    }
}

/// The callback that a reader calls with each image and its position.
pub(super) type Sink<'a> = dyn FnMut(Decoded<'_>, &dyn fmt::Display) -> Result<()> + 'a;

impl ImageFiles {
    /// Returns the class names if the format defines them.
    fn names(&self) -> Result<Option<Vec<String>>> {
        Ok(match self {
            ImageFiles::Idx { .. } | ImageFiles::Csv { .. } => None,
            ImageFiles::Cifar10 { .. } => Some(cifar::NAMES_10.map(str::to_owned).to_vec()),
            ImageFiles::Cifar100 { labels: Cifar100Labels::Fine, .. } => Some(numbers(100)),
            ImageFiles::Cifar100 { labels: Cifar100Labels::Coarse, .. } => Some(numbers(20)),
            ImageFiles::Folder { folder, .. } => Some(folder::classes(folder)?.into_iter().map(|c| c.name).collect()),
        })
    }

    /// Passes every image to `sink`; returns notes and warnings about the files.
    fn read(&self, sink: &mut Sink<'_>) -> Result<Vec<String>> {
        match self {
            ImageFiles::Idx { images, labels } => idx::read(images, labels, sink),
            ImageFiles::Cifar10 { files } => cifar::read(files, &cifar::Records::TEN, sink),
            ImageFiles::Cifar100 { files, labels: Cifar100Labels::Fine } => {
                cifar::read(files, &cifar::Records::HUNDRED_FINE, sink)
            }
            ImageFiles::Cifar100 { files, labels: Cifar100Labels::Coarse } => {
                cifar::read(files, &cifar::Records::HUNDRED_COARSE, sink)
            }
            ImageFiles::Csv { file, maximum, label } => csv::read(file, *maximum, *label, sink),
            ImageFiles::Folder { folder, size, filter, skip_broken } => {
                return folder::read(folder, (*size, *filter, *skip_broken), sink);
            }
        }?;
        Ok(Vec::new())
    }

    /// Returns the default number of channels.
    fn channels(&self) -> usize {
        match self {
            ImageFiles::Idx { .. } | ImageFiles::Csv { .. } => 1,
            ImageFiles::Cifar10 { .. } | ImageFiles::Cifar100 { .. } | ImageFiles::Folder { .. } => 3,
        }
    }

    /// Adds everything that a shard depends on: the content of the files, or for a folder the names, sizes and
    /// modification times.
    fn add_to(&self, print: &mut Fingerprint) -> Result<()> {
        let (kind, files): (&str, Vec<&PathBuf>) = match self {
            ImageFiles::Idx { images, labels } => ("idx", vec![images, labels]),
            ImageFiles::Cifar10 { files } => ("cifar10", files.iter().collect()),
            ImageFiles::Cifar100 { files, labels: Cifar100Labels::Fine } => ("cifar100", files.iter().collect()),
            ImageFiles::Cifar100 { files, labels: Cifar100Labels::Coarse } => ("cifar20", files.iter().collect()),
            ImageFiles::Csv { file, maximum, label } => {
                print.add(format!("{maximum:?}").as_bytes());
                if *label == LabelColumn::First {
                    print.add(b"label first");
                }
                ("csv", vec![file])
            }
            ImageFiles::Folder { folder, size, filter, skip_broken } => {
                // Different from the text of older versions, whose shards may contain truncated or damaged images.
                let broken = if *skip_broken { "and damaged skipped" } else { "refused" };
                print.add(format!("folder {size} {filter:?}, broken {broken}").as_bytes());
                return folder::add_to(folder, print);
            }
        };
        print.add(kind.as_bytes());
        for file in files {
            // The extension may decide how the content is read.
            let extension = file.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
            print.add(extension.as_bytes());
            print.add_file(file)?;
        }
        Ok(())
    }

    /// Returns the file or folder that gives the shard its name.
    fn path(&self) -> Option<&Path> {
        match self {
            ImageFiles::Idx { images, .. } => Some(images),
            ImageFiles::Cifar10 { files } | ImageFiles::Cifar100 { files, .. } => files.first().map(PathBuf::as_path),
            ImageFiles::Csv { file, .. } => Some(file),
            ImageFiles::Folder { folder, .. } => Some(folder),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

impl ImageSpec {
    /// Returns a specification of `files` with all defaults.
    pub fn new(files: ImageFiles) -> Self {
        ImageSpec { files, channels: None, classes: None, names: None }
    }

    /// Returns the class names if they are known before any image is read.
    fn known_names(&self) -> Result<Option<Vec<String>>> {
        let defined = self.files.names()?;
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
    let channels = spec.channels.unwrap_or(spec.files.channels());
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
    let source = spec.files.path().unwrap_or(Path::new("")).display().to_string();
    note(&format!("reading {source}"));
    let known = names.as_ref().map(Vec::len);
    let (mut writer, mut converted) = (None::<ImageWriter>, Vec::new());
    let mut present = Vec::new();
    let notes = spec.files.read(&mut |image, place| {
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
        let place = match &spec.files {
            ImageFiles::Csv { label: LabelColumn::Last, .. } => {
                "; if the label is the first column, set label = \"first\""
            }
            _ => "",
        };
        note(&format!("{source}: warning: {text}{place}"));
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
    let Some(path) = spec.files.path() else {
        bail!("files: the list is empty; name at least one file");
    };
    let mut print = Fingerprint::default();
    print.add(&FORMAT.to_le_bytes());
    spec.files.add_to(&mut print)?;
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
