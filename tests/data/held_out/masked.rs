//! BERT with masked text: streams and documents, whole-word masking, and pairs for next-sentence prediction.

use std::collections::{HashMap, HashSet};

use super::support::*;
use vcycle::config::Config;
use vcycle::data::tokenizer::vocabulary::SpecialTokens;
use vcycle::data::tokens::shard_writer::{Boundaries, ShardWriter};

const CONTEXT: usize = 19;

/// Masking settings.
#[derive(Clone, Copy)]
struct Form {
    documents: bool,
    whole_words: bool,
    pairs: bool,
}

const STREAM: Form = Form { documents: false, whole_words: false, pairs: false };

impl Form {
    /// Number of text tokens in a row.
    fn width(self) -> usize {
        CONTEXT - if self.pairs { 3 } else { 2 }
    }

    fn config(self, data: &str, sizes: Sizes) -> Config {
        let Form { documents, whole_words, pairs } = self;
        let pack = if documents { "documents" } else { "stream" };
        let masking = format!(
            "[masking]\nrate = 0.2\npack = {pack:?}\nwhole_words = {whole_words}\nnext_sentence = {pairs}\n{data}"
        );
        config(&format!("family = \"bert\"\ncontext = {CONTEXT}"), &masking, sizes)
    }
}

/// The token ids of both splits: files, each a list of documents. A document that continues in the next file counts as
/// two documents.
type Splits = [Vec<Vec<Vec<i32>>>; 2];

/// The windows that the text is cut into. Each token is in exactly one of them.
fn windows(files: &[Vec<Vec<i32>>], form: Form) -> Vec<Vec<i32>> {
    let stretches = |documents: &Vec<Vec<i32>>| match form.documents {
        true => documents.clone(),
        false => vec![documents.concat()],
    };
    let stretches = files.iter().flat_map(stretches);
    stretches.flat_map(|tokens| tokens.chunks(form.width()).map(<[i32]>::to_vec).collect::<Vec<_>>()).collect()
}

/// Whether `part` occurs contiguously in one of the stretches.
fn is_within(part: &[i32], stretches: &[Vec<i32>]) -> bool {
    stretches.iter().any(|stretch| stretch.windows(part.len()).any(|window| window == part))
}

/// The stretches that windows are cut from: files, or documents.
fn stretches(files: &[Vec<Vec<i32>>], form: Form) -> Vec<Vec<i32>> {
    match form.documents {
        true => files.concat(),
        false => files.iter().map(|documents| documents.concat()).collect(),
    }
}

/// The number of masked positions that a row of this length should have.
fn slots(row: &Row) -> usize {
    let length = row.segments.iter().map(Vec::len).sum::<usize>() + 1 + row.segments.len();
    ((0.2 * length as f64).round() as usize).max(1).min(((0.2 * CONTEXT as f64).round() as usize).max(1))
}

fn check_labels(row: &Row, form: Form) {
    if form.whole_words {
        assert!(row.scored.len() <= slots(row) && !row.scored.is_empty(), "{row:?}");
    } else {
        let text: usize = row.segments.iter().map(Vec::len).sum();
        assert_eq!(row.scored.len(), slots(row).min(text), "{row:?}");
    }
    let places: HashSet<usize> = row.scored.iter().map(|(at, _)| *at).collect();
    assert_eq!(places.len(), row.scored.len(), "a position is scored twice");
}

fn check_held_out(folder: &Folder, data: &str, splits: &Splits, form: Form) {
    let wanted = windows(&splits[1], form);
    let within = stretches(&splits[1], form);
    let mut masks: Option<Vec<Row>> = None;
    for (batch, accumulate) in ALL_SIZES {
        // The masks of held-out text do not depend on the seed.
        let sizes = Sizes { seed: batch as u64, batch, accumulate };
        let open = folder.open(&form.config(data, sizes));
        let special = open.tokenizer().expect("a tokenizer").special_tokens().expect("special tokens");
        let source = open.source(&form.config(data, sizes)).expect("a source");
        let all = held_out(&*source, sizes.rows());
        let mut rows = Vec::new();
        for (fields, scores) in &all {
            let here = masked_rows(fields, (CONTEXT, sizes.rows()), special);
            assert_eq!(*scores, here.iter().map(|row| row.scored.len()).sum::<usize>());
            rows.extend(here);
        }
        assert_eq!(rows.len(), wanted.len(), "batches of {batch} have the wrong number of windows");
        for (row, window) in rows.iter().zip(&wanted) {
            check_labels(row, form);
            match (&row.segments[..], row.next) {
                ([text], None) => assert_eq!(text, window),
                ([first, second], Some(0)) => assert_eq!(&[&first[..], second].concat(), window),
                ([first, second], Some(1)) => {
                    assert!(window.starts_with(first), "{row:?}");
                    assert!(is_within(second, &within), "{row:?}");
                }
                _ => panic!("{row:?}"),
            }
        }
        let masks = masks.get_or_insert_with(|| rows.clone());
        assert!(*masks == rows, "masks depend on the batch size or on the seed");
    }
    // Each window is masked at its own positions.
    let full = |row: &&Row| row.segments.iter().map(Vec::len).sum::<usize>() == form.width();
    let masks = masks.unwrap_or_default();
    let places: Vec<Vec<usize>> =
        masks.iter().filter(full).map(|row| row.scored.iter().map(|(at, _)| *at).collect()).collect();
    let distinct: HashSet<&Vec<usize>> = places.iter().collect();
    // Four of some sixteen positions are 1,820 choices, so a few dozen windows hardly ever share one.
    if !form.whole_words {
        assert!(places.len() > 5 && distinct.len() + 3 >= places.len(), "{} of {}", distinct.len(), places.len());
    }
}

