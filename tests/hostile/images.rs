//! Files of images, and what fuzzing found in them.

use crate::judge::{folder, judge_within, write};
use vcycle::data::images::{ImageFiles, ImageSpec, prepare};

/// The largest request for memory by small files: buffers for reading, and what decoders always take.
const SMALL: usize = 4 << 20;

/// A header of IDX claims images of any size; memory grows with what is there.
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
            (ImageFiles::Idx { images: images.clone(), labels: labels.clone() }, dir.path().join("cache"));
        let run = move || prepare(&ImageSpec::new(files), &cache, &mut |_| {});
        judge_within(SMALL, "images.idx", &format!("{height} x {width}"), run).expect_err("nothing is there");
    }
}
