//! The tokenizer forms that preceded `tokenizer.json`, and the files beside a vocabulary. The parts of the input,
//! separated by lines `%%`, are files; the first line of each is its name.
//!
//! Sources: fuzz/fuzz_targets/tokenizers.rs src/data/tokenizer/mod.rs src/data/tokenizer/vocab_files.rs src/data/tokenizer/added_tokens.rs src/data/tokenizer/vocabulary.rs src/data/tokenizer/untrusted.rs src/data/tokenizer/encoder.rs
#![no_main]

use harness::{Memory, run, texts};
use vcycle::data::tokenizer::Tokenizer;

#[path = "tokenizers.rs"]
mod tokenizers;

const NAMES: [&str; 9] = [
    "vocab.json",
    "merges.txt",
    "encoder.json",
    "vocab.bpe",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 96, per_byte: 4096 }, |case| {
        for part in texts(data) {
            let end = part.iter().position(|&byte| byte == b'\n').unwrap_or(part.len());
            let name = NAMES.iter().find(|name| name.as_bytes() == &part[..end]);
            name.map(|name| case.file(name, part.get(end + 1..).unwrap_or_default()));
        }
        assert!(
            Tokenizer::is_in(&case.dir)
                == NAMES[..6].iter().enumerate().any(|(i, name)| {
                    // merges.txt and vocab.bpe alone are not a tokenizer.
                    i != 1 && i != 3 && case.dir.join(name).exists()
                })
        );
        case.accepted(Tokenizer::of_unknown_case(&case.dir), "case");
        let made = case.accepted(Tokenizer::file_of(&case.dir), "case");
        for lower in ["uncased", "cased"] {
            case.accepted(Tokenizer::from_spec(&format!("{lower}:{}", case.dir.display()), ""), "");
        }
        let loaded = tokenizers::used(case, "");
        // The tokenizer that would be written to a checkpoint is the same.
        if let (Some(made), Some(loaded)) = (made, loaded) {
            let made =
                Tokenizer::load(&case.file("made/tokenizer.json", &made)).expect("the converted tokenizer is valid");
            assert_eq!(made.sum(), loaded.sum());
        }
    });
});