fn check_training(folder: &Folder, data: &str, splits: &Splits, form: Form, is_sentinel: &dyn Fn(i32) -> bool) {
    let within = stretches(&splits[0], form);
    let all: Vec<Vec<i32>> = match (form.pairs, form.documents) {
        (true, _) => Vec::new(),
        (false, true) => windows(&splits[0], form),
        (false, false) => within.iter().flat_map(|file| file.windows(form.width()).map(<[i32]>::to_vec)).collect(),
    };
    let numbers: HashMap<&[i32], usize> = all.iter().map(Vec::as_slice).zip(0..).collect();
    assert_eq!(numbers.len(), all.len(), "the training windows are not distinct");
    let (batch, micro, mut seen) = (60, 30, HashSet::new());
    // A one-token piece of a document is drawn as rarely as a single token.
    let tokens: usize = within.iter().map(Vec::len).sum();
    let steps = (tokens as f64 * ((tokens as f64).ln() + 6.0) / (3 * batch) as f64) as u64;
    for seed in [1, 2, 3] {
        let config = form.config(data, Sizes { seed, batch, accumulate: batch / micro });
        let open = folder.open(&config);
        let special = open.tokenizer().expect("a tokenizer").special_tokens().expect("special tokens");
        let source = open.source(&config).expect("a source");
        for fields in training(&*source, batch, if form.pairs { steps / 8 } else { steps }) {
            for row in masked_rows(&fields, (CONTEXT, micro), special) {
                check_labels(&row, form);
                // Checked with the masks undone, because random replacements come from the whole vocabulary.
                let text = row.segments.iter().flatten();
                assert!(!text.chain(row.scored.iter().map(|(_, label)| label)).any(|&token| is_sentinel(token)));
                if form.pairs {
                    let parts = if row.next == Some(0) { vec![row.segments.concat()] } else { row.segments };
                    assert!(parts.iter().all(|part| is_within(part, &within)), "{parts:?}");
                } else {
                    seen.insert(*numbers.get(&row.segments[0][..]).expect("a window of the training split"));
                }
            }
        }
        read_ahead(&source, batch, &[1, 3]);
    }
    assert_eq!(seen.len(), all.len(), "some windows are never trained on");
}

/// The texts of the first 10 steps with the masks undone.
fn texts(
    config: &Config,
    source: &dyn vcycle::data::loader::batch::Source,
    special: SpecialTokens,
) -> Vec<Vec<Vec<i32>>> {
    let rows = |fields: Vec<_>| masked_rows(&fields, (CONTEXT, config.train.batch), special);
    let firsts = |fields| rows(fields).into_iter().map(|row| row.segments[0].clone()).collect();
    training(source, config.train.batch, 10).map(firsts).collect()
}

fn check(folder: &Folder, data: &str, splits: &Splits, form: Form, is_sentinel: &dyn Fn(i32) -> bool) {
    check_held_out(folder, data, splits, form);
    check_training(folder, data, splits, form, is_sentinel);
    seed_orders(folder, |sizes| form.config(data, sizes), batches);
    let special = folder.open(&form.config(data, USUAL));
    let special = special.tokenizer().expect("a tokenizer").special_tokens().expect("special tokens");
    // Not only the masks: the windows themselves.
    seed_orders(folder, |sizes| form.config(data, sizes), |config, source| texts(config, source, special));
}

fn forms(documents: bool, pairs: bool) -> impl Iterator<Item = Form> {
    let packs = if documents { &[false, true][..] } else { &[false] };
    packs.iter().map(move |&documents| Form { documents, pairs, ..STREAM })
}

