//! GPT: every format of text and of token files.

use std::collections::{HashMap, HashSet};
use std::fs;

use super::support::*;
use vcycle::data::tokens::sampler::IGNORED;
use vcycle::data::tokens::shard::write_shard;

const CONTEXT: usize = 9;

fn gpt(data: &str, sizes: Sizes) -> vcycle::config::Config {
    config(&format!("family = \"gpt\"\ncontext = {CONTEXT}"), data, sizes)
}

/// The tokens of the training split and the held-out split, by file.
struct Splits {
    train: Vec<Vec<i32>>,
    valid: Vec<Vec<i32>>,
}

impl Splits {
    /// Cuts each split into files of `size` tokens.
    fn new([train, valid]: [Vec<&str>; 2], size: usize) -> Self {
        let files = |texts: Vec<&str>| bytes(&texts.concat()).chunks(size).map(<[i32]>::to_vec).collect();
        Splits { train: files(train), valid: files(valid) }
    }

    fn whole(splits: [Vec<&str>; 2]) -> Self {
        Self::new(splits, usize::MAX)
    }
}

/// The labels that a batch scores, each with the tokens before it in its row.
fn scored(fields: &[vcycle::data::loader::batch::Field]) -> Vec<(&[i32], i32)> {
    let rows = fields[0].as_ints().chunks(CONTEXT).zip(fields[1].as_ints().chunks(CONTEXT));
    rows.flat_map(|(ids, labels)| {
        labels.iter().enumerate().filter(|(_, label)| **label != IGNORED).map(|(at, &label)| (&ids[..=at], label))
    })
    .collect()
}

/// Checks every promise for the data that the configuration `data` names.
fn check(folder: &Folder, data: &str, splits: &Splits, is_sentinel: impl Fn(i32) -> bool) {
    // Check the test data: sentinels occur in held-out windows only, and all training windows are distinct.
    assert!(!splits.train.iter().flatten().any(|&token| is_sentinel(token)));
    assert!(splits.valid.concat().windows(CONTEXT).all(|window| window.iter().any(|&token| is_sentinel(token))));
    let whole = |file: &Vec<i32>| file.windows(CONTEXT + 1).map(<[i32]>::to_vec).collect::<Vec<_>>();
    let all: Vec<Vec<i32>> = splits.train.iter().flat_map(whole).collect();
    let windows: HashMap<&[i32], usize> = all.iter().map(Vec::as_slice).zip(0..).collect();
    assert_eq!(windows.len(), all.len(), "the training windows are not distinct");

    for (batch, accumulate) in ALL_SIZES {
        let sizes = Sizes { batch, accumulate, ..USUAL };
        let source = folder.source(&gpt(data, sizes));
        let batches = held_out(&*source, sizes.rows());
        let found: Vec<(&[i32], i32)> = batches.iter().flat_map(|(fields, _)| scored(fields)).collect();
        // Files are cut into windows separately. Each token but the first of a file is predicted from those before it
        // in its window.
        let pairs = |file: &'_ Vec<i32>| -> Vec<(Vec<i32>, i32)> {
            let pair = |at: usize| (file[(at - 1) / CONTEXT * CONTEXT..at].to_vec(), file[at]);
            (1..file.len()).map(pair).collect()
        };
        let wanted: Vec<(Vec<i32>, i32)> = splits.valid.iter().flat_map(pairs).collect();
        assert_eq!(found.len(), wanted.len(), "batches of {batch} score the wrong number of tokens");
        let same = found.iter().zip(&wanted).all(|((seen, label), (ids, token))| *seen == &ids[..] && label == token);
        assert!(same, "batches of {batch} score the wrong tokens");
        for (fields, scores) in &batches {
            assert_eq!(*scores, scored(fields).len());
        }
    }

    let mut seen = HashSet::new();
    let (batch, steps) = (50, (all.len() as f64 * ((all.len() as f64).ln() + 6.0) / 150.0) as u64);
    for seed in [1, 2, 3] {
        let source = folder.source(&gpt(data, Sizes { seed, batch, accumulate: 2 }));
        for fields in training(&*source, batch, steps) {
            for (ids, labels) in fields[0].as_ints().chunks(CONTEXT).zip(fields[1].as_ints().chunks(CONTEXT)) {
                assert!(!ids.iter().chain(labels).any(|&token| is_sentinel(token)), "held-out text in {ids:?}");
                assert_eq!(ids[1..], labels[..CONTEXT - 1]);
                let window = [ids, &labels[CONTEXT - 1..]].concat();
                seen.insert(*windows.get(&window[..]).expect("a window of the training split"));
            }
        }
        read_ahead(&source, batch, &[1, 3]);
    }
    assert_eq!(seen.len(), all.len(), "some windows are never trained on");
    seed_orders(folder, |sizes| gpt(data, sizes), batches);
}

#[test]
fn a_text_with_marked_documents() {
    for (every, name) in [(3, "a.txt"), (7, "b.txt.gz"), (2, "c.txt.zst")] {
        let folder = Folder::new();
        let mut texts = Texts::new(15, 20, every, "== ");
        texts.documents[0].insert_str(0, "before the first\n");
        let path = folder.file(name, texts.documents.concat());
        let data = format!(
            "[data]\ntext = {}\ntokenizer = \"byte\"\ndocument_prefix = \"== \"\nheld_out_every = {every}",
            quoted(&path)
        );
        check(&folder, &data, &Splits::whole(texts.splits()), is_sentinel);
        // Again from the cache, then with the cache as prepared data.
        check(&folder, &data, &Splits::whole(texts.splits()), is_sentinel);
        let mut cached = fs::read_dir(folder.path().join("cache")).expect("a cache");
        let cached = cached.next().expect("a folder").expect("a name").path();
        let data = format!("[data]\nprepared = {}", quoted(&cached));
        check(&folder, &data, &Splits::whole(texts.splits()), is_sentinel);
    }
}

