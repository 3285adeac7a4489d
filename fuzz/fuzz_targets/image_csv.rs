//! Small grey images in CSV. The first byte selects the value of white and the position of the label.
//!
//! Sources: src/data/images src/data/text/reader.rs src/data/text/encodings.rs src/data/mapped.rs
#![no_main]

use harness::{Memory, ZSTANDARD, choice, images, run};
use vcycle::data::images::formats::Csv;
use vcycle::data::images::{ImageFiles, ImageSpec, LabelColumn};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = choice(data) else { return };
    run(data, Memory { mib: 16, per_byte: 256 }, |case| {
        let maximum = [None, Some(0), Some(1), Some(16), Some(255)][usize::from(which) % 5];
        let label = [LabelColumn::Last, LabelColumn::First][usize::from(which) / 5 % 2];
        let spec = ImageSpec::new(ImageFiles::Csv(Csv { file: case.file("digits.csv", data), maximum, label }));
        // If a setting is invalid, the message names the setting instead of the file.
        let Some(found) = images(case, &spec, if maximum == Some(0) { "maximum" } else { "digits.csv" }) else {
            return;
        };
        // The lines of a compressed file are not those of `data`.
        if data.starts_with(b"\x1f\x8b") || data.starts_with(&ZSTANDARD) {
            return;
        }
        let text = String::from_utf8_lossy(data);
        let lines: Vec<&str> =
            text.trim_start_matches('\u{feff}').lines().filter(|line| !line.trim().is_empty()).collect();
        // The first line may be a header.
        let header = lines.len() - found.len();
        assert!(header <= 1, "{} lines and {} images", lines.len(), found.len());
        for (i, line) in lines[header..].iter().enumerate() {
            let mut fields = line.split(',');
            let field = if label == LabelColumn::First { fields.next() } else { fields.next_back() };
            let number = field.and_then(|field| field.trim().trim_matches('"').trim().parse::<f64>().ok());
            assert_eq!(Some(f64::from(found.sample(i).1)), number, "{line:?}");
        }
    });
});
