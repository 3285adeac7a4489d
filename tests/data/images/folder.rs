//! Class folders of JPEG and PNG files.

use super::*;
use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use std::io::Cursor;
use vcycle::data::images::formats::{Filter, Folder};

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).expect("an encoded image");
    bytes.into_inner()
}

fn plain(width: u32, height: u32, colour: [u8; 3]) -> RgbImage {
    RgbImage::from_pixel(width, height, Rgb(colour))
}

fn classes(dir: &TempDir, size: usize, filter: Filter) -> Result<Images> {
    read(dir, ImageFiles::Folder(Folder { folder: dir.path().join("set"), size, filter, skip_broken: false }))
}

#[test]
fn classes_and_files_go_by_name() {
    let dir = folder();
    let png = |colour| encoded(plain(6, 6, colour), ImageFormat::Png);
    file(&dir, "set/cat/b.png", png([3, 0, 0]));
    file(&dir, "set/cat/a.PNG", png([2, 0, 0]));
    file(&dir, "set/bee/z.png", png([1, 0, 0]));
    file(&dir, "set/dog/grey.png", encoded(GrayImage::from_pixel(6, 6, Luma([4])), ImageFormat::Png));
    file(&dir, "set/dog/half.png", encoded(RgbaImage::from_pixel(6, 6, Rgba([5, 6, 7, 128])), ImageFormat::Png));
    // None of these is an image.
    file(&dir, "set/dog/notes.txt", "text");
    file(&dir, "set/dog/.hidden.png", "text");
    file(&dir, "set/README.md", "text");
    file(&dir, "set/.git/x.png", "text");
    let images = classes(&dir, 6, Filter::Bilinear).unwrap();
    assert_eq!((images.len(), images.channels(), images.size()), (5, 3, [6, 6]));
    assert_eq!(images.names(), ["bee", "cat", "dog"]);
    let firsts: Vec<_> = (0..5).map(|i| images.sample(i)).map(|(p, label)| (p[0], p[36], p[72], label)).collect();
    assert_eq!(firsts, [(1, 0, 0, 0), (2, 0, 0, 1), (3, 0, 0, 1), (4, 4, 4, 2), (5, 6, 7, 2)]);
}

#[test]
fn more_files_than_are_decoded_at_a_time_keep_their_order() {
    let dir = folder();
    for i in 0..150u8 {
        file(&dir, &format!("set/{}/{i:03}.png", i % 2), encoded(plain(2, 2, [i; 3]), ImageFormat::Png));
    }
    let images = classes(&dir, 2, Filter::Bicubic).unwrap();
    let found: Vec<u8> = (0..150).map(|i| images.sample(i).0[0]).collect();
    assert_eq!(found, (0..150).step_by(2).chain((1..150).step_by(2)).collect::<Vec<_>>());
}

#[test]
fn the_centre_square_is_resized() {
    let dir = folder();
    // The left and right thirds have another colour and must not show.
    let mut wide = plain(24, 8, [250, 0, 0]);
    for (x, y) in (8..16).flat_map(|x| (0..8).map(move |y| (x, y))) {
        wide.put_pixel(x, y, Rgb([20, 60, 100]));
    }
    file(&dir, "set/a/wide.png", encoded(wide.clone(), ImageFormat::Png));
    file(&dir, "set/a/xhigh.png", encoded(image::imageops::rotate90(&wide), ImageFormat::Png));
    // The extension does not match the format.
    file(&dir, "set/a/yplain.png", encoded(plain(24, 8, [20, 60, 100]), ImageFormat::Jpeg));
    for (size, filter) in [(4, Filter::Bilinear), (4, Filter::Bicubic), (8, Filter::Bilinear), (16, Filter::Bicubic)] {
        let images = classes(&dir, size, filter).unwrap();
        assert_eq!((images.len(), images.size()), (3, [size; 2]));
        for i in 0..3 {
            for (plane, wanted) in images.sample(i).0.chunks(size * size).zip([20u8, 60, 100]) {
                let far = plane.iter().map(|v| v.abs_diff(wanted)).max().unwrap();
                // JPEG quantises the means of luma and chroma to about one level, an error of up to half a level, and
                // chroma is weighted by up to 1.772; the conversions both ways also round. PNG is exact.
                assert!(far <= if i == 2 { 3 } else { 0 }, "image {i} at {size}: {far}");
            }
        }
    }
}