#[test]
fn token_files() {
    let folder = Folder::new();
    let tokenizer = words(&folder, 1200);
    // Each id from 5 on occurs once; the highest are held out. Documents end at irregular positions.
    let split = |range: std::ops::Range<i32>, files: &[usize], lengths: &[usize]| {
        let (mut left, mut lengths) = (range.collect::<Vec<i32>>().into_iter(), lengths.iter().cycle());
        let mut all = Vec::new();
        for &size in files {
            let mut file: Vec<i32> = left.by_ref().take(size).collect();
            let mut documents = Vec::new();
            while !file.is_empty() {
                let rest = file.split_off((*lengths.next().expect("a length")).min(file.len()));
                documents.push(std::mem::replace(&mut file, rest));
            }
            all.push(documents);
        }
        all
    };
    let splits = [split(5..705, &[300, 400], &[40, 7, 1, 33, 90]), split(705..1105, &[210, 75, 115], &[25, 2, 51, 18])];
    let write = |name: &str, files: &[Vec<Vec<i32>>]| -> Vec<_> {
        let write = |(number, documents): (usize, &Vec<Vec<i32>>)| {
            let path = folder.path().join(format!("{name}-{number}.bin"));
            let mut writer = ShardWriter::create(&path, 1205, Boundaries::Known { continues: false }).expect("created");
            for document in documents {
                writer.begin_document();
                writer.push(&document.iter().map(|&id| id as u32).collect::<Vec<_>>()).expect("written");
            }
            writer.commit().expect("written");
            path
        };
        files.iter().enumerate().map(write).collect()
    };
    let [train, valid] = [write("train", &splits[0]), write("valid", &splits[1])];
    let data = format!(
        "[data]\ntrain = {}\nvalid = {}\ntokenizer = {}",
        all_quoted(&train),
        all_quoted(&valid),
        quoted(&tokenizer)
    );
    for form in forms(true, false).chain(forms(true, true)) {
        check(&folder, &data, &splits, form, &|token| (705..1105).contains(&token));
        check(&folder, &data, &splits, Form { whole_words: true, ..form }, &|token| (705..1105).contains(&token));
    }
    // Other programs' token files do not mark documents.
    let flat = |name: &str, files: &[Vec<Vec<i32>>]| -> Vec<_> {
        let write =
            |(i, file): (usize, &Vec<Vec<i32>>)| folder.file(&format!("{name}{i}.bin"), nano_gpt(&file.concat()));
        files.iter().enumerate().map(write).collect()
    };
    let [train, valid] = [flat("nano-train", &splits[0]), flat("nano-valid", &splits[1])];
    let data = format!(
        "[data]\ntrain = {}\nvalid = {}\ntokenizer = {}",
        all_quoted(&train),
        all_quoted(&valid),
        quoted(&tokenizer)
    );
    check(&folder, &data, &splits, STREAM, &|token| (705..1105).contains(&token));
}

fn bytes_of(texts: &[&str]) -> Vec<Vec<i32>> {
    texts.iter().map(|text| bytes(text)).collect()
}

#[test]
fn texts_in_every_format() {
    let folder = Folder::new();
    let marked = Texts::new(15, 22, 3, "== ");
    let pieces = Texts::new(100, 6, 4, "");
    let json = Texts::json_lines(&marked.documents, "text");
    for (name, content, source, options, documents) in [
        ("a.txt.zst", marked.documents.concat(), &marked, "document_prefix = \"== \"\nheld_out_every = 3", false),
        ("b.txt", pieces.documents.concat(), &pieces, "held_out_every = 4", false),
        ("c.jsonl.gz", json, &marked, "held_out_every = 3", true),
    ] {
        let path = folder.file(name, content);
        let data = format!("[data]\ntext = {}\ntokenizer = \"byte\"\n{options}", quoted(&path));
        let splits = source.splits().map(|split| vec![bytes_of(&split)]);
        for form in forms(documents, false).chain(forms(documents, true)) {
            check(&folder, &data, &splits, form, &is_sentinel);
        }
    }
}

#[test]
fn prepared_folders() {
    let folder = Folder::new();
    let texts = Texts::new(21, 17, 4, "");
    let inputs = [&texts.documents[..9], &texts.documents[9..]].map(|documents| documents.join("%%\n"));
    let inputs = [folder.file("1.txt", &inputs[0]), folder.file("2.txt.zst", &inputs[1])];
    let inputs = inputs.map(|path| path.display().to_string());
    let out = folder.path().join("prepared").display().to_string();
    let args = ["data", "prepare", &inputs[0], &inputs[1], "--separator", "%%", "--held-out-every", "4"];
    let more = ["--shard-tokens", "150", "--tokenizer", "byte", "--quiet", "--out", &out];
    folder.vcycle(&[&args[..], &more].concat());
    // A document that is cut by the end of a file counts as two.
    let splits = texts.splits().map(|split| {
        let mut files = vec![(Vec::new(), 0)];
        for document in bytes_of(&split) {
            let mut left = &document[..];
            while !left.is_empty() {
                if files.last().is_some_and(|(_, size)| *size == 150) {
                    files.push((Vec::new(), 0));
                }
                let (file, size): &mut (Vec<Vec<i32>>, usize) = files.last_mut().expect("a file");
                let part = left.len().min(150 - *size);
                file.push(left[..part].to_vec());
                *size += part;
                left = &left[part..];
            }
        }
        files.into_iter().map(|(file, _)| file).collect()
    });
    for form in forms(true, false).chain(forms(true, true)) {
        check(&folder, &format!("[data]\nprepared = {out:?}"), &splits, form, &is_sentinel);
    }
}
