//! A folder with one image, JPEG or PNG whatever its name says. The first byte selects name, size and filter.
//!
//! Sources: src/data/images src/data/mapped.rs
#![no_main]

use harness::{Memory, choice, images, run};
use vcycle::data::images::formats::{Filter, Folder};
use vcycle::data::images::{ImageFiles, ImageSpec};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = choice(data) else { return };
    // Small files may contain large images (`LARGEST_RATIO` in src/data/images/folder.rs), and decoders keep several
    // copies of them.
    run(data, Memory { mib: 256, per_byte: 200_000 }, |case| {
        let name = ["a/1.png", "a/1.jpg", "a/1.jpeg"][usize::from(which) % 3];
        case.file(name, data);
        for skip_broken in [false, true] {
            let files = ImageFiles::Folder(Folder {
                folder: case.dir.clone(),
                size: [1, 8, 24, 57][usize::from(which / 3) % 4],
                filter: if which & 128 == 0 { Filter::Bilinear } else { Filter::Bicubic },
                skip_broken,
            });
            let spec = ImageSpec::new(files);
            // If every file is skipped, the message names the folder.
            let name = if skip_broken { "case" } else { name };
            if let Some(found) = images(case, &spec, name) {
                assert_eq!(found.len(), 1);
                break;
            }
        }
    });
});
