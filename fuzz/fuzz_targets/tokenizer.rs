//! Tokenizers in every published format: `tokenizer.json`, the older vocabulary files, and the settings beside them. The
//! parts of the input, separated by lines `%%`, are files; the first line of each is its name. An accepted tokenizer
//! encodes and decodes, and is unchanged after being written and read back.
//!
//! Sources: src/data/tokenizer
#![no_main]

use harness::{Case, Memory, run, same, texts};
use vcycle::data::tokenizer::Tokenizer;

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

const TEXT: &str =
    "Some words, and 12 more.\n\nA line  with spaces\tand ünïcödé 日本 🦊\r\n<a>[MASK]<|endoftext|> the end";

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
                    // Of the two files of a BPE tokenizer, the first one decides.
                    i != 1 && i != 3 && case.dir.join(name).exists()
                })
        );
        case.accepted(Tokenizer::of_unknown_case(&case.dir), "case");
        let made = case.accepted(Tokenizer::file_of(&case.dir), "case");
        for lower in ["uncased", "cased"] {
            case.accepted(Tokenizer::from_spec(&format!("{lower}:{}", case.dir.display()), ""), "");
        }
        let loaded = used(case);
        // The file that a checkpoint would contain holds the same tokenizer.
        if let (Some(made), Some(loaded)) = (made, loaded) {
            let made = Tokenizer::load(&case.file("made/tokenizer.json", &made)).expect("a tokenizer that was made");
            assert_eq!(made.sum(), loaded.sum());
        }
    });
});

/// Uses a tokenizer as the program does.
fn used(case: &Case) -> Option<Tokenizer> {
    let tokenizer = case.accepted(Tokenizer::load(&case.dir), "case")?;
    let size = tokenizer.vocab_size();
    same("kinds", &tokenizer.kinds().len(), &size);
    case.accepted(tokenizer.special_tokens(), "").inspect(|special| {
        assert!([special.pad, special.cls, special.sep, special.mask].iter().all(|&id| (id as usize) < size));
    });
    let ids = case.accepted(tokenizer.encode(TEXT), "");
    if let Some(ids) = &ids {
        assert!(ids.iter().all(|&id| (id as usize) < size), "{ids:?} of {size}");
        same("encoded again", &tokenizer.encode(TEXT).ok().as_ref(), &Some(ids));
        let decoded = case.accepted(tokenizer.decode(ids), "");
        assert!(decoded.is_none_or(|text| text.len() <= 300 * TEXT.len().max(ids.len())), "decoding has bounds");
    }
    case.accepted(tokenizer.encode(""), "");
    case.accepted(tokenizer.decode(&(0..size.min(100) as u32).collect::<Vec<_>>()), "");
    let saved = case.dir.join("saved.json");
    tokenizer.save(&saved).expect("a tokenizer that was read");
    let again = Tokenizer::load(&saved).unwrap_or_else(|e| panic!("what was saved is refused: {e}"));
    same("the vocabulary", &again.sum(), &tokenizer.sum());
    same("the tokens", &case.accepted(again.encode(TEXT), ""), &ids);
    if let Some(special) = case.accepted(again.with_special_tokens(), "") {
        special.special_tokens().expect("it has them now");
    }
    Some(tokenizer)
}
