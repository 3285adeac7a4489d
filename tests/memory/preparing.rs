//! Promise: the memory that preparing a text takes does not grow with the size of the text.

use super::allocator::peak;
use std::io::Write;
use std::path::Path;
use vcycle::data::prepared::folder::{FolderSpec, prepare_folder};
use vcycle::data::text::documents::{Division, Documents, text_bytes};
use vcycle::data::text::{FLAGS, Marks, TextSource};

/// Writes a gzip file with a text of `mebibytes` MiB, one document at a time.
fn write(path: &Path, mebibytes: usize) {
    let file = std::fs::File::create(path).expect("a file");
    let mut out = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    let line = "Fellow citizens, the state of the union is strong, and so on, and so on and on.\n";
    let document = format!("== a document\n{}", line.repeat(800));
    let size = document.len();
    (0..(mebibytes << 20).div_ceil(size)).for_each(|_| out.write_all(document.as_bytes()).expect("written"));
    out.finish().expect("written");
}

pub fn memory_does_not_grow_with_the_text() {
    let dir = tempfile::tempdir().expect("a folder");
    let big = dir.path().join("big.txt.gz");
    write(&big, 64);
    for marked in [true, false] {
        let peak = peak(|| {
            let inputs = [big.clone()];
            let division = match marked {
                true => Division::Prefix("== ".to_owned()),
                false => Division::Pieces { total: text_bytes(&inputs).expect("a text"), words: false },
            };
            let mut documents = Documents::new(&inputs, division, "");
            let mut bytes = 0;
            while let Some(part) = documents.next_part().expect("a text") {
                bytes += part.text.len();
            }
            assert!(bytes > 64 << 20 && documents.count() >= 99, "{bytes} bytes, {} documents", documents.count());
        });
        assert!(peak < 4 << 20, "reading took {peak} bytes");
    }

    // The encoder's records are many times larger than the text they belong to, but it only holds those of one batch.
    let prepare = |mebibytes: usize| {
        let text = dir.path().join(format!("{mebibytes}.txt.gz"));
        write(&text, mebibytes);
        let marks = Marks::Prefix("== ".to_owned());
        let source = TextSource { inputs: vec![text], marks, field: String::new(), every: 10, keys: &FLAGS };
        let spec = FolderSpec { source, tokenizer: "bpe:300".to_owned(), shard_tokens: 1_000_000 };
        peak(|| {
            prepare_folder(&spec, &dir.path().join(format!("{mebibytes}")), &mut |_| ()).expect("prepared");
        })
    };
    let (small, large) = (prepare(3), prepare(9));
    assert!(large < small + (3 << 20), "3 MiB took {small} bytes, 9 MiB {large}");
}
