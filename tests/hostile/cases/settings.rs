//! Files beside a tokenizer: settings that override it, added tokens, and what the program writes there. Unless stated
//! otherwise, the expected ids are those of `AutoTokenizer` in transformers 4.57.6 and 5.24, which agree.

use serde_json::json;
use vcycle::data::tokenizer::Tokenizer;

use super::*;

const TEXT: &str = "jetty ember <|user|> lagoon";
/// Its ids if `<|user|>` is not a token; its pieces are the fourth to the eleventh id.
const PLAIN: [u32; 12] = [280, 271, 221, 28, 92, 85, 83, 69, 82, 92, 30, 287];
/// Its ids if `<|user|>` is token 320.
const ADDED: [u32; 5] = [280, 271, 221, 320, 287];

/// The vocabulary of `added-tokens` without added tokens: as `vocab.json` and `merges.txt` in `old`, and as
/// `tokenizer.json` in `new`.
fn plain() -> TempDir {
    let dir = place("added-tokens");
    let at = dir.path();
    for name in ["old", "new"] {
        fs::create_dir(at.join(name)).unwrap();
    }
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(at.join("gpt2").join(name), at.join("old").join(name)).unwrap();
    }
    Tokenizer::load(&at.join("old")).unwrap().save(&at.join("new/tokenizer.json")).unwrap();
    dir
}

/// The ids of a text and the notes of the tokenizer in `folder`, with these files added for the call.
#[track_caller]
fn ids(folder: &Path, files: &[(&str, Value)], text: &str) -> (Vec<u32>, Vec<String>) {
    files.iter().for_each(|(name, content)| drop(write(folder, name, content.to_string())));
    let tokenizer = Tokenizer::load(folder).unwrap();
    files.iter().for_each(|(name, _)| fs::remove_file(folder.join(name)).unwrap());
    (tokenizer.encode(text).unwrap(), tokenizer.notes().to_vec())
}

/// Issues tokenizers 953 and transformers 11057: the tokenizer classes of GPT-2 and RoBERTa use the key in
/// `tokenizer_config.json` and ignore the setting in `tokenizer.json`.
#[test]
fn add_prefix_space_follows_the_settings() {
    let dir = plain();
    let with_space: Vec<u32> = [289].iter().chain(&PLAIN[1..]).copied().collect();
    let settings =
        |class: &str| [("tokenizer_config.json", json!({"add_prefix_space": true, "tokenizer_class": class}))];
    for folder in ["old", "new"].map(|name| dir.path().join(name)) {
        assert_eq!(ids(&folder, &[], TEXT), (PLAIN.to_vec(), vec![]));
        let (found, notes) = ids(&folder, &settings("GPT2Tokenizer"), TEXT);
        assert_eq!((found, notes.len()), (with_space.clone(), usize::from(folder.ends_with("new"))));
        assert!(
            notes.iter().all(|note| note.contains("add_prefix_space") && note.contains("transformers")),
            "{notes:?}"
        );
    }
    // For the generic class, transformers 5 uses a tokenizer.json as it is, as the tokenizers library does.
    let new = dir.path().join("new");
    assert_eq!(ids(&new, &settings("PreTrainedTokenizerFast"), TEXT), (PLAIN.to_vec(), vec![]));
    assert_eq!(ids(&new, &[("tokenizer_config.json", json!({"add_prefix_space": null}))], TEXT).0, PLAIN);
}

