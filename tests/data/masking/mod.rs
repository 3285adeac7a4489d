//! Batches of masked models through the public API: which tokens are chosen, what replaces them, and that all masks can
//! be undone.

mod choice;
mod errors;
mod rows;
mod vocabulary;

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use vcycle::data::prepared::cache::DataSpec;
use vcycle::data::prepared::corpus::{Corpus, DataSource, ShardsSpec};
use vcycle::data::text::HeldOut;
use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::tokenizer::vocabulary::TokenKind;
use vcycle::data::tokens::masking::{MaskedBatch, Masking, MaskingConfig};
use vcycle::data::tokens::sampler::{IGNORED, Sampler};
use vcycle::data::tokens::shard::{Shard, write_shard};
use vcycle::data::tokens::shard_writer::{Boundaries, ShardWriter};
use vcycle::data::tokens::windows::{Pack, Window};

const SAMPLER: Sampler = Sampler { seed: 7, rank: 0, world: 1 };
/// The special tokens are the first ids of [`numbers`].
const PAD: i32 = 0;
const UNK: i32 = 1;
const CLS: i32 = 2;
const SEP: i32 = 3;
const MASK: i32 = 4;
const FIRST: i32 = 5;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn load(json: &serde_json::Value) -> vcycle::error::Result<Tokenizer> {
    let dir = folder();
    let path = dir.path().join("tokenizer.json");
    fs::write(&path, json.to_string()).expect("written");
    Tokenizer::load(&path)
}

fn error_with<T>(result: vcycle::error::Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("no error; expected one with {parts:?}") };
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// The JSON of a tokenizer with these tokens, special ones first.
fn with_tokens(kind: &str, special: &[&str], tokens: &[String]) -> serde_json::Value {
    let vocab: serde_json::Map<_, _> =
        special.iter().map(|s| (*s).to_owned()).chain(tokens.iter().cloned()).zip((0..).map(|id| json!(id))).collect();
    let added: Vec<_> = special
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let mut model = json!({"type": kind, "vocab": vocab, "unk_token": "[UNK]"});
    if kind == "WordPiece" {
        model["continuing_subword_prefix"] = json!("##");
        model["max_input_chars_per_word"] = json!(100);
    }
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null, "model": model})
}

const NAMES: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// A tokenizer with `count` words: enough for a text in which each word occurs once, so that a token tells its
/// position.
fn numbers(count: usize) -> Tokenizer {
    let words: Vec<String> = (0..count).map(|i| format!("w{i}")).collect();
    load(&with_tokens("WordLevel", &NAMES, &words)).expect("a tokenizer")
}

/// A shard of these ids. With `starts`, it marks documents that begin at these positions.
fn shard(dir: &Path, ids: impl IntoIterator<Item = i32>, vocab: usize, starts: Option<&[usize]>) -> Shard {
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    let count = fs::read_dir(dir).expect("a folder").count();
    let path = dir.join(format!("{count}.bin"));
    match starts {
        None => write_shard(&path, &ids, vocab).expect("written"),
        Some(starts) => {
            let continues = starts.first() != Some(&0);
            let mut writer = ShardWriter::create(&path, vocab, Boundaries::Known { continues }).expect("created");
            for (at, id) in ids.iter().enumerate() {
                if starts.contains(&at) {
                    writer.begin_document();
                }
                writer.push(&[*id]).expect("pushed");
            }
            writer.commit().expect("committed");
        }
    }
    Shard::open(&path).expect("a shard")
}

#[derive(Clone, Debug, PartialEq)]
struct Batch {
    size: [usize; 3],
    ids: Vec<i32>,
    types: Vec<i32>,
    mask: Vec<i32>,
    positions: Vec<i32>,
    labels: Vec<i32>,
    next: Vec<i32>,
}

/// A row with the masks undone.
#[derive(Debug)]
struct Row {
    /// Tokens with special tokens and without padding.
    ids: Vec<i32>,
    /// Chosen positions in the row, with their label and the token that the batch shows there.
    chosen: Vec<(usize, i32, i32)>,
    next: Option<i32>,
}

impl Row {
    /// The text of each segment.
    fn segments(&self) -> Vec<&[i32]> {
        assert_eq!((self.ids[0], self.ids[self.ids.len() - 1]), (CLS, SEP));
        self.ids[1..self.ids.len() - 1].split(|&id| id == SEP).collect()
    }
}

