//! Prepared data. The first byte selects the input: a `data.json` in either format with valid files beside it, or an
//! image shard.
//!
//! Sources: src/data/images src/data/mapped.rs src/data/prepared/folder.rs src/data/prepared/cache.rs src/data/prepared/corpus.rs src/data/tokens/mod.rs
#![no_main]

use harness::{Case, Memory, choice, once, run, walk};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use vcycle::data::images::Images;
use vcycle::data::images::shard::ImageWriter;
use vcycle::data::prepared::cache::{DataSpec, open_shard, prepare};
use vcycle::data::prepared::corpus::{Corpus, DataSource};
use vcycle::data::prepared::folder::{FolderSpec, open_folder, prepare_folder, verify};
use vcycle::data::prepared::manifest::Manifest;
use vcycle::data::text::{FLAGS, HeldOut, Marks, TextSource};

/// A folder of `vcycle data prepare`, and one of the cache.
fn sound() -> &'static [PathBuf; 2] {
    static SOUND: OnceLock<[PathBuf; 2]> = OnceLock::new();
    SOUND.get_or_init(|| {
        let dir = once("sound", |_| {});
        let text = dir.join("text.txt");
        fs::write(&text, (0..20).map(|i| format!("= {i}\nline\n")).collect::<String>()).expect("a file in memory");
        let marks = Marks::Prefix("= ".into());
        let source = TextSource { inputs: vec![text.clone()], marks, field: "text".into(), every: 4, keys: &FLAGS };
        let spec = FolderSpec { source, tokenizer: "byte".into(), shard_tokens: 60 };
        prepare_folder(&spec, &dir.join("folder"), &mut |_| {}).expect("prepared");
        let held_out = HeldOut { prefix: None, every: 4 };
        let spec = DataSpec { text, tokenizer: "byte".into(), held_out, field: "text".into() };
        let data = prepare(&spec, &dir.join("cache"), &mut |_| {}).expect("prepared");
        [dir.join("folder"), data.dir]
    })
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = choice(data) else { return };
    // Made outside of the case, whose memory is counted.
    let sound = sound();
    run(data, Memory { mib: 16, per_byte: 1024 }, |case| match which % 3 {
        2 => images(case, data),
        which => texts(case, &sound[usize::from(which)], data),
    });
});

/// Reads `data.json` with valid files beside it.
fn texts(case: &Case, sound: &Path, data: &[u8]) {
    copy(sound, &case.dir);
    case.file("data.json", data);
    for name in ["train.bin", "train-00000.bin", "valid-00000.bin"] {
        if case.dir.join(name).exists() {
            case.accepted(open_shard(&case.dir.join(name), None), "case");
        }
    }
    let source = DataSource::Prepared(case.dir.clone());
    case.accepted(Corpus::open(&source, &case.dir.join("cache"), &mut |_| {}), "case").inspect(|c| {
        assert!(!c.train.is_empty() && !c.valid.is_empty());
    });
    let Some(Some(facts)) = case.accepted(Manifest::read(&case.dir).map(Manifest::folder), "data.json") else { return };
    let _ = [&facts.train, &facts.valid].map(|side| (side.tokens(), side.documents()));
    if let Some((sides, tokenizer)) = case.accepted(open_folder(&case.dir, &facts), "case") {
        assert!(sides.iter().all(|side| side.stated_vocabulary() == Some(tokenizer.vocab_size())));
    }
    case.accepted(verify(&case.dir, &facts), "case");
}

/// Reads an image shard and writes it again.
fn images(case: &Case, data: &[u8]) {
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
}
