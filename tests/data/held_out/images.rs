//! DeiT: every image format, with a separate validation set and with every n-th image held out.

use std::io::Cursor;

use super::support::*;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use vcycle::config::Config;
use vcycle::data::loader::batch::Field;
use vcycle::data::tokens::sampler::IGNORED;

/// The grey value of all pixels, and the label.
type Image = (u8, usize);

/// Held-out images have this grey value or more, all others less.
const SENTINEL: u8 = 150;
const FORMATS: [&str; 5] = ["idx", "cifar10", "cifar100", "csv", "folder"];

fn deit(data: &str, sizes: Sizes) -> Config {
    config("family = \"deit\"\nimage = 4\npatch = 2", data, sizes)
}

/// Makes images with distinct grey values. Held-out images have the last class of the format, which is a sentinel, too.
/// In a folder, however, images are ordered by class.
fn set(format: &str, count: usize, is_held_out: impl Fn(usize) -> bool) -> Vec<Image> {
    let last = match format {
        "cifar10" => 9,
        "cifar100" => 99,
        _ => 3,
    };
    let image = |i: usize| match (is_held_out(i), format) {
        (true, "folder") => (SENTINEL + i as u8, i * 3 / count),
        (false, "folder") => (1 + i as u8, i * 3 / count),
        (true, _) => (SENTINEL + i as u8, last),
        (false, _) => (1 + i as u8, i % 3),
    };
    (0..count).map(image).collect()
}

/// Writes the images in `format` and returns the configuration table that names them.
fn write(folder: &Folder, name: &str, format: &str, images: &[Image]) -> String {
    let record = |(value, label): &Image, labels: &[u8], pixels: usize| {
        assert!(labels.last().is_some_and(|last| usize::from(*last) == *label));
        [labels, &vec![*value; pixels][..]].concat()
    };
    let idx = |sizes: &[u32], elements: Vec<u8>| {
        let header = [vec![0, 0, 8, sizes.len() as u8], sizes.iter().flat_map(|size| size.to_be_bytes()).collect()];
        [header.concat(), elements].concat()
    };
    let (count, named) = (images.len() as u32, "classes = 4");
    match format {
        "idx" => {
            let pixels = images.iter().flat_map(|(value, _)| [*value; 12]).collect();
            let pixels = folder.file(&format!("{name}-images.idx.gz"), idx(&[count, 4, 3], pixels));
            let labels = images.iter().map(|(_, label)| *label as u8).collect();
            let labels = folder.file(&format!("{name}-labels.idx"), idx(&[count], labels));
            format!(
                "files = {{ format = \"idx\", images = {}, labels = {} }}\n{named}",
                quoted(&pixels),
                quoted(&labels)
            )
        }
        "cifar10" | "cifar100" => {
            let records = |images: &[Image]| -> Vec<u8> {
                let record = |image: &Image| match format {
                    "cifar10" => record(image, &[image.1 as u8], 3072),
                    _ => record(image, &[7, image.1 as u8], 3072),
                };
                images.iter().flat_map(record).collect()
            };
            let (first, second) = images.split_at(images.len() / 3);
            let first = folder.file(&format!("{name}-{format}-1.bin"), records(first));
            let second = folder.file(&format!("{name}-{format}-2.bin.zst"), records(second));
            format!("files = {{ format = {format:?}, files = {} }}", all_quoted(&[first, second]))
        }
        "csv" => {
            let line = |(value, label): &Image| format!("{}{label}\n", format!("{value},").repeat(16));
            let path = folder.file(&format!("{name}.csv.gz"), images.iter().map(line).collect::<String>());
            format!("files = {{ format = \"csv\", file = {}, maximum = 255 }}\n{named}", quoted(&path))
        }
        _ => {
            for (number, (value, label)) in images.iter().enumerate() {
                let mut png = Cursor::new(Vec::new());
                let image = DynamicImage::from(RgbImage::from_pixel(5, 5, Rgb([*value; 3])));
                image.write_to(&mut png, ImageFormat::Png).expect("a file's bytes");
                folder.file(&format!("{name}-folder/class-{label}/{number:03}.png"), png.into_inner());
            }
            let path = folder.path().join(format!("{name}-folder"));
            format!("files = {{ format = \"folder\", folder = {}, size = 5 }}", quoted(&path))
        }
    }
}

/// The grey value of a row. All pixels of an image without augmentation have the same value.
fn value(patches: &[f32], channels: usize) -> u8 {
    let pixels = &patches[channels * 4..];
    assert!(patches[..channels * 4].iter().all(|&special| special == 0.0));
    assert!(pixels.iter().all(|&pixel| pixel == pixels[0]), "{pixels:?}");
    (pixels[0] * 255.0).round() as u8
}

