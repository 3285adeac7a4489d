//! Vocabulary files of GPT-2 and BERT: the same tokens as by their own rules, also after saving as `tokenizer.json`.

use super::*;

const WORDS: &str =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nfox\njump\n##ed\n##s\n,\n!\ncafe\ncafé\nThe\n日\n##本\n本\n";

fn reloaded(tokenizer: &Tokenizer, dir: &TempDir) -> Tokenizer {
    let path = dir.path().join("saved.json");
    tokenizer.save(&path).unwrap();
    Tokenizer::load(&path).unwrap()
}

#[test]
fn word_pieces() {
    let dir = folder();
    let path = file(&dir, "vocab.txt", WORDS);
    let spec = |case: &str| Tokenizer::from_spec(&format!("{case}:{}", path.display()), "");
    let uncased = spec("uncased").unwrap();
    assert_eq!(uncased.vocab_size(), 18);
    // Lower case, no accents, punctuation and ideographs split off, longest pieces first, [UNK] for a whole word.
    let text = "The FOX jumped, jumps!\n\tCafé 日本 foxing\u{0} [MASK]";
    let ids = [5, 6, 7, 8, 10, 7, 9, 11, 12, 15, 17, 1, 4];
    assert_eq!(uncased.encode(text).unwrap(), ids);
    assert_eq!(reloaded(&uncased, &dir).encode(text).unwrap(), ids);
    let cased = spec("cased").unwrap();
    assert_eq!(cased.encode("The the FOX Café").unwrap(), [14, 5, 1, 1]);
    assert_eq!(cased.encode("café").unwrap(), [13]);
    assert_eq!(cased.encode(&"the".repeat(40)).unwrap(), [1]);

    // The settings of a model folder say whether it is cased. Without them, it is not guessed.
    error_with(Tokenizer::load(&path), &["vocab.txt", "uncased:", "cased:", "do_lower_case"]);
    for (lower, ids) in [(true, [5, 5]), (false, [14, 5])] {
        file(&dir, "tokenizer_config.json", format!(r#"{{"do_lower_case": {lower}}}"#));
        assert_eq!(Tokenizer::load(&path).unwrap().encode("The the").unwrap(), ids);
        assert_eq!(Tokenizer::load(dir.path()).unwrap().encode("The the").unwrap(), ids);
    }
    // An explicit request takes precedence.
    assert_eq!(spec("uncased").unwrap().encode("The").unwrap(), [5]);
    let settings = r#"{"do_lower_case": true, "strip_accents": false, "tokenize_chinese_chars": false,
        "unk_token": {"content": "!"}}"#;
    file(&dir, "tokenizer_config.json", settings);
    assert_eq!(Tokenizer::load(&path).unwrap().encode("Café 日本 new").unwrap(), [13, 15, 16, 11]);
}

#[test]
fn word_pieces_frame_a_text_for_others() {
    let dir = folder();
    let path = file(&dir, "vocab.txt", WORDS);
    let saved = dir.path().join("tokenizer.json");
    Tokenizer::from_spec(&format!("uncased:{}", path.display()), "").unwrap().save(&saved).unwrap();
    let library = tokenizers::Tokenizer::from_file(&saved).unwrap();
    let pair = library.encode(("the fox", "jumps"), true).unwrap();
    assert_eq!(pair.get_ids(), [2, 5, 6, 3, 7, 9, 3]);
    assert_eq!(pair.get_type_ids(), [0, 0, 0, 0, 1, 1, 1]);
    assert_eq!(library.decode(pair.get_ids(), true).unwrap(), "the fox jumps");
}

#[test]
fn byte_pairs() {
    let dir = folder();
    // Bytes, then the results of the merges, then the end-of-text token.
    let byte = Tokenizer::from_spec("byte", "").unwrap();
    let saved = dir.path().join("byte.json");
    byte.save(&saved).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&saved).unwrap()).unwrap();
    let mut vocab = json["model"]["vocab"].clone();
    for (i, token) in ["th", "the", "Ġthe", "<|endoftext|>"].iter().enumerate() {
        vocab[token] = (256 + i).into();
    }
    let path = file(&dir, "vocab.json", vocab.to_string());
    file(&dir, "merges.txt", "#version: 0.2\nt h\nth e\nĠ the\n");
    let folder = dir.path().join("alone");
    fs::create_dir(&folder).unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(dir.path().join(name), folder.join(name)).unwrap();
    }
    for from in [&path, &dir.path().join("merges.txt"), &folder] {
        let tokenizer = Tokenizer::load(from).unwrap();
        let ids = tokenizer.encode("the the<|endoftext|>then é").unwrap();
        assert_eq!(ids, [257, 258, 259, 257, 110, 32, 0xc3, 0xa9], "{}", from.display());
        assert_eq!(tokenizer.decode(&ids).unwrap(), "the the<|endoftext|>then é");
        assert_eq!(reloaded(&tokenizer, &dir).encode("the the<|endoftext|>then é").unwrap(), ids);
    }
    file(&dir, "tokenizer_config.json", r#"{"add_prefix_space": true}"#);
    assert_eq!(Tokenizer::load(&path).unwrap().encode("the the").unwrap(), [258, 258]);
}

#[test]
fn vocabularies_that_are_none() {
    let dir = folder();
    error_with(Tokenizer::load(dir.path()), &["cannot read", "tokenizer.json", "vocab.txt"]);
    let path = file(&dir, "vocab.txt", "the\nfox\n");
    error_with(
        Tokenizer::from_spec(&format!("cased:{}", path.display()), ""),
        &["vocab.txt", "[UNK]", "[CLS]", "[SEP]"],
    );
    file(&dir, "vocab.txt", b"\xff\n");
    error_with(Tokenizer::from_spec(&format!("cased:{}", path.display()), ""), &["vocab.txt", "UTF-8"]);
    for settings in ["[", "3", r#"{"do_lower_case": "yes"}"#, r#"{"do_lower_case": true, "unk_token": 3}"#] {
        file(&dir, "vocab.txt", WORDS);
        file(&dir, "tokenizer_config.json", settings);
        error_with(Tokenizer::load(&path), &["tokenizer_config.json", "; "]);
    }
    let path = file(&dir, "vocab.json", r#"{"a": 0, "b": 1}"#);
    error_with(Tokenizer::load(&path), &["cannot read", "merges.txt"]);
    file(&dir, "tokenizer_config.json", "{}");
    for (merges, parts) in [("a", ["merges.txt", "line 1"]), ("a b\n\na  b\n", ["merges.txt", "line 3"])] {
        file(&dir, "merges.txt", merges);
        error_with(Tokenizer::load(&path), &parts);
    }
    file(&dir, "merges.txt", "a b\n");
    error_with(Tokenizer::load(&path), &["vocab.json", "; "]);
    for vocab in ["[]", r#"{"a": -1}"#, r#"{"a": "x"}"#, "{}", r#"{"a": 4294967296}"#] {
        file(&dir, "merges.txt", "");
        file(&dir, "vocab.json", vocab);
        error_with(Tokenizer::load(&path), &["vocab.json", "; "]);
    }
    error_with(Tokenizer::from_spec(&format!("uncased:{}", path.display()), ""), &["vocab.txt", "uncased"]);
}
