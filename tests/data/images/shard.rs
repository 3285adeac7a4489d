//! Image shards: round trips, and invalid files.

use super::*;

#[test]
fn shards_round_trip() {
    let dir = folder();
    let path = dir.path().join("a.images");
    for (shape, count) in [([1, 8, 8], 17), ([3, 5, 9], 4), ([3, 1, 1], 1), ([1, 3, 2], 0)] {
        let images = shard(&path, count, shape, 3);
        images.verify().unwrap();
        assert_eq!(
            (images.len(), images.channels(), images.size(), images.classes()),
            (count, shape[0], [shape[1], shape[2]], 3)
        );
        assert_eq!(images.names(), ["class 0", "class 1", "class 2"]);
        for i in 0..count {
            assert_eq!(images.sample(i), (&bytes(shape.iter().product(), i)[..], (i % 3) as i32));
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left");
}

#[test]
fn what_is_no_image_is_not_written() {
    let dir = folder();
    let path = dir.path().join("a.images");
    for shape in [[2, 4, 4], [1, 0, 4], [1, 4, 0], [3, 16_385, 1]] {
        error_with(ImageWriter::create(&path, shape), &["a.images"]);
    }
    let mut writer = ImageWriter::create(&path, [1, 2, 2]).unwrap();
    error_with(writer.push(&[0; 5], 0), &["a.images", "5 pixels", "[1, 2, 2]"]);
    error_with(writer.push(&[0; 4], 65_536), &["a.images", "class 65536"]);
    writer.push(&[0; 4], 2).unwrap();
    error_with(writer.commit(&["a".to_owned(), "b".to_owned()]), &["2 class names", "give 3"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn any_bit_that_flips_is_noticed() {
    let dir = folder();
    let path = dir.path().join("a.images");
    let images = shard(&path, 3, [1, 2, 3], 2);
    assert_eq!(images.sum().len(), 16);
    drop(images);
    let good = fs::read(&path).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let path = file(&dir, "bad.images", bad);
        let judged = Images::open(&path).and_then(|images| images.verify().map(|()| images));
        error_with(judged, &["bad.images", "prepared again"]);
    }
    for cut in 0..good.len() {
        error_with(Images::open(&file(&dir, "cut.images", &good[..cut])), &["cut.images"]);
    }
    error_with(Images::open(&file(&dir, "long.images", [&good[..], &[0]].concat())), &["long.images", "damaged"]);
    error_with(Images::open(dir.path()), &["not a regular file", "an image shard"]);
    error_with(Images::open(&dir.path().join("none.images")), &["none.images"]);
}

#[test]
fn sizes_that_overflow_are_errors() {
    let dir = folder();
    let path = dir.path().join("a.images");
    drop(shard(&path, 3, [1, 2, 3], 2));
    let good = fs::read(&path).unwrap();
    for (at, number) in
        [(32, u64::MAX), (32, 1 << 63), (32, u64::MAX / 6 + 1), (32, u64::MAX / 10 + 2), (28, u64::MAX >> 32)]
    {
        let mut bad = good.clone();
        let width = if at == 28 { 4 } else { 8 };
        bad[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
        error_with(Images::open(&file(&dir, "bad.images", bad)), &["bad.images", "damaged"]);
    }
}
