//! Small grey images as lines of numbers. The first byte chooses the value of white.
//!
//! Sources: src/data/images src/data/reader.rs src/data/encodings.rs src/data/mapped.rs
#![no_main]

use harness::{Memory, choice, images, run};
use vcycle::data::images::{ImageFiles, ImageSpec};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = choice(data) else { return };
    run(data, Memory { mib: 16, per_byte: 256 }, |case| {
        let maximum = [None, Some(0), Some(1), Some(16), Some(255)][usize::from(which) % 5];
        let spec = ImageSpec::new(ImageFiles::Csv { file: case.file("digits.csv", data), maximum });
        // Where a setting is wrong, the message names that.
        let Some(found) = images(case, &spec, if maximum == Some(0) { "maximum" } else { "digits.csv" }) else {
            return;
        };
        let text = String::from_utf8_lossy(data);
        let lines = text.trim_start_matches('\u{feff}').lines().filter(|line| !line.trim().is_empty());
        for (i, line) in lines.enumerate() {
            let label = line.rsplit(',').next().and_then(|label| label.trim().parse().ok());
            assert_eq!(Some(found.sample(i).1), label, "{line:?}");
        }
    });
});
