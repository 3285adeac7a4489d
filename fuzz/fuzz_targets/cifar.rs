//! The binary versions of CIFAR-10 and CIFAR-100. The first byte selects the format and the labels.
//!
//! Sources: src/data/images src/data/text/reader.rs src/data/mapped.rs
#![no_main]

use harness::{Memory, choice, images, run, same};
use vcycle::data::images::formats::{Cifar10, Cifar100, Cifar100Labels};
use vcycle::data::images::{ImageFiles, ImageSpec};

const PIXELS: usize = 3 * 32 * 32;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = choice(data) else { return };
    run(data, Memory { mib: 8, per_byte: 64 }, |case| {
        let files = vec![case.file("data.bin", data)];
        let (files, before, wanted) = match which % 3 {
            0 => (ImageFiles::Cifar10(Cifar10 { files }), 1, 0),
            1 => (ImageFiles::Cifar100(Cifar100 { files, labels: Cifar100Labels::Coarse }), 2, 0),
            _ => (ImageFiles::Cifar100(Cifar100 { files, labels: Cifar100Labels::Fine }), 2, 1),
        };
        let Some(found) = images(case, &ImageSpec::new(files), "data.bin") else { return };
        let record = before + PIXELS;
        same("images", &found.len(), &(data.len() / record));
        for (i, record) in data.chunks_exact(record).enumerate() {
            let (image, label) = found.sample(i);
            assert!(image == &record[before..] && label == i32::from(record[wanted]));
        }
    });
});
