//! Tables of labelled texts. The first byte selects the configuration of the columns.
//!
//! Sources: src/data/labelled/mod.rs src/data/labelled/rows.rs src/data/labelled/classes.rs src/data/text/reader.rs
#![no_main]

use harness::{Memory, choice, run, same};
use std::sync::OnceLock;
use vcycle::data::labelled::classes::Checkpoint;
use vcycle::data::labelled::{Classification, ClassifyBatch, ClassifyConfig, Labels, texts};
use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::tokens::sampler::Sampler;

const CONTEXT: usize = 12;
const BATCH: usize = 3;
const COLUMNS: [&str; 8] = [
    "sentence = 1\nlabel = 2",
    "sentence = 'sentence'\nlabel = 'label'",
    "sentence = 2\nsecond = 1\nlabel = 3\nskip_unlabelled = true",
    "sentence = 'a'\nsecond = 'b'\nlabel = 'label'\nregression = true",
    "sentence = 1\nlabel = 2\nheader = true\nclasses = ['no', 'yes']",
    "sentence = 1\nlabel = 2\nregression = true\nskip_unlabelled = true",
    "sentence = 1\nlabel = 1\nheader = false",
    "sentence = 2\nlabel = 1\nclasses = ['1', '-', '1.0']\nskip_unlabelled = true",
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    let Some((which, data)) = choice(data) else { return };
    let tokenizer = TOKENIZER.get_or_init(|| {
        let bytes = Tokenizer::from_spec("byte", "").expect("a tokenizer");
        bytes.with_special_tokens().expect("special tokens")
    });
    run(data, Memory { mib: 4, per_byte: 1024 }, |case| {
        let config: ClassifyConfig = toml::from_str(COLUMNS[usize::from(which) % COLUMNS.len()]).expect("columns");
        let path = case.file("table.tsv", data);
        let all = case.accepted(texts(&path, &config), "table.tsv");
        let open = |known: Option<&Labels>| Classification::open(&path, &config, known, tokenizer, CONTEXT);
        let names = ["LABEL_0", "yes", "no"].map(str::to_owned);
        for fixed in [false, true] {
            let checkpoint = Some(Checkpoint { names: &names[..2 + usize::from(which & 128 != 0)], fixed });
            let matched = Classification::open_matched(&path, &config, (None, checkpoint), tokenizer, CONTEXT);
            if let Some(found) = case.accepted(matched, "") {
                used(&found, tokenizer.vocab_size());
            }
        }
        let Some(found) = case.accepted(open(None), "table.tsv") else { return };
        let all = all.expect("a file with examples has texts");
        assert_eq!(all.lines().count() > 0, !found.is_empty());
        if let Labels::Classes(labels) = found.labels() {
            assert!(labels.iter().all(|label| !label.trim().is_empty()), "{labels:?}");
        }
        used(&found, tokenizer.vocab_size());
        let again = open(Some(found.labels())).expect("its own labels");
        same("labels", &again.labels(), &found.labels());
        same("examples", &again.len(), &found.len());
    });
});

fn used(found: &Classification, vocab: usize) {
    let (classes, values) = match found.labels() {
        Labels::Classes(_) => (BATCH, 0),
        Labels::Values => (0, BATCH),
    };
    let (mut ids, mut types, mut mask) = (vec![0; BATCH * CONTEXT], vec![0; BATCH * CONTEXT], vec![0; BATCH * CONTEXT]);
    let (mut classes, mut values) = (vec![0; classes], vec![0.0; values]);
    let mut rows = 0;
    let sampler = Sampler { seed: 1, rank: 0, world: 1 };
    for index in 0..found.len().div_ceil(BATCH) {
        for training in [true, false] {
            let mut out = ClassifyBatch {
                ids: &mut ids,
                types: &mut types,
                mask: &mut mask,
                classes: &mut classes,
                values: &mut values,
            };
            if training {
                found.training_batch(&sampler, index as u64, BATCH, &mut out).expect("a batch");
            } else {
                rows += found.evaluation_batch(index, BATCH, &mut out).expect("a batch");
            }
            assert!(ids.iter().all(|&id| (0..vocab as i32).contains(&id)));
            assert!(types.iter().chain(&mask).all(|&n| n == 0 || n == 1));
            let Labels::Classes(names) = found.labels() else { continue };
            assert!(classes.iter().all(|&c| c == -100 || (c as usize) < names.len()));
        }
    }
    same("rows", &rows, &found.len());
}