#[test]
fn case_and_accents_follow_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let words = "[PAD] [UNK] [CLS] [SEP] [MASK] the fox jump ##ed cafe café The . 中 文";
    write(at, "vocab.txt", words.replace(' ', "\n") + "\n");
    let text = "The café fox jumped 中文";
    let uncased = Tokenizer::from_spec(&format!("uncased:{}", at.join("vocab.txt").display()), "").unwrap();
    let cased = Tokenizer::from_spec(&format!("cased:{}", at.join("vocab.txt").display()), "").unwrap();
    fs::remove_file(at.join("vocab.txt")).unwrap();
    let (lower, upper, accents, joined) =
        ([5, 9, 6, 7, 8, 13, 14], [11, 10, 6, 7, 8, 13, 14], [5, 10, 6, 7, 8, 13, 14], [11, 10, 6, 7, 8, 1]);
    let class = "BertTokenizer";
    for (tokenizer, settings, expected, count) in [
        (&uncased, json!({}), &lower[..], 0),
        (&cased, json!({}), &upper, 0),
        (&cased, json!({"tokenizer_class": class, "do_lower_case": true}), &lower, 1),
        (&uncased, json!({"tokenizer_class": class, "do_lower_case": false}), &upper, 1),
        (&uncased, json!({"tokenizer_class": class, "do_lower_case": true, "strip_accents": false}), &accents, 1),
        (
            &uncased,
            json!({"tokenizer_class": class, "do_lower_case": false, "tokenize_chinese_chars": false}),
            &joined,
            2,
        ),
        (&uncased, json!({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": false}), &lower, 0),
    ] {
        tokenizer.save(&at.join("tokenizer.json")).unwrap();
        let (found, notes) = ids(at, &[("tokenizer_config.json", settings.clone())], text);
        assert_eq!((&found[..], notes.len()), (expected, count), "{settings}: {notes:?}");
    }
}

/// Files that were saved before the vocabulary was rebuilt, or by slow tokenizers, on which transformers 3 and 4 fail
/// with "Non-consecutive added token" (9246, 11759). Later versions renumber the tokens, and so do we, with a note.
#[test]
fn stale_ids_of_added_tokens_are_replaced() {
    let dir = plain();
    let special = |text: &str| json!({"content": text, "special": true, "normalized": false});
    let text = format!("<c> {TEXT} <b>");
    // The ids of `text` if its three added tokens have these ids, as transformers 4.57.6 and 5.24 number them.
    let whole = |tokens: [u32; 3]| [&[tokens[0], 289, 271, 221, tokens[1], 287, 221, tokens[2]][..]].concat();
    for folder in ["old", "new"].map(|name| dir.path().join(name)) {
        let config = |tokens: Value| {
            ("tokenizer_config.json", json!({"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": tokens}))
        };
        for (files, expected, parts) in [
            (vec![("added_tokens.json", json!({"<|user|>": 320}))], &ADDED[..], &[][..]),
            (vec![("added_tokens.json", json!({"<|user|>": 400}))], &ADDED, &["<|user|>", "400", "320"]),
            (vec![("added_tokens.json", json!({"<|user|>": 5}))], &ADDED, &["<|user|>", "id 5", "320"]),
            (
                vec![config(json!({"400": special("<|user|>")}))],
                &ADDED,
                &["<|user|>", "400", "320", "tokenizer_config.json"],
            ),
            (
                vec![config(json!({"320": special("<|user|>")})), ("added_tokens.json", json!({"<|user|>": 500}))],
                &ADDED,
                &["added_tokens.json: ignored", "<|user|>", "tokenizer_config.json"],
            ),
        ] {
            let (found, notes) = ids(&folder, &files, TEXT);
            assert_eq!(found, expected, "{files:?}");
            assert!(notes.len() == usize::from(!parts.is_empty()), "{files:?}: {notes:?}");
            assert!(notes.iter().all(|note| parts.iter().all(|part| note.contains(part))), "{files:?}: {notes:?}");
        }
        // They are numbered in the order of their stale ids.
        let files = [("added_tokens.json", json!({"<|user|>": 330, "<b>": 321, "<c>": 325}))];
        assert_eq!(ids(&folder, &files, &text).0, whole([321, 322, 320]));
        // A token that only the ignored file lists is not a token.
        let files =
            [config(json!({"320": special("<|user|>")})), ("added_tokens.json", json!({"<|user|>": 320, "<b>": 321}))];
        let (found, notes) = ids(&folder, &files, &text);
        assert_eq!(found, [&[28, 67, 30, 289, 271, 221, 320, 287, 221, 28, 66, 30][..]].concat(), "{notes:?}");
        // A word of the vocabulary keeps its id and is matched first.
        let files = [("added_tokens.json", json!({"jetty": 999, "<b>": 1000}))];
        let expected = [&[28, 67, 30, 221, 280, 271, 221][..], &PLAIN[3..], &[221, 320]].concat();
        let (found, notes) = ids(&folder, &files, &text);
        assert_eq!((found, notes.len()), (expected, 1), "{notes:?}");
        assert!(notes[0].contains("jetty") && notes[0].contains("1 more"), "{notes:?}");
    }
    // Commands print the note.
    fs::copy(dir.path().join("gpt2/config.json"), dir.path().join("new/config.json")).unwrap();
    fs::copy(dir.path().join("gpt2/model.safetensors"), dir.path().join("new/model.safetensors")).unwrap();
    write(dir.path(), "new/added_tokens.json", r#"{"<|user|>": 400}"#);
    let (_, notes) = ok(dir.path(), "eval new --data chat.txt");
    assert!(notes.contains("note: ") && notes.contains("gets 320"), "{notes}");
    assert!(ok(dir.path(), "coalesce new --layers 1 --out small").1.contains("gets 320"));
}

/// The vocabularies of CLIP, the first GPT and Japanese BERTs (transformers 12381) have the same file names, but split
/// text by other rules: the tokens would be silently wrong (see transformers 45812 and 45920).
#[test]
fn vocabularies_with_other_rules_are_refused() {
    let dir = plain();
    let old = dir.path().join("old");
    let set = |name: &str, class: &str| drop(write(&old, name, json!({"tokenizer_class": class}).to_string()));
    for class in ["GPT2TokenizerFast", "RobertaTokenizer", "BartTokenizer", "PreTrainedTokenizerFast"] {
        set("tokenizer_config.json", class);
        assert_eq!(Tokenizer::load(&old).unwrap().encode(TEXT).unwrap(), PLAIN, "{class}");
    }
    for class in ["CLIPTokenizer", "OpenAIGPTTokenizer", "CTRLTokenizer", "BertTokenizer", "MyTokenizer"] {
        set("tokenizer_config.json", class);
        let error = Tokenizer::load(&old).err().expect("an error").to_string();
        assert!([class, "vocab.json", "tokenizer.json"].iter().all(|part| error.contains(part)), "{error}");
    }
    // Older folders name the class in config.json, if at all. tokenizer_config.json takes precedence.
    fs::remove_file(old.join("tokenizer_config.json")).unwrap();
    set("config.json", "CLIPTokenizer");
    assert!(Tokenizer::load(&old).is_err());
    set("tokenizer_config.json", "GPT2Tokenizer");
    assert!(Tokenizer::load(&old).is_ok());
    let words = tempfile::tempdir().unwrap();
    write(words.path(), "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n");
    for (class, is_known) in
        [("BertTokenizer", true), ("DistilBertTokenizerFast", true), ("BertJapaneseTokenizer", false)]
    {
        let settings = json!({"do_lower_case": true, "tokenizer_class": class});
        write(words.path(), "tokenizer_config.json", settings.to_string());
        assert_eq!(Tokenizer::load(words.path()).is_ok(), is_known, "{class}");
    }
}

/// BPE dropout (tokenizers 644) skips merges at random, so that the ids differ each time. It is ignored: the ids are
/// those of the same file with `"dropout": null`.
#[test]
fn bpe_dropout_is_ignored() {
    let dir = plain();
    let path = dir.path().join("new/tokenizer.json");
    let text = "jetty ember lagoon ".repeat(50);
    let expected = Tokenizer::load(&path).unwrap().encode(&text).unwrap();
    let mut file = super::json(&path);
    for rate in [0.5, 1.0] {
        file["model"]["dropout"] = rate.into();
        fs::write(&path, file.to_string()).unwrap();
        let tokenizer = Tokenizer::load(&path).unwrap();
        for _ in 0..2 {
            assert_eq!(tokenizer.encode(&text).unwrap(), expected, "{rate}");
        }
        let [note] = tokenizer.notes() else { panic!("{:?}", tokenizer.notes()) };
        assert!(note.contains("dropout") && note.contains("tokenizer.json"), "{note}");
    }
    file["model"]["dropout"] = 0.0.into();
    fs::write(&path, file.to_string()).unwrap();
    assert!(Tokenizer::load(&path).unwrap().notes().is_empty());
}

/// For a folder with only a `tokenizer.json`, `AutoTokenizer` assumes the tokenizer class of the model family: both
/// versions then add `<|endoftext|>` to a byte vocabulary, version 5 splits text for a character vocabulary as GPT-2
/// does, a cased BERT is lower-cased, and a byte-level BERT cannot be opened. With the class that the program writes,
/// both give its ids in all of these cases.
#[test]
fn saved_tokenizers_name_the_generic_class() {
    let dir = plain();
    let at = dir.path();
    let settings = |model: &str| super::json(&at.join(model).join("tokenizer_config.json"));
    write(at, "text.txt", "jetty ember lagoon fjord marsh\n".repeat(40));
    let run = |family: &str, tokenizer: &str| {
        write(
            at,
            "run.toml",
            format!(
                "[model]\nfamily = \"{family}\"\nlayers = 1\nheads = 2\nhead_size = 4\ncontext = 8\n[data]\ntext = \
                 \"text.txt\"\ntokenizer = \"{tokenizer}\"\n[train]\nbatch = 2\neval_every = 1\n[[levels]]\ntrain = {{ steps = 1, lr = 1e-3 }}\n"
            ),
        );
        let _ = fs::remove_dir_all(at.join("run"));
        ok(at, "train run.toml --out run --set scratch=none");
        settings("run/vcycle/model")
    };
    let class = json!("PreTrainedTokenizerFast");
    for tokenizer in ["byte", "char", "bpe:270"] {
        let written = run("gpt", tokenizer);
        assert_eq!((&written["tokenizer_class"], &written["eos_token"]), (&class, &Value::Null), "{tokenizer}");
    }
    let written = run("bert", "byte");
    assert_eq!((&written["tokenizer_class"], &written["mask_token"]), (&class, &json!("[MASK]")));
    // A model derived from a checkpoint keeps the roles of tokens that are in the vocabulary, and the chat template.
    let kept = json!({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>", "pad_token": "[none]", "bos_token": "jetty",
        "chat_template": "{{ messages }}", "add_prefix_space": true});
    fs::write(at.join("gpt2/tokenizer_config.json"), kept.to_string()).unwrap();
    let [before, after] = ["gpt2", "small"].map(|name| at.join(name));
    ok(at, "coalesce gpt2 --layers 1 --out small");
    let written = settings("small");
    assert_eq!(
        ["tokenizer_class", "eos_token", "bos_token", "chat_template", "pad_token", "add_prefix_space"]
            .map(|key| written[key].clone()),
        [class, json!("<|endoftext|>"), json!("jetty"), json!("{{ messages }}"), Value::Null, json!(true)]
    );
    let [before, after] = [before, after].map(|path| Tokenizer::load(&path).unwrap().encode(TEXT).unwrap());
    assert_eq!(before, after);
}

/// An embedding may have more rows than there are tokens, so that ids without a token may be sampled. They decode to no
/// text, as with `decode` in transformers.
#[test]
fn ids_without_a_token_decode_to_no_text() {
    let dir = plain();
    let at = dir.path();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(at.join("gpt2").join(name), at.join("new").join(name)).unwrap();
    }
    let path = at.join("new/tokenizer.json");
    let mut file = super::json(&path);
    // Keep the first 257 ids, and one after a gap.
    let vocab = file["model"]["vocab"].as_object().unwrap().clone();
    let few = vocab.into_iter().filter(|(_, id)| id.as_u64().is_some_and(|id| id < 257 || id == 300)).collect();
    file["model"]["vocab"] = Value::Object(few);
    file["model"]["merges"] = json!([]);
    fs::write(&path, file.to_string()).unwrap();
    for seed in 1..4 {
        let (text, _) =
            ok(at, &format!("generate new --prompt jetty --tokens 60 --temperature 5 --top-k 0 --seed {seed}"));
        assert!(text.starts_with("jetty"), "{text}");
    }
}

/// Variants of a `tokenizer.json` from issue trackers, which must stay supported: merges as strings and as pairs
/// (tokenizers 1562), an added token after a gap or without content, and padding and truncation that were left enabled.
#[test]
fn variants_of_a_tokenizer_file_give_the_same_ids() {
    let dir = plain();
    let path = dir.path().join("new/tokenizer.json");
    let base = super::json(&path);
    let token = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let check = |edit: &dyn Fn(&mut Value), expected: &[u32]| {
        let mut file = base.clone();
        edit(&mut file);
        fs::write(&path, file.to_string()).unwrap();
        assert_eq!(Tokenizer::load(&path).unwrap().encode(TEXT).unwrap(), expected);
    };
    let pairs: Vec<[String; 2]> = base["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| match merge {
            Value::String(text) => text.split_once(' ').map(|(a, b)| [a.to_owned(), b.to_owned()]).unwrap(),
            pair => [0, 1].map(|i| pair[i].as_str().unwrap().to_owned()),
        })
        .collect();
    check(&|file| file["model"]["merges"] = json!(pairs), &PLAIN);
    check(&|file| file["model"]["merges"] = pairs.iter().map(|pair| pair.join(" ")).collect(), &PLAIN);
    check(&|file| file["added_tokens"].as_array_mut().unwrap().push(token(900, "<|user|>")), &ADDED);
    check(&|file| file["added_tokens"].as_array_mut().unwrap().push(token(320, "")), &PLAIN);
    check(
        &|file| {
            file["truncation"] =
                json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
            file["padding"] = json!({"strategy": {"Fixed": 19}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "<|endoftext|>"});
        },
        &PLAIN,
    );
    // Added tokens that absorb the white space around them, and added tokens that must be separate words.
    let old = dir.path().join("old");
    let config = |flags: Value| [("tokenizer_config.json", json!({"added_tokens_decoder": {"320": flags}}))];
    let flags = json!({"content": "<|user|>", "special": true, "lstrip": true, "rstrip": true});
    assert_eq!(ids(&old, &config(flags), TEXT).0, [280, 271, 320, 285]);
    let flags = json!({"content": "<|user|>", "special": false, "single_word": true});
    let expected = [280, 271, 28, 92, 53, 51, 37, 50, 92, 30, 287, 221, 28, 92, 85, 83, 69, 82, 92, 30, 88];
    assert_eq!(ids(&old, &config(flags), "jetty ember<|USER|> lagoon <|user|>x").0, expected);
    // A word of a hundred characters is split into pieces; a longer one is unknown.
    write(&old, "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##a\n");
    let words = Tokenizer::from_spec(&format!("cased:{}", old.join("vocab.txt").display()), "").unwrap();
    let pieces = [&[5][..], &[6; 99], &[1]].concat();
    assert_eq!(words.encode(&format!("{} {}", "a".repeat(100), "a".repeat(101))).unwrap(), pieces);
}
