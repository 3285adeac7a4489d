//! Tokens that were added to a vocabulary. The expected ids are those of `GPT2Tokenizer`, `BertTokenizer` and their
//! fast versions in transformers 4.57.6.

use vcycle::data::tokenizer::Tokenizer;

use super::*;

/// The 8 tokens of `chat.txt`: `<|user|>`, `jetty`, ` ember`, ` lagoon`, `<|assistant|>`, `fjord`, ` marsh`,
/// `<|endoftext|>`.
const CHAT: [u32; 8] = [320, 280, 271, 287, 321, 269, 310, 0];

#[test]
fn added_tokens_of_bpe_work_in_every_command() {
    let dir = place("added-tokens");
    let at = dir.path();
    let chat = fs::read_to_string(at.join("chat.txt")).unwrap();
    assert_eq!(Tokenizer::load(&at.join("gpt2")).unwrap().encode(&chat).unwrap(), CHAT);
    // Of 8 tokens, all but the first are scored.
    assert_eq!(printed(&ok(at, "eval gpt2 --data chat.txt").0, "tokens scored:"), 7.0);
    ok(at, "coalesce gpt2 --layers 1 --out small");
    assert_eq!(Tokenizer::load(&at.join("small")).unwrap().encode(&chat).unwrap(), CHAT);
    let lines: String = (0..4).map(|_| format!("{{\"text\": {chat:?}}}\n")).collect();
    write(at, "chats.jsonl", lines);
    ok(at, "data prepare chats.jsonl --tokenizer gpt2 --held-out-every 2 --out tokens");
    let (shown, _) = ok(at, "data show tokens/train-00000.bin");
    assert!(shown.contains("320 280 271 287 321 269 310 0"), "{shown}");
    write(
        at,
        "run.toml",
        "[model]\nfamily = \"gpt\"\nfrom = \"gpt2\"\ncontext = 4\n[data]\nprepared = \"tokens\"\n[train]\nbatch = 1\neval_every = \
         1\n[[levels]]\ntrain = { steps = 1, lr = 1e-3 }\n",
    );
    ok(at, "train run.toml --out run");
    assert_eq!(Tokenizer::load(&at.join("run/vcycle/model")).unwrap().encode(&chat).unwrap(), CHAT);
    let (text, _) = ok(at, "generate run/vcycle/model --prompt <|user|> --tokens 2");
    assert!(text.starts_with("<|user|>"), "{text}");
}

/// The same tokens in each of the files that may define them.
#[test]
fn added_tokens_are_read_from_any_of_their_files() {
    let chat = "<|user|>jetty ember lagoon<|assistant|>fjord marsh<|endoftext|>";
    let token = |text: &str| format!(r#"{{"content": "{text}", "special": true, "normalized": false}}"#);
    let decoder = format!(
        r#"{{"added_tokens_decoder": {{"320": {}, "321": {}, "322": {}}}}}"#,
        token("<|user|>"),
        token("<|assistant|>"),
        token("<|pad|>")
    );
    for (removed, added) in [
        (&["special_tokens_map.json"][..], None),
        (&["added_tokens.json", "special_tokens_map.json"], Some(("tokenizer_config.json", decoder.clone()))),
        (&[], Some(("tokenizer_config.json", format!("\u{feff}{decoder}")))),
    ] {
        let dir = place("added-tokens");
        let model = dir.path().join("gpt2");
        removed.iter().for_each(|name| fs::remove_file(model.join(name)).unwrap());
        if let Some((name, text)) = added {
            fs::write(model.join(name), text).unwrap();
        }
        assert_eq!(Tokenizer::load(&model).unwrap().encode(chat).unwrap(), CHAT, "without {removed:?}");
    }
    // OpenAI's original names of the two files, and a tokenizer.json that was saved before the tokens were added.
    let dir = place("added-tokens");
    let model = dir.path().join("gpt2");
    fs::rename(model.join("vocab.json"), model.join("encoder.json")).unwrap();
    fs::rename(model.join("merges.txt"), model.join("vocab.bpe")).unwrap();
    for path in [model.clone(), model.join("encoder.json"), model.join("vocab.bpe")] {
        assert_eq!(Tokenizer::load(&path).unwrap().encode(chat).unwrap(), CHAT, "{}", path.display());
    }
    let before = dir.path().join("before");
    fs::create_dir(&before).unwrap();
    for name in ["encoder.json", "vocab.bpe"] {
        fs::copy(model.join(name), before.join(name)).unwrap();
    }
    Tokenizer::load(&before).unwrap().save(&model.join("tokenizer.json")).unwrap();
    assert_eq!(Tokenizer::load(&model).unwrap().encode(chat).unwrap(), CHAT);
}

#[test]
fn added_tokens_of_wordpiece_are_read() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nfox\njump\n##ed\n");
    let settings = r#"{"do_lower_case": true, "added_tokens_decoder": {
        "4": {"content": "[MASK]", "special": true, "normalized": false},
        "9": {"content": "<e1>", "special": true, "normalized": false},
        "10": {"content": "covid", "special": false, "normalized": true}}}"#;
    write(dir.path(), "tokenizer_config.json", settings);
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 11);
    assert_eq!(tokenizer.encode("The <e1> fox COVID jumped covid [MASK]").unwrap(), [5, 9, 6, 10, 7, 8, 10, 4]);
}

#[test]
fn contradictory_added_tokens_are_refused() {
    let dir = place("added-tokens");
    let model = dir.path().join("gpt2");
    let path = model.join("added_tokens.json");
    for (ids, parts) in [
        (r#"{"<|user|>": 320, "<b>": 320}"#, &["added_tokens.json", "320", "both have id"][..]),
        (r#"{"b": "x"}"#, &["added_tokens.json", "set it to a whole number"]),
        ("[]", &["added_tokens.json", "not a JSON object"]),
    ] {
        fs::write(&path, ids).unwrap();
        let error = Tokenizer::load(&model).err().expect("an error").to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{ids}: {error}");
    }
}
