//! Image shards of vcycle. What is accepted is used, split, written and read back.
//!
//! Sources: src/data/images src/data/mapped.rs
#![no_main]

use harness::{Memory, run, walk};
use vcycle::data::images::Images;
use vcycle::data::images::shard::ImageWriter;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 16, per_byte: 256 }, |case| {
        let path = case.file("set.images", data);
        let Some(images) = case.accepted(Images::open(&path), "set.images") else { return };
        case.accepted(images.verify(), "set.images");
        walk(&images);
        if !images.is_empty() {
            let again = case.dir.join("again.images");
            let [height, width] = images.size();
            let mut writer = ImageWriter::create(&again, [images.channels(), height, width]).expect("a shape");
            for i in 0..images.len() {
                let (pixels, label) = images.sample(i);
                writer.push(pixels, label as usize).expect("an image");
            }
            writer.commit(images.names()).expect("written");
            let again = Images::open(&again).expect("it was just written");
            again.verify().expect("it was just written");
            assert!((0..images.len()).all(|i| images.sample(i) == again.sample(i)));
        }
        for n in [0, 1, 2, usize::MAX] {
            let open = || Images::open(&path).expect("as before");
            let held_out = case.accepted(open().every(n), "set.images");
            let rest = case.accepted(open().training_split(n), "set.images");
            held_out.iter().chain(&rest).for_each(walk);
            if let (Some(a), Some(b)) = (held_out, rest) {
                assert_eq!(a.len() + b.len(), images.len());
            }
        }
    });
});