#[test]
fn folders_that_are_none_are_errors() {
    let dir = folder();
    let size = |size| classes(&dir, size, Filter::Bilinear);
    error_with(size(4), &["cannot read", "set"]);
    file(&dir, "set/loose.png", encoded(plain(4, 4, [0; 3]), ImageFormat::Png));
    error_with(size(4), &["set", "no class folders"]);
    file(&dir, "set/a/good.png", encoded(plain(4, 4, [0; 3]), ImageFormat::Png));
    size(4).unwrap();
    error_with(size(0), &["size: 0"]);
    error_with(size(16_385), &["size: 16385"]);
    file(&dir, "set/b/notes.txt", "text");
    error_with(size(4), &["b", "no .jpg, .jpeg or .png"]);
    for (name, bytes) in [
        ("text.png", b"this is text".to_vec()),
        ("empty.jpg", Vec::new()),
        ("gif.png", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;".to_vec()),
        ("cut.png", encoded(RgbImage::from_raw(32, 32, bytes(3072, 0)).unwrap(), ImageFormat::Png)[..1500].to_vec()),
    ] {
        let path = file(&dir, &format!("set/b/{name}"), bytes);
        error_with(size(4), &[name, "cannot decode the image"]);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn damaged_images_decode_or_are_errors() {
    let dir = folder();
    let image = RgbImage::from_raw(24, 20, bytes(24 * 20 * 3, 1)).unwrap();
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let good = encoded(image.clone(), format);
        for i in 0..100 {
            let mut bad = good.clone();
            // The first bytes, which contain the sizes, and some bytes throughout the file.
            let at = if i < 64 { i } else { i * 7919 % good.len() };
            bad[at] ^= [0xff, 0x80, 0x01][i % 3];
            if i % 5 == 0 {
                bad.truncate(good.len() - i);
            }
            let path = file(&dir, "set/a/bad.png", bad);
            match classes(&dir, 8, Filter::Bilinear) {
                Ok(images) => assert_eq!((images.len(), images.size()), (1, [8, 8])),
                Err(error) => assert!(error.to_string().contains("bad.png"), "{error}"),
            }
            fs::remove_file(path).unwrap();
        }
    }
}

/// A decoder that fills in missing pixels would train a model on invented data.
#[test]
fn an_image_that_is_cut_short_is_refused_wherever_it_is_cut() {
    let dir = folder();
    let image = RgbImage::from_raw(24, 20, bytes(24 * 20 * 3, 1)).unwrap();
    for format in [ImageFormat::Png, ImageFormat::Jpeg] {
        let good = encoded(image.clone(), format);
        // The end marker of a JPEG, and the last chunk of a PNG (length, name and checksum), follow the last pixel.
        let last = if format == ImageFormat::Png { good.len() - 12 } else { good.len() - 1 };
        for length in (1..last).step_by(29).chain([last - 1, last - 2, last - 3]) {
            let path = file(&dir, "set/a/cut.jpg", &good[..length]);
            error_with(classes(&dir, 8, Filter::Bilinear), &["cut.jpg", "cannot decode the image"]);
            fs::remove_file(path).unwrap();
        }
        let path = file(&dir, "set/a/whole.jpg", [&good[..], b"behind it"].concat());
        assert_eq!(classes(&dir, 8, Filter::Bilinear).unwrap().len(), 1);
        fs::remove_file(path).unwrap();
    }
}