impl Batch {
    fn new(masking: &Masking, batch: usize, context: usize, pairs: bool) -> Self {
        let (tokens, slots) = (vec![-7; batch * context], vec![-7; batch * masking.slots()]);
        Batch {
            size: [batch, context, masking.slots()],
            ids: tokens.clone(),
            types: tokens.clone(),
            mask: tokens,
            positions: slots.clone(),
            labels: slots,
            next: vec![-7; if pairs { batch } else { 0 }],
        }
    }

    fn out(&mut self) -> MaskedBatch<'_> {
        MaskedBatch {
            ids: &mut self.ids,
            types: &mut self.types,
            mask: &mut self.mask,
            positions: &mut self.positions,
            labels: &mut self.labels,
            next: &mut self.next,
        }
    }

    /// Undoes the masks and checks the invariants of every row.
    fn rows(&self, micro: usize) -> Vec<Row> {
        let [batch, context, slots] = self.size;
        (0..batch)
            .map(|row| {
                let tokens = row * context..(row + 1) * context;
                let scored = row * slots..(row + 1) * slots;
                let (mut ids, mask) = (self.ids[tokens.clone()].to_vec(), &self.mask[tokens.clone()]);
                let length = mask.iter().filter(|&&m| m == 1).count();
                assert!(mask[..length].iter().all(|&m| m == 1) && mask[length..].iter().all(|&m| m == 0));
                assert!(ids[length..].iter().all(|&id| id == PAD));
                ids.truncate(length);
                let base = row % micro * context;
                let (positions, labels) = (&self.positions[scored.clone()], &self.labels[scored]);
                let count = labels.iter().filter(|&&label| label != IGNORED).count();
                assert!(labels[count..].iter().all(|&label| label == IGNORED));
                assert!(positions[count..].iter().all(|&at| at as usize == base));
                assert!(positions[..count].windows(2).all(|pair| pair[0] < pair[1]), "{positions:?}");
                let chosen: Vec<_> = positions[..count]
                    .iter()
                    .zip(labels)
                    .map(|(&at, &label)| {
                        let at = at as usize - base;
                        assert!(0 < at && at < length - 1, "{at} is not within the text of {length}");
                        let shown = std::mem::replace(&mut ids[at], label);
                        (at, label, shown)
                    })
                    .collect();
                let second = ids.iter().position(|&id| id == SEP).expect("a [SEP]") + 1;
                let types = &self.types[tokens];
                assert!(types[..second].iter().chain(&types[length..]).all(|&segment| segment == 0));
                assert!(types[second..length].iter().all(|&segment| segment == 1));
                Row { ids, chosen, next: self.next.get(row).copied() }
            })
            .collect()
    }
}

fn train(
    masking: &mut Masking,
    sampler: Sampler,
    tokens: &[Shard],
    step: u64,
    (batch, micro, context, pairs): (usize, usize, usize, bool),
) -> Batch {
    let mut made = Batch::new(masking, batch, context, pairs);
    masking.training_batch(&sampler, tokens, step, (batch, micro), &mut made.out()).expect("a batch");
    made
}

/// The windows of held-out text, and all batches with the number of labels that each reports to score.
fn held_out(
    masking: &mut Masking,
    tokens: &[Shard],
    (batch, context, pairs): (usize, usize, bool),
) -> (Vec<Window>, Vec<(Batch, usize)>) {
    let windows = masking.held_out(tokens).expect("windows");
    let mut all = Vec::new();
    for index in 0.. {
        let mut made = Batch::new(masking, batch, context, pairs);
        let scored = masking.held_out_batch(tokens, &windows, index, (batch, batch), &mut made.out()).expect("a batch");
        if scored == 0 {
            break;
        }
        all.push((made, scored));
    }
    (windows, all)
}

/// Asserts that `found` of `count` draws is within five standard deviations of its expectation, `share` of the draws.
fn within_five_sigma(what: &str, found: usize, count: usize, share: f64) {
    let (mean, sigma) = (count as f64 * share, (count as f64 * share * (1.0 - share)).sqrt());
    assert!((found as f64 - mean).abs() <= 5.0 * sigma, "{what}: {found} of {count}, {mean:.0} +- {sigma:.0} expected");
}
