//! Folders with every kind of image, other files beside them, and classes without images in one of the splits.
//!
//! `pixels/pillow.txt` has the pixels of each file in that folder as Pillow 12 reads them with
//! `Image.open(name).convert("RGB")`. For `grey16.png`, which Pillow makes nearly all white, they are those of the
//! 8-bit grey image that it was made from by multiplying with 257.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use vcycle::data::images::formats::{Filter, Folder};
use vcycle::data::images::{ImageFiles, ImageSpec, Images, prepare};

use super::*;

/// The images of the folder `set`, and the notes while reading them.
fn folder(at: &Path, size: usize, skip_broken: bool) -> (Images, String) {
    let files = ImageFiles::Folder(Folder { folder: at.join("set"), size, filter: Filter::Bicubic, skip_broken });
    let mut notes = String::new();
    let note = &mut |text: &str| notes.push_str(&format!("{text}\n"));
    let images = prepare(&ImageSpec::new(files), &at.join("cache"), note).expect("images");
    (images, notes)
}

fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).expect("an encoded image");
    bytes.into_inner()
}

fn png() -> Vec<u8> {
    encoded(&RgbImage::from_pixel(8, 8, Rgb([1, 2, 3])), ImageFormat::Png)
}

#[test]
fn pixels_match_pillow() {
    let dir = place("pixels");
    let table = fs::read_to_string(dir.path().join("pillow.txt")).unwrap();
    let mut wanted: Vec<(&str, &str)> = table.lines().filter_map(|line| line.split_once(' ')).collect();
    wanted.sort_unstable();
    for (name, _) in &wanted {
        write(dir.path(), &format!("set/a/{name}"), fs::read(dir.path().join(name)).unwrap());
    }
    let (images, notes) = folder(dir.path(), 8, false);
    assert_eq!((images.len(), wanted.len()), (11, 11));
    for (i, (name, hex)) in wanted.iter().enumerate() {
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        let (pixels, _) = images.sample(i);
        let far = (0..192).map(|at| byte(at).abs_diff(pixels[at % 3 * 64 + at / 3])).max().unwrap();
        // PNG must be exact. Two JPEG decoders whose inverse DCTs are each accurate to one level may differ by two in
        // luma and in chroma, and chroma is scaled by up to 1.772.
        assert!(far <= if name.ends_with(".jpg") { 5 } else { 0 }, "{name}: {far}");
    }
    assert!(notes.contains("1 file has an EXIF orientation"), "{notes}");
}

#[test]
fn skipped_files_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for name in ["a/1.png", "b/2.JPEG"] {
        write(at, &format!("set/{name}"), png());
    }
    for junk in [".DS_Store", "b/.DS_Store", "a/Thumbs.db", "a/._1.png", ".ipynb_checkpoints/1.png", "README.md"] {
        write(at, &format!("set/{junk}"), "junk");
    }
    let (images, notes) = folder(at, 8, false);
    assert!(images.len() == 2 && !notes.contains("warning"), "{notes}");
    // torchvision's ImageFolder reads all of these but the last one.
    for name in ["a/more/3.png", "b/4.webp", "b/5.BMP", "loose.png"] {
        write(at, &format!("set/{name}"), png());
    }
    let (images, notes) = folder(at, 8, false);
    assert_eq!(images.len(), 2);
    assert!(notes.contains("warning: 4 images or folders in ") && notes.contains("a/more"), "{notes}");
}

/// Garbage in the middle of a scan, a missing part, and an early end: Pillow decodes all three without a warning and
/// fills the rest with grey. Damage that leaves valid codes cannot be detected by any decoder.
#[test]
fn damaged_jpegs_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let noise = |x: u32, y: u32| {
        Rgb([0u32, 1, 2].map(|c| (x * 7919 + y * 104_729 + c * 31).wrapping_mul(2_654_435_761).to_be_bytes()[0]))
    };
    let good = encoded(&RgbImage::from_fn(128, 128, noise), ImageFormat::Jpeg);
    let middle = good.len() / 2;
    let zeros = [&good[..middle], &vec![0; 2048], &good[middle + 2048..]].concat();
    let missing = [&good[..middle], &good[middle + 1024..]].concat();
    let early = [&good[..middle], &[0xff, 0xd9], &good[middle..]].concat();
    write(at, "set/a/good.jpg", &good);
    // Data after the end, which some cameras write, is not damage.
    write(at, "set/a/more.jpg", [&good[..], &good].concat());
    let (images, notes) = folder(at, 8, false);
    assert!(images.len() == 2 && !notes.contains("damaged"), "{notes}");
    for (name, bytes) in [("1zeros", zeros), ("2missing", missing), ("3early", early)] {
        write(at, &format!("set/a/{name}.jpg"), bytes);
    }
    let (images, notes) = folder(at, 8, false);
    assert_eq!(images.len(), 5);
    assert!(notes.contains("warning: 3 files damaged") && notes.contains("set/a/1zeros.jpg: the JPEG"), "{notes}");
    assert!(notes.lines().all(|line| line.len() < 600), "{notes}");
    let (images, notes) = folder(at, 8, true);
    assert_eq!(images.len(), 2);
    assert!(notes.contains("3 files skipped"), "{notes}");
}

#[test]
fn a_split_may_lack_classes_but_not_add_any() {
    let dir = place("images");
    let at = dir.path();
    for (i, name) in ["ant", "bee", "cat"].into_iter().enumerate() {
        let mut image = RgbImage::new(64, 64);
        image.pixels_mut().for_each(|pixel| pixel.0[i] = 255);
        for split in ["set", "val"] {
            write(at, &format!("{split}/{name}/0.png"), encoded(&image, ImageFormat::Png));
        }
    }
    let args = "--set data.images.valid.files.folder=val --set levels.0.train.steps=30 --set levels.0.train.lr=1e-2 --set train.batch=3";
    ok(at, &format!("train run.toml --out whole {args}"));
    // If each split numbered its own classes, bee and cat would be read as ant and bee.
    fs::remove_dir_all(at.join("val/ant")).unwrap();
    let (_, notes) = ok(at, &format!("train run.toml --out run {args}"));
    assert!(notes.contains("the held-out images have 2 of 3 classes"), "{notes}");
    let score = |model: &str| ok(at, &format!("eval {model}/vcycle/model --run run/config.toml")).0;
    assert_eq!(printed(&score("run"), "top-1:"), 100.0);
    assert_eq!(score("run"), score("whole"));
    write(at, "val/dog/0.png", png());
    refused(
        at,
        &format!("train run.toml --out no {args}"),
        &["data.images: valid has classes", "dog", "ant, bee, cat"],
    );
    for name in ["set/bee", "set/cat", "val/bee", "val/cat", "val/dog"] {
        fs::remove_dir_all(at.join(name)).unwrap();
    }
    write(at, "val/ant/0.png", png());
    refused(at, &format!("train run.toml --out no {args}"), &["data.images.train", "class ant", "two or more"]);
    fs::create_dir_all(at.join("set/bee")).unwrap();
    refused(at, &format!("train run.toml --out no {args}"), &["set/bee", "no .jpg", "remove the folder"]);
    write(at, "set/bee/0.webp", "RIFF");
    refused(at, &format!("train run.toml --out no {args}"), &["set/bee", "set/bee/0.webp is ignored"]);
}
