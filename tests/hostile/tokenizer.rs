//! `tokenizer.json`.
//!
//! Not detected: damage that leaves a valid tokenizer with other tokens, which a model then takes for its own. Prepared
//! folders store a checksum of the tokenizer; model folders have none, in any library.

use crate::judge::{folder, judge, write};
use crate::mutate::{self, Case};
use serde_json::{Value, json};
use std::path::Path;
use vcycle::data::tokenizer::Tokenizer;
use vcycle::error::{At, Result};

const TEXT: &str = "Some words, and 12 more.\n\nA line  with spaces\tand ünïcödé 日本 🦊\n";

/// Loads a tokenizer, encodes and decodes, as commands do. Returns the vocabulary size and the ids of the text.
fn used(path: &Path) -> Result<(usize, Vec<u32>)> {
    let tokenizer = Tokenizer::load(path)?;
    let text = TEXT.repeat(20);
    let ids = tokenizer.encode(&text).at(path.display())?;
    // Some tokenizers can encode but not decode, which is an error like any other.
    let decoded = tokenizer.decode(&ids).at(path.display())?;
    assert!(decoded.len() <= 300 * text.len(), "decoding should have a size limit");
    Ok((tokenizer.vocab_size(), ids))
}

fn check(path: &Path, name: &str) -> bool {
    let at = path.to_path_buf();
    match judge("tokenizer.json", name, move || used(&at)) {
        Ok((size, ids)) => {
            assert!(ids.iter().all(|&id| (id as usize) < size), "{name}");
            assert!(size <= 200_000, "{name}: an embedding would have {size} rows");
            true
        }
        Err(_) => false,
    }
}

fn saved(path: &Path, spec: &str) -> Value {
    let words: String = (0..500).map(|i| format!("word{} and {TEXT}", i % 17)).collect();
    Tokenizer::from_spec(spec, &words).expect("a tokenizer").save(path).expect("saved");
    serde_json::from_slice(&std::fs::read(path).expect("bytes")).expect("JSON")
}

#[test]
fn damaged_tokenizers() {
    let dir = folder();
    let path = dir.path().join("tokenizer.json");
    for (spec, seed) in [("byte", 1), ("bpe:280", 2), ("char", 3)] {
        let value = saved(&path, spec);
        assert!(check(&path, spec), "{spec} is valid");
        let valid = std::fs::read(&path).expect("bytes");
        let mut cases = mutate::bytes(&valid, &[1, 100, valid.len() / 2, valid.len()], seed, 15);
        // Most places in the JSON are tokens, so mutate the rest of the file separately.
        cases.extend(mutate::json(&value, seed, 20));
        let mut small = value.clone();
        small["model"]["vocab"] = json!({"a": 0, "b": 1});
        small["model"]["merges"] = json!([]);
        cases.extend(mutate::json(&small, seed, 60));
        for Case { name, bytes } in cases {
            write(&path, &bytes);
            check(&path, &format!("{spec}: {name}"));
        }
    }
    mutate::in_place_of(&path.clone(), |name| assert!(!check(&path, name), "{name}"));
}

/// The entry of an added token `<t>`.
pub fn added_token(id: u64) -> Value {
    json!({
        "id": id,
        "content": "<t>",
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": true
    })
}

