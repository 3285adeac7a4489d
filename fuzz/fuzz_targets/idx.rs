//! IDX, the format of MNIST: a file of images and a file of labels.
//!
//! Sources: src/data/images src/data/text/reader.rs src/data/mapped.rs
#![no_main]

use harness::{Memory, images, parts, run};
use vcycle::data::images::formats::Idx;
use vcycle::data::images::{ImageFiles, ImageSpec};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let parts = parts(data);
    let &[pixels, labels, ..] = parts.as_slice() else { return };
    run(data, Memory { mib: 4, per_byte: 256 }, |case| {
        let files = ImageFiles::Idx(Idx { images: case.file("i.idx", pixels), labels: case.file("l.idx", labels) });
        for channels in [None, Some(3)] {
            let spec = ImageSpec { channels, ..ImageSpec::new(files.clone()) };
            let Some(found) = images(case, &spec, ".idx") else { continue };
            let size = found.size()[0] * found.size()[1];
            for i in 0..found.len() {
                let (image, label) = found.sample(i);
                assert!(image[..size] == pixels[16 + i * size..][..size] && label == i32::from(labels[8 + i]));
            }
        }
    });
});
