//! Images of every kind that a folder may hold, what lies beside them, and classes of which a side has no image.
//!
//! `pixels/pillow.txt` has the pixels of each file there as Pillow 12 gives them: `Image.open(name).convert("RGB")`, of
//! `grey16.png` those of the grey image that it was made from by multiplying with 257 (Pillow makes nearly all of it
//! white).

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use vcycle::data::images::source::Filter;
use vcycle::data::images::{ImageFiles, ImageSpec, Images, prepare};

use super::*;

/// The images of the folder `set`, and what is said on the way.
fn folder(at: &Path, size: usize, skip_broken: bool) -> (Images, String) {
    let files = ImageFiles::Folder { folder: at.join("set"), size, filter: Filter::Bicubic, skip_broken };
    let mut said = String::new();
    let note = &mut |text: &str| said.push_str(&format!("{text}\n"));
    let images = prepare(&ImageSpec::new(files), &at.join("cache"), note).expect("images");
    (images, said)
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
fn pixels_are_those_that_pillow_gives() {
    let dir = place("pixels");
    let table = fs::read_to_string(dir.path().join("pillow.txt")).unwrap();
    let mut wanted: Vec<(&str, &str)> = table.lines().filter_map(|line| line.split_once(' ')).collect();
    wanted.sort_unstable();
    for (name, _) in &wanted {
        write(dir.path(), &format!("set/a/{name}"), fs::read(dir.path().join(name)).unwrap());
    }
    let (images, said) = folder(dir.path(), 8, false);
    assert_eq!((images.len(), wanted.len()), (11, 11));
    for (i, (name, hex)) in wanted.iter().enumerate() {
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        let (pixels, _) = images.sample(i);
        let far = (0..192).map(|at| byte(at).abs_diff(pixels[at % 3 * 64 + at / 3])).max().unwrap();
        // PNG is exact. Two inverse transforms of JPEG that are each right to one level differ by two in each of luma
        // and chroma, and chroma counts up to 1.772 times.
        assert!(far <= if name.ends_with(".jpg") { 5 } else { 0 }, "{name}: {far}");
    }
    assert!(said.contains("1 file has an EXIF orientation"), "{said}");
}

#[test]
fn what_is_passed_over_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for name in ["a/1.png", "b/2.JPEG"] {
        write(at, &format!("set/{name}"), png());
    }
    for junk in [".DS_Store", "b/.DS_Store", "a/Thumbs.db", "a/._1.png", ".ipynb_checkpoints/1.png", "README.md"] {
        write(at, &format!("set/{junk}"), "junk");
    }
    let (images, said) = folder(at, 8, false);
    assert!(images.len() == 2 && !said.contains("warning"), "{said}");
    // torchvision reads all of these but the last one, which ImageFolder leaves out as well.
    for name in ["a/more/3.png", "b/4.webp", "b/5.BMP", "loose.png"] {
        write(at, &format!("set/{name}"), png());
    }
    let (images, said) = folder(at, 8, false);
    assert_eq!(images.len(), 2);
    assert!(said.contains("warning: 4 images or folders in ") && said.contains("a/more"), "{said}");
}

/// Garbage in the middle of a scan, a part that is missing, and an end that comes too early: Pillow decodes all three
/// without a word, grey where nothing is left. A fault that gives other valid codes is no decoder's to see.
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
    // What a camera puts behind the end is no damage.
    write(at, "set/a/more.jpg", [&good[..], &good].concat());
    let (images, said) = folder(at, 8, false);
    assert!(images.len() == 2 && !said.contains("damaged"), "{said}");
    for (name, bytes) in [("1zeros", zeros), ("2missing", missing), ("3early", early)] {
        write(at, &format!("set/a/{name}.jpg"), bytes);
    }
    let (images, said) = folder(at, 8, false);
    assert_eq!(images.len(), 5);
    assert!(said.contains("warning: 3 files damaged") && said.contains("set/a/1zeros.jpg: the JPEG"), "{said}");
    assert!(said.lines().all(|line| line.len() < 600), "{said}");
    let (images, said) = folder(at, 8, true);
    assert_eq!(images.len(), 2);
    assert!(said.contains("3 files skipped"), "{said}");
}

#[test]
fn a_side_may_lack_classes_but_not_have_others() {
    let dir = place("images");
    let at = dir.path();
    for (i, name) in ["ant", "bee", "cat"].into_iter().enumerate() {
        let mut image = RgbImage::new(64, 64);
        image.pixels_mut().for_each(|pixel| pixel.0[i] = 255);
        for side in ["set", "val"] {
            write(at, &format!("{side}/{name}/0.png"), encoded(&image, ImageFormat::Png));
        }
    }
    let args = "--set data.images.valid.files.folder=val --set levels.0.train.steps=30 --set levels.0.train.lr=1e-2 --set train.batch=3";
    ok(at, &format!("train run.toml --out whole {args}"));
    // Were classes numbered by what a side has, bee and cat would be taken for ant and bee.
    fs::remove_dir_all(at.join("val/ant")).unwrap();
    let (_, said) = ok(at, &format!("train run.toml --out run {args}"));
    assert!(said.contains("the held-out images have 2 of 3 classes"), "{said}");
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
    refused(at, &format!("train run.toml --out no {args}"), &["set/bee", "set/bee/0.webp is not read"]);
}