#[test]
fn hostile_tokenizers() {
    let dir = folder();
    let path = dir.path().join("tokenizer.json");
    let byte = saved(&path, "byte");
    let with = |changes: &[(&str, Value)]| {
        let mut json = byte.clone();
        for (pointer, value) in changes {
            *json.pointer_mut(pointer).expect("a place") = value.clone();
        }
        write(&path, json.to_string().as_bytes());
    };
    let token = |id: u64| json!([added_token(id)]);
    let vocab = |id: u64| {
        let mut vocab = byte["model"]["vocab"].clone();
        vocab["<t>"] = id.into();
        vocab
    };
    for id in [1 << 20, i32::MAX as u64, 1 << 31, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        with(&[("/added_tokens", token(id)), ("/model/vocab", vocab(id))]);
        assert!(!check(&path, &format!("a token {id}")));
        with(&[("/model/vocab", vocab(id))]);
        assert!(!check(&path, &format!("a token {id} in the vocabulary")));
    }
    with(&[("/added_tokens", token(300)), ("/model/vocab", vocab(300))]);
    assert!(check(&path, "a gap"));
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let sequence = |kind: &str, part: Value, count: usize| json!({"type": "Sequence", kind: vec![part; count]});
    let doubled = replace(json!({"String": "a"}), "aa");
    let long = "x".repeat(100_000);
    for (name, normalizer) in [
        ("doubles forty times", sequence("normalizers", doubled.clone(), 40)),
        ("replaces with a long text", replace(json!({"String": "e"}), &long)),
        ("replaces the empty text with a long text", replace(json!({"Regex": ""}), &long)),
        ("prepends a long text", json!({"type": "Prepend", "prepend": long})),
        ("has a damaged table", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        ("has an empty table", json!({"type": "Precompiled", "precompiled_charsmap": ""})),
        ("unrolls", replace(json!({"Regex": "(?=(((a{500}){500}){500}))"}), "b")),
        ("is a number", json!(5)),
    ] {
        with(&[("/normalizer", normalizer)]);
        assert!(!check(&path, &format!("a normalizer that {name}")));
    }
    with(&[("/normalizer", replace(json!({"String": " "}), "\u{2581}"))]);
    assert!(check(&path, "SentencePiece's replacement"));
    for (name, decoder) in [
        ("doubles forty times", sequence("decoders", doubled, 40)),
        ("replaces with a long text", replace(json!({"Regex": "."}), &long)),
        ("is a number", json!(5)),
        ("is unknown", json!({"type": "Nothing"})),
    ] {
        with(&[("/decoder", decoder)]);
        assert!(!check(&path, &format!("a decoder that {name}")));
    }
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    for pattern in [
        r"(a+)+\1$",
        r"(?=(x+x+)+y)",
        r"(\w+\s?)+(?!.)$",
        r"((((((.*)*)*)*)*)*)\1",
        "(",
        r"\p{Nothing}",
        "a{4000000000}",
        "(?:a{9999}){9999}",
    ] {
        with(&[("/pre_tokenizer", split(pattern))]);
        check(&path, &format!("the pattern {pattern}"));
    }
    for (kind, fields) in [
        ("WordLevel", json!({"vocab": {"a": 0}, "unk_token": "nowhere"})),
        (
            "WordPiece",
            json!({
                "vocab": {"a": 0},
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": u64::MAX
            }),
        ),
        ("Unigram", json!({"vocab": [["a", 0.0]], "unk_id": 5})),
        ("Unigram", json!({"vocab": [["a", -1e308], ["b", 1e308]], "unk_id": 0})),
        ("Unigram", json!({"vocab": [], "unk_id": null})),
        ("Unigram", json!({"vocab": [["", 0.0]], "unk_id": 0, "byte_fallback": true})),
        ("BPE", json!({"vocab": {"a": 0, "b": 1}, "merges": ["a b"]})),
        ("BPE", json!({"vocab": {"a": 0, "b": 0}, "merges": []})),
        ("BPE", json!({"vocab": {}, "merges": []})),
        ("BPE", json!({"vocab": {"a": 0, "aa": 1}, "merges": [["a", "a"]], "unk_token": "u", "dropout": 2.0})),
        ("Nothing", json!({})),
    ] {
        let mut model = fields.clone();
        model["type"] = kind.into();
        with(&[("/model", model)]);
        check(&path, &format!("a model {kind} {fields}"));
    }
    with(&[
        ("/truncation", json!({"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0})),
        (
            "/padding",
            json!({
                "strategy": {"Fixed": 1u64 << 40},
                "direction": "Left",
                "pad_to_multiple_of": null,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "a"
            }),
        ),
    ]);
    let at = path.clone();
    let (_, ids) = judge("tokenizer.json", "truncation and padding", move || used(&at)).expect("both are switched off");
    assert_eq!(ids.len(), 20 * TEXT.len());
}

/// Found by fuzzing: of two tokens with the same id, saving the tokenizer loses one. The tokenizers library numbers
/// added tokens from the number of tokens on, so that it may assign an id that is already used.
#[test]
fn tokens_that_share_an_id() {
    let dir = folder();
    let path = dir.path().join("tokenizer.json");
    let with = |vocab: Value, added: Value| {
        let model = json!({"type": "WordLevel", "vocab": vocab, "unk_token": "a"});
        write(&path, json!({"version": "1.0", "added_tokens": added, "model": model}).to_string().as_bytes());
        let at = path.clone();
        judge("tokenizer.json", "shared ids", move || Tokenizer::load(&at).map(|t| (t.vocab_size(), t.sum())))
    };
    let (size, sum) = with(json!({"a": 0, "b": 1}), json!([added_token(2)])).expect("three tokens");
    assert_eq!(size, 3);
    Tokenizer::load(&path).expect("as before").save(&path).expect("saved");
    assert_eq!(Tokenizer::load(&path).expect("as it was").sum(), sum);
    for (vocab, added) in
        [(json!({"a": 0, "b": 1, "c": 1}), json!([])), (json!({"a": 0, "b": 1, "c": 3}), json!([added_token(3)]))]
    {
        let message = with(vocab, added).map(|_| ()).expect_err("two tokens of one id");
        assert!(message.contains("both have id"), "{message}");
    }
}

/// Files beside a vocabulary, which list added tokens and special tokens.
#[test]
fn damaged_files_beside_a_vocabulary() {
    let listed = |text: &str| json!({"content": text, "lstrip": true, "normalized": false, "special": true});
    // If the settings list the added tokens, added_tokens.json is ignored, as in transformers 4.57.6 and 5.24.
    let tokens = json!({"4": listed("[MASK]"), "7": listed("<a>")});
    damaged_beside(json!({"do_lower_case": true, "added_tokens_decoder": tokens}), (8, vec![7, 5, 1, 1, 1, 6]));
    damaged_beside(json!({"do_lower_case": true}), (9, vec![7, 5, 8, 6]));
}

fn damaged_beside(settings: Value, expected: (usize, Vec<u32>)) {
    let dir = folder();
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsome\nwords\n";
    write(&dir.path().join("vocab.txt"), vocab.as_bytes());
    let token = |text: &str| json!({"content": text, "lstrip": true, "normalized": false, "special": true});
    let files = [
        ("tokenizer_config.json", settings),
        ("added_tokens.json", json!({"<a>": 7, "<b>": 8})),
        (
            "special_tokens_map.json",
            json!({"mask_token": token("[MASK]"), "additional_special_tokens": ["<a>", token("<b>")]}),
        ),
    ];
    for (name, value) in &files {
        write(&dir.path().join(name), value.to_string().as_bytes());
    }
    let used = |file: &str, name: &str| {
        let at = dir.path().to_path_buf();
        judge(file, name, move || {
            let tokenizer = Tokenizer::load(&at)?;
            Ok((tokenizer.vocab_size(), tokenizer.encode("<a>some <b> words")?))
        })
    };
    assert_eq!(used("", "valid").expect("a tokenizer"), expected);
    for (seed, (file, value)) in files.iter().enumerate() {
        let path = dir.path().join(file);
        let valid = value.to_string().into_bytes();
        let mut cases = mutate::bytes(&valid, &[1, valid.len() / 2, valid.len()], seed as u64, 40);
        cases.extend(mutate::json(value, seed as u64, 80));
        for Case { name, bytes } in cases {
            write(&path, &bytes);
            // An error may name any of the files that contradict each other.
            if let Ok((size, ids)) = used("", &format!("{file}: {name}")) {
                assert!(size <= 12 && ids.iter().all(|&id| (id as usize) < size), "{file}, {name}: {size}, {ids:?}");
            }
        }
        write(&path, &valid);
    }
}
