//! Image files, including cases that fuzzing found.

use crate::judge::{folder, judge, judge_within, write};
use vcycle::data::images::formats::{Filter, Folder, Idx};
use vcycle::data::images::{ImageFiles, ImageSpec, prepare};

/// Limit on single allocations for small files: read buffers and the fixed allocations of decoders.
const SMALL: usize = 4 << 20;

/// An IDX header may claim images of any size, but memory must grow only with the bytes in the file.
#[test]
fn idx_headers_that_claim_too_much() {
    let dir = folder();
    let header = |sizes: &[u32]| {
        let numbers = sizes.iter().flat_map(|size| size.to_be_bytes());
        [0, 0, 8, sizes.len() as u8].into_iter().chain(numbers).chain([1, 2, 3]).collect::<Vec<u8>>()
    };
    let [images, labels] = ["images.idx", "labels.idx"].map(|name| dir.path().join(name));
    write(&labels, &header(&[3]));
    for (height, width) in [(16_384, 16_384), (1, 16_384), (16_385, 1), (0, 4), (u32::MAX, u32::MAX)] {
        write(&images, &header(&[3, height, width]));
        let (files, cache) =
            (ImageFiles::Idx(Idx { images: images.clone(), labels: labels.clone() }), dir.path().join("cache"));
        let run = move || prepare(&ImageSpec::new(files), &cache, &mut |_| {});
        judge_within(SMALL, "images.idx", &format!("{height} x {width}"), run).expect_err("an image without data");
    }
}

/// So must it for PNG and JPEG headers, for which half a gigabyte was once allocated.
#[test]
fn pictures_that_claim_too_much() {
    let dir = folder();
    let chunk = |kind: &[u8], content: &[u8]| {
        let mut sum = flate2::Crc::new();
        sum.update(kind);
        sum.update(content);
        [&(content.len() as u32).to_be_bytes(), kind, content, &sum.sum().to_be_bytes()].concat()
    };
    let png = |width: u32, height: u32| {
        let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &head), &chunk(b"IDAT", &[]), &chunk(b"IEND", &[])].concat()
    };
    let jpeg = |width: u16, height: u16| {
        let ([h, g], [w, v]) = (height.to_be_bytes(), width.to_be_bytes());
        let table = [&[0xff, 0xdb, 0, 67, 0][..], &[1; 64]].concat();
        let frame = [0xff, 0xc0, 0, 17, 8, h, g, w, v, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0];
        let scan = [0xff, 0xda, 0, 12, 3, 1, 0, 2, 0, 3, 0, 0, 63, 0, 0];
        [&[0xff, 0xd8], &table[..], &frame, &scan, &[0xff, 0xd9]].concat()
    };
    let path = dir.path().join("set/class/picture.png");
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    for (name, bytes) in [
        ("13000 x 13000", png(13_000, 13_000)),
        ("4000000000 x 1", png(4_000_000_000, 1)),
        ("4294967295 x 4294967295", png(u32::MAX, u32::MAX)),
        ("65500 x 65500", jpeg(65_500, 65_500)),
        ("13000 x 13000", jpeg(13_000, 13_000)),
    ] {
        write(&path, &bytes);
        let files = ImageFiles::Folder(Folder {
            folder: dir.path().join("set"),
            size: 8,
            filter: Filter::Bilinear,
            skip_broken: false,
        });
        let cache = dir.path().join("cache");
        let run = move || prepare(&ImageSpec::new(files), &cache, &mut |_| {});
        let message = judge("picture.png", name, run).map(|_| ()).expect_err("an image without data");
        // For some headers, the message is the decoder's own.
        assert!(message.contains(name) || message.contains("Memory limit"), "{name}: {message}");
    }
}