/// The images of a batch: rows with a label.
fn images(fields: &[Field]) -> Vec<Image> {
    let (patches, labels) = (floats(&fields[0]), fields[1].as_ints());
    let each = patches.len() / labels.len();
    let rows = patches.chunks_exact(each).zip(labels).filter(|(_, label)| **label != IGNORED);
    rows.map(|(patches, &label)| (value(patches, each / 20), label as usize)).collect()
}

fn check(folder: &Folder, data: &str, train: &[Image], valid: &[Image]) {
    for (batch, accumulate) in ALL_SIZES {
        let sizes = Sizes { batch, accumulate, ..USUAL };
        let source = folder.source(&deit(data, sizes));
        let all = held_out(&*source, sizes.rows());
        let found: Vec<Image> = all.iter().flat_map(|(fields, _)| images(fields)).collect();
        assert!(found == valid, "batches of {batch}: {found:?} instead of {valid:?}");
        for (fields, scored) in &all {
            assert_eq!(images(fields).len(), *scored);
            assert_eq!(fields[1], fields[2]);
            assert!(floats(&fields[3]).iter().all(|&share| share == 1.0));
        }
    }
    let wanted = counts(train.iter().copied());
    for (seed, batch) in [(1, 5), (2, train.len()), (3, 50)] {
        let source = folder.source(&deit(data, Sizes { seed, batch, accumulate: 1 }));
        let all: Vec<Image> = training(&*source, batch, 40).flat_map(|fields| images(&fields)).collect();
        assert_eq!(all.len(), 40 * batch);
        for epoch in all.chunks_exact(train.len()) {
            assert!(counts(epoch.iter().copied()) == wanted, "{epoch:?}");
        }
        read_ahead(&source, batch, &[1, 4]);
    }
    seed_orders(
        folder,
        |sizes| deit(data, sizes),
        |config, source| batches(config, source).iter().map(|fields| images(fields)).collect(),
    );

    // With augmentation and mixing, training batches still contain no held-out image, and held-out images stay
    // unchanged.
    let changed = "[augment]\npadding = 1\nflip = 0.5\n[augment.mixing]\nmixup = 0.8\ncutmix = 1.0\nby = \"pair\"";
    let make = |sizes| deit(&format!("{data}\n{changed}"), sizes);
    let sizes = Sizes { batch: 24, ..USUAL };
    let source = folder.source(&make(sizes));
    let labels: Vec<i32> = train.iter().map(|(_, label)| *label as i32).collect();
    let sentinels: Vec<i32> = valid.iter().map(|(_, label)| *label as i32).filter(|l| !labels.contains(l)).collect();
    for fields in training(&*source, sizes.batch, 60) {
        let brightest = f32::from(SENTINEL - 1) / 255.0;
        assert!(floats(&fields[0]).iter().all(|pixel| (0.0..=brightest).contains(pixel)));
        let mut both = fields[1].as_ints().iter().chain(fields[2].as_ints());
        assert!(both.all(|label| labels.contains(label) && !sentinels.contains(label)));
    }
    let found: Vec<Image> = held_out(&*source, 24).iter().flat_map(|(fields, _)| images(fields)).collect();
    assert!(found == valid, "{found:?}");
    read_ahead(&source, sizes.batch, &[1, 4]);
    seed_orders(folder, make, batches);
}

#[test]
fn a_separate_validation_set() {
    let folder = Folder::new();
    for format in FORMATS {
        let (train, valid) = (set(format, 31, |_| false), set(format, 17, |_| true));
        let tables = [write(&folder, "train", format, &train), write(&folder, "valid", format, &valid)];
        let data = format!("[data.images.train]\n{}\n[data.images.valid]\n{}", tables[0], tables[1]);
        check(&folder, &data, &train, &valid);
    }
}

/// As docs/data.md specifies, images 0, n, 2n, ... are held out.
#[test]
fn every_nth_image_is_held_out() {
    let folder = Folder::new();
    for (number, format) in FORMATS.into_iter().enumerate() {
        // n is 10 by default. The counts cover a last image that is held out and one that is not.
        for (every, count) in [(None, 41), (Some(2 + number), 40), (Some(5), 36)] {
            let n = every.unwrap_or(10);
            let all = set(format, count, |i| i % n == 0);
            let (valid, train): (Vec<Image>, Vec<Image>) = all.iter().partition(|(value, _)| *value >= SENTINEL);
            assert_eq!(valid.len(), count.div_ceil(n));
            let table = write(&folder, &format!("all-{n}-{count}"), format, &all);
            let every = every.map_or(String::new(), |every| format!("held_out_every = {every}\n"));
            check(&folder, &format!("[data.images]\n{every}[data.images.train]\n{table}"), &train, &valid);
        }
    }
}
