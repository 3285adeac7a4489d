//! Tokenizers are never trained on held-out text.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::support::*;
use vcycle::data::tokenizer::Tokenizer;

/// Asserts that a tokenizer equals the one trained on the training split alone.
fn check(tokenizer: &Tokenizer, spec: &str, [train, valid]: &[Vec<&str>; 2], json: Option<&Path>) {
    // Held-out text has pairs that would be among the first merges if it were counted.
    let [of_train, of_both] = [train.concat(), [train.concat(), valid.concat()].concat()]
        .map(|text| Tokenizer::from_spec(spec, &text).expect("a tokenizer"));
    let vocabulary = |tokenizer: &Tokenizer| -> Vec<Option<String>> {
        (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.decode(&[id]).ok()).collect()
    };
    let alone = vocabulary(&of_train);
    assert!(
        alone != vocabulary(&of_both),
        "{spec}: adding the held-out text does not change the tokenizer, so this test proves nothing"
    );
    // A tokenizer for masked models has special tokens at the end.
    assert_eq!(vocabulary(tokenizer)[..alone.len()], alone, "{spec}");
    let has_sentinel = |text: &str| text.bytes().any(|byte| is_sentinel(i32::from(byte)));
    if spec == "char" {
        let characters: BTreeSet<char> = train.concat().chars().collect();
        assert_eq!(alone.len(), characters.len() + 1);
        assert!(!alone.iter().flatten().any(|text| has_sentinel(text)));
        let unknown = of_train.encode("?").expect("tokens")[0];
        for text in valid {
            let capitals: String = text.chars().filter(char::is_ascii_uppercase).collect();
            assert!(tokenizer.encode(&capitals).expect("tokens").iter().all(|&token| token == unknown));
        }
    } else {
        // Sentinel bytes are in the vocabulary, as all bytes are, but no merge contains one.
        assert!(alone.len() > 257 && alone.iter().flatten().all(|text| text.len() == 1 || !has_sentinel(text)));
    }
    let Some(json) = json else { return };
    let json: serde_json::Value = serde_json::from_slice(&fs::read(json).expect("a file")).expect("JSON");
    for merge in json["model"]["merges"].as_array().into_iter().flatten() {
        assert!(!has_sentinel(&merge.to_string()), "{merge}");
    }
}

const SPECS: [&str; 2] = ["char", "bpe:290"];

#[test]
fn tokenizers_of_texts_ignore_held_out_text() {
    let folder = Folder::new();
    let marked = Texts::new(12, 40, 3, "== ");
    let pieces = Texts::new(100, 6, 4, "");
    let json = Texts::json_lines(&marked.documents, "text");
    for (name, content, texts, options) in [
        ("a.txt", marked.documents.concat(), &marked, "document_prefix = \"== \"\nheld_out_every = 3"),
        ("b.txt.gz", pieces.documents.concat(), &pieces, "held_out_every = 4"),
        ("c.jsonl.zst", json, &marked, "held_out_every = 3"),
    ] {
        let path = folder.file(name, content);
        for spec in SPECS {
            for family in ["gpt", "bert"] {
                let model = format!("family = {family:?}\ncontext = 8");
                let data = format!("[data]\ntext = {}\ntokenizer = {spec:?}\n{options}", quoted(&path));
                let data = folder.open(&config(&model, &data, USUAL));
                check(data.tokenizer().expect("a tokenizer"), spec, &texts.splits(), None);
            }
        }
    }
    // The tokenizers in the cache.
    let cached = fs::read_dir(folder.path().join("cache")).expect("a cache").map(|entry| entry.expect("a name").path());
    let mut count = 0;
    for dir in cached {
        let name = dir.file_name().expect("a name").to_string_lossy().into_owned();
        let texts = if name.starts_with('b') { &pieces } else { &marked };
        let json = dir.join("tokenizer.json");
        let tokenizer = Tokenizer::load(&json).expect("a tokenizer");
        let spec = if tokenizer.vocab_size() < 257 { "char" } else { "bpe:290" };
        check(&tokenizer, spec, &texts.splits(), Some(&json));
        count += 1;
    }
    assert_eq!(count, 6);
}

#[test]
fn tokenizers_of_prepared_folders_ignore_held_out_text() {
    let folder = Folder::new();
    let texts = Texts::new(12, 40, 3, "");
    let separated = folder.file("a.txt", texts.documents.join("%%\n"));
    let [json, more] = [&texts.documents[..5], &texts.documents[5..]].map(|part| Texts::json_lines(part, "text"));
    let json = [folder.file("b.jsonl", json), folder.file("c.jsonl.gz", more)];
    for spec in SPECS {
        let name = spec.split(':').next().expect("a name");
        for (kind, inputs, options) in
            [("text", &[separated.clone()][..], &["--separator", "%%"][..]), ("json", &json[..], &[])]
        {
            let out = folder.path().join(format!("{name}-{kind}"));
            let out_text = out.display().to_string();
            let mut args =
                vec!["data", "prepare", "--quiet", "--held-out-every", "3", "--tokenizer", spec, "--out", &out_text];
            args.extend(options);
            let inputs: Vec<String> = inputs.iter().map(|path| path.display().to_string()).collect();
            args.extend(inputs.iter().map(String::as_str));
            folder.vcycle(&args);
            let model = "family = \"gpt\"\ncontext = 8";
            let data = folder.open(&config(model, &format!("[data]\nprepared = {out_text:?}"), USUAL));
            check(data.tokenizer().expect("one"), spec, &texts.splits(), Some(&out.join("tokenizer.json")));
        }
    }
}

#[test]
fn tokenizers_of_labelled_texts_ignore_held_out_text() {
    let folder = Folder::new();
    let texts = Texts::new(20, 40, 3, "");
    let [train, valid] = texts.splits();
    let lines = |documents: &[&str]| -> String {
        let line = |(number, text): (usize, &&str)| format!("{}\t{}\n", number % 2, text.replace('\n', " ").trim());
        documents.iter().enumerate().map(line).collect()
    };
    let [first, second] = [&train, &valid].map(|split| lines(split));
    let files = [folder.file("train.tsv", &first), folder.file("valid.tsv.gz", &second)];
    // The texts as they are read: one per line, without the label.
    let read = |text: &str| text.lines().map(|line| line[2..].to_owned() + "\n").collect::<String>();
    let (train, valid) = (read(&first), read(&second));
    for spec in SPECS {
        let data = format!(
            "[data]\ntokenizer = {spec:?}\n[data.task]\ntrain = {}\nvalid = {}\nsentence = 2\nlabel = 1",
            quoted(&files[0]),
            quoted(&files[1])
        );
        let data = folder.open(&config("family = \"bert\"\ncontext = 16", &data, USUAL));
        check(data.tokenizer().expect("a tokenizer"), spec, &[vec![&train], vec![&valid]], None);
    }
}