#[test]
fn a_text_in_a_hundred_pieces() {
    let folder = Folder::new();
    for (every, name) in [(Some(4), "a.txt"), (None, "b.txt.zst")] {
        let texts = Texts::new(100, 6, every.unwrap_or(10), "");
        let path = folder.file(name, texts.documents.concat());
        let every = every.map_or(String::new(), |every| format!("held_out_every = {every}"));
        let data = format!("[data]\ntext = {}\ntokenizer = \"byte\"\n{every}", quoted(&path));
        check(&folder, &data, &Splits::whole(texts.splits()), is_sentinel);
    }
}

#[test]
fn json_lines() {
    let folder = Folder::new();
    for (every, name, key) in [(5, "a.jsonl", "text"), (2, "b.jsonl.gz", "body"), (10, "c.jsonl.zst", "text")] {
        let texts = Texts::new(23, 15, every, "");
        let path = folder.file(name, Texts::json_lines(&texts.documents, key));
        let field = if key == "text" { String::new() } else { format!("field = {key:?}") };
        let data = format!("[data]\ntext = {}\ntokenizer = \"byte\"\nheld_out_every = {every}\n{field}", quoted(&path));
        check(&folder, &data, &Splits::whole(texts.splits()), is_sentinel);
    }
}

#[test]
fn prepared_folders() {
    let folder = Folder::new();
    let every = 4;
    let texts = Texts::new(21, 13, every, "");
    let with_lines = |documents: &[String]| documents.join("%%\n");
    let first = folder.file("1.txt", with_lines(&texts.documents[..9]));
    let second = folder.file("2.txt.gz", with_lines(&texts.documents[9..]));
    let json = folder.file("3.jsonl.zst", Texts::json_lines(&texts.documents[..9], "text"));
    let more_json = folder.file("4.jsonl", Texts::json_lines(&texts.documents[9..], "text"));
    let prefixed = Texts { documents: texts.documents.iter().map(|text| format!("# {text}")).collect(), every };
    let marked = folder.file("5.txt.zst", prefixed.documents.concat());
    let pieces = Texts::new(100, 5, every, "");
    let plain = folder.file("6.txt", pieces.documents.concat());
    for (number, (inputs, options, texts, size)) in [
        (vec![&first, &second], &["--separator", "%%"][..], &texts, 70),
        (vec![&json, &more_json], &[], &texts, 1 << 20),
        (vec![&marked], &["--document-prefix", "# "], &prefixed, 101),
        (vec![&plain], &[], &pieces, 55),
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.path().join(format!("prepared-{number}")).display().to_string();
        let (every, tokens) = (every.to_string(), size.to_string());
        let mut args = vec!["data", "prepare", "--tokenizer", "byte", "--quiet", "--out", &out];
        args.extend(["--held-out-every", &every, "--shard-tokens", &tokens]);
        let inputs: Vec<String> = inputs.iter().map(|path| path.display().to_string()).collect();
        args.extend(options);
        args.extend(inputs.iter().map(String::as_str));
        folder.vcycle(&args);
        check(&folder, &format!("[data]\nprepared = {out:?}"), &Splits::new(texts.splits(), size), is_sentinel);
    }
}

#[test]
fn token_files() {
    let folder = Folder::new();
    // Each id occurs once; the highest are held out.
    let train: Vec<Vec<i32>> = vec![(0..400).collect(), (400..405).collect(), (405..900).collect()];
    let valid: Vec<Vec<i32>> = vec![(900..973).collect(), (973..974).collect(), (974..1001).collect()];
    let write = |name: &str, files: &[Vec<i32>], form: &str| -> Vec<_> {
        let write = |(number, tokens): (usize, &Vec<i32>)| {
            let name = format!("{form}-{name}/{number}.bin");
            match form {
                "nano" => folder.file(&name, nano_gpt(tokens)),
                "vcycle" => {
                    let path = folder.file(&name, "");
                    let ids: Vec<u32> = tokens.iter().map(|&id| id as u32).collect();
                    write_shard(&path, &ids, 1001).expect("written");
                    path
                }
                form => folder.file(&name, llm_c(tokens, form == "llama")),
            }
        };
        files.iter().enumerate().map(write).collect()
    };
    let splits = Splits { train, valid };
    for form in ["gpt2", "llama", "nano", "vcycle"] {
        let [train, valid] = [write("train", &splits.train, form), write("valid", &splits.valid, form)];
        let data = |train: &[_], valid: &[_]| {
            format!("[data]\ntrain = {}\nvalid = {}\nvocab = 1001", all_quoted(train), all_quoted(valid))
        };
        check(&folder, &data(&train, &valid), &splits, |token| token >= 900);
        // A folder means all files in it.
        let parent = |files: &[std::path::PathBuf]| vec![files[0].parent().expect("a folder").to_owned()];
        check(&folder, &data(&parent(&train), &parent(&valid)), &splits, |token| token >= 900);
    }
}
