//! Promise: labelled images are read unchanged from every format, or an error says what is wrong; and a batch of images
//! is a function of seed, step and row.

mod augment;
mod folder;
mod mixing;
mod randaugment;
mod sampler;
mod shard;
mod sources;
mod view;
mod workers;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vcycle::data::images::shard::ImageWriter;
use vcycle::data::images::{ImageFiles, ImageSpec, Images, prepare};
use vcycle::error::Result;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn file(dir: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(&path, bytes).expect("write a test file");
    path
}

/// Returns the error message, which must contain all `parts`.
fn error_with<T>(result: Result<T>, parts: &[&str]) -> String {
    let Err(error) = result else { panic!("no error; wanted one with {parts:?}") };
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    text
}

fn prepared(dir: &TempDir, spec: &ImageSpec) -> Result<Images> {
    prepare(spec, &dir.path().join("cache"), &mut |_| {})
}

/// Prepares images with default options.
fn read(dir: &TempDir, files: ImageFiles) -> Result<Images> {
    prepared(dir, &ImageSpec::new(files))
}

/// Returns `count` bytes that are a function of position and seed.
fn bytes(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|i| ((i * i * 31 + i * 7 + seed * 131) >> 2) as u8).collect()
}

/// Writes a shard of `count` images `[channels, height, width]`; image `i` has class `i % classes`.
fn shard(path: &Path, count: usize, [channels, height, width]: [usize; 3], classes: usize) -> Images {
    let mut writer = ImageWriter::create(path, [channels, height, width]).expect("a writer");
    for i in 0..count {
        writer.push(&bytes(channels * height * width, i), i % classes).expect("an image");
    }
    writer.commit(&(0..classes).map(|i| format!("class {i}")).collect::<Vec<_>>()).expect("a shard");
    Images::open(path).expect("images")
}
