//! The formats of image files, one file each.
//!
//! To add one, write a struct with its keys that implements [`ImageFormat`], and add its `mod` line and its line of the
//! list below: `format = "..."` in a configuration then selects it.

mod cifar;
mod csv;
mod folder;
mod idx;

pub use cifar::{Cifar10, Cifar100, Cifar100Labels};
pub use csv::{Csv, LabelColumn};
pub use folder::{Filter, Folder};
pub use idx::Idx;

use crate::data::fingerprint::Fingerprint;
use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};

/// A format of image files.
pub trait ImageFormat {
    /// Returns the class names if the format defines them.
    ///
    /// # Errors
    /// The files that name them cannot be read.
    fn names(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// Returns the number of channels of the files: 1 (grey) or 3 (red, green, blue).
    fn channels(&self) -> usize;

    /// Passes every image to `sink`; returns notes and warnings about the files.
    ///
    /// # Errors
    /// A file cannot be read or does not match the format; errors of `sink`.
    fn read(&self, sink: &mut Sink<'_>) -> Result<Vec<String>>;

    /// Adds everything that a shard depends on: the content of the files, or for a folder the names, sizes and
    /// modification times.
    ///
    /// # Errors
    /// A file cannot be read.
    fn add_to(&self, print: &mut Fingerprint) -> Result<()>;

    /// Returns the file or folder that gives the shard its name.
    fn path(&self) -> Option<&Path>;

    /// Returns what to do, from a semicolon on, if the labels of some classes do not occur.
    fn remedy_for_gaps(&self) -> &'static str {
        ""
    }
}

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The format and paths of image files. All files except those of a folder may be compressed as `.gz` or `.zst`.
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
        #[serde(tag = "format", rename_all = "lowercase")]
        pub enum ImageFiles { $($(#[$doc])* $name($name)),+ }

        impl ImageFiles {
            /// Returns the files as their format.
            pub fn format(&self) -> &dyn ImageFormat {
                match self { $(ImageFiles::$name(files) => files),+ }
            }
        }
    };
}

formats! {
    /// `format = "idx"`.
    Idx,
    /// `format = "cifar10"`.
    Cifar10,
    /// `format = "cifar100"`.
    Cifar100,
    /// `format = "csv"`.
    Csv,
    /// `format = "folder"`.
    Folder,
}

/// An image that a reader passes to its sink: pixels `[channels, height, width]`, and `shape` with these sizes.
pub struct Decoded<'a> {
    /// `[channels, height, width]`.
    pub pixels: &'a [u8],
    /// Channels, height and width.
    pub shape: [usize; 3],
    /// The class, counted from 0.
    pub label: usize,
}

/// The position of an image in a file, for error messages: `a.bin: record 7`.
pub struct Place<'a> {
    /// The file.
    pub path: &'a Path,
    /// What is counted: `record`, `line`.
    pub unit: &'static str,
    /// Its number.
    pub number: u64,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.path.display(), self.unit, self.number)
    }
}

/// The callback that a reader calls with each image and its position.
pub type Sink<'a> = dyn FnMut(Decoded<'_>, &dyn fmt::Display) -> Result<()> + 'a;

/// Adds files, by their content and extension, to a fingerprint.
fn add_files<'a>(print: &mut Fingerprint, kind: &str, files: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    print.add(kind.as_bytes());
    for file in files {
        // The extension may decide how the content is read.
        let extension = file.extension().map(|e| e.to_string_lossy().into_owned()).unwrap_or_default();
        print.add(extension.as_bytes());
        print.add_file(file)?;
    }
    Ok(())
}

/// Returns the numbers from 0 as class names.
pub(super) fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}
