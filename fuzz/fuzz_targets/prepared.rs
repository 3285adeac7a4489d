//! The `data.json` of prepared data, in both formats, with valid files beside it. The first byte selects the format.
//!
//! Sources: src/data/prepared/folder.rs src/data/prepared/cache.rs src/data/prepared/corpus.rs src/data/tokens/mod.rs
#![no_main]

use harness::{Memory, choice, once, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use vcycle::data::prepared::cache::{DataSpec, open_shard, prepare};
use vcycle::data::prepared::corpus::{Corpus, DataSource};
use vcycle::data::prepared::folder::{FolderSpec, open_folder, prepare_folder, read_manifest, verify};
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
    let sound = &sound()[usize::from(which) % 2];
    run(data, Memory { mib: 16, per_byte: 1024 }, |case| {
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
        let Some(Some(facts)) = case.accepted(read_manifest(&case.dir), "data.json") else { return };
        let _ = [&facts.train, &facts.valid].map(|side| (side.tokens(), side.documents()));
        if let Some((sides, tokenizer)) = case.accepted(open_folder(&case.dir, &facts), "case") {
            assert!(sides.iter().all(|side| side.stated_vocabulary() == Some(tokenizer.vocab_size())));
        }
        case.accepted(verify(&case.dir, &facts), "case");
    });
});
