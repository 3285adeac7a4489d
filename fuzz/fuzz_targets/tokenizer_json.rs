//! A `tokenizer.json`. What is accepted encodes and decodes, and is the same after being written and read back.
//!
//! Sources: fuzz/fuzz_targets/tokenizers.rs src/data/tokenizer/mod.rs src/data/tokenizer/untrusted.rs src/data/tokenizer/encoder.rs src/data/tokenizer/vocabulary.rs src/data/tokenizer/added_tokens.rs src/data/tokenizer/vocab_files.rs
#![no_main]

use harness::{Memory, run};

#[path = "tokenizers.rs"]
mod tokenizers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 96, per_byte: 4096 }, |case| {
        case.file("tokenizer.json", data);
        tokenizers::used(case, "tokenizer.json");
    });
});
