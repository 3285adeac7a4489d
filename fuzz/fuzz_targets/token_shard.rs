//! Token files: both versions of vcycle's format, and those of llm.c, nanoGPT and NumPy. What is accepted is read as a
//! whole, sampled, and written again.
//!
//! Sources: src/data/tokens/shard.rs src/data/tokens/formats.rs src/data/mapped.rs src/data/tokens/shard_writer.rs src/data/tokens/sampler.rs src/data/tokens/foreign.rs
#![no_main]

use harness::{Memory, run, same};
use vcycle::data::tokens::sampler::{Sampler, overlapping_batch, validation_batch};
use vcycle::data::tokens::shard::Shard;
use vcycle::data::tokens::shard_writer::{Boundaries, ShardWriter};

const CONTEXT: usize = 4;
const BATCH: usize = 2;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    run(data, Memory { mib: 2, per_byte: 64 }, |case| {
        let path = case.file("tokens.bin", data);
        case.accepted(Shard::open(&path), "tokens.bin").inspect(|shard| assert!(shard.states_vocabulary()));
        for vocab in [None, Some(300), Some(70_000)] {
            if let Some(shard) = case.accepted(Shard::open_any(&path, vocab), "tokens.bin") {
                assert!(vocab.is_none_or(|vocab| shard.vocab_size() <= vocab));
                used(case, &shard);
            }
        }
    });
});

fn used(case: &harness::Case, shard: &Shard) {
    let mut ids = vec![0; shard.len()];
    let sound = case.accepted(shard.read(0, &mut ids), "tokens.bin").is_some();
    for (i, &id) in ids.iter().enumerate() {
        same("a token", &(id as u32), &shard.token(i));
        assert!(!sound || (id as usize) < shard.vocab_size());
    }
    let starts = starts(case, shard);
    for at in [0, 1, shard.len() / 2, shard.len().saturating_sub(1), shard.len()] {
        let Some(range) = case.accepted(shard.document_around(at), "tokens.bin") else { continue };
        assert!(range.contains(&at) && range.end <= shard.len(), "{range:?} around {at}");
    }
    batches(case, shard, sound);
    if let (true, Some(starts)) = (sound, starts) {
        again(case, shard, &ids, starts);
    }
}

/// Returns where documents begin, if the table is valid.
fn starts(case: &harness::Case, shard: &Shard) -> Option<Vec<usize>> {
    let count = shard.documents().unwrap_or(0);
    let all: Option<Vec<usize>> =
        (0..count).map(|number| case.accepted(shard.document_start(number), "tokens.bin")).collect();
    if let Some(at) = case.accepted(shard.document_start(count), "tokens.bin") {
        panic!("document {count} begins at {at}");
    }
    all
}

fn batches(case: &harness::Case, shard: &Shard, sound: bool) {
    let (mut ids, mut labels) = (vec![0; BATCH * CONTEXT], vec![0; BATCH * CONTEXT]);
    let sampler = Sampler { seed: 1, rank: 0, world: 1 };
    for step in 0..4 {
        let batch = sampler.training_batch(shard, step, BATCH, CONTEXT, &mut ids, &mut labels);
        case.accepted(batch, "").inspect(|()| assert!(ids.iter().all(|&id| (id as usize) < shard.vocab_size())));
    }
    let (mut scored, mut overlapping) = (0, 0);
    for index in 0..shard.len() / BATCH + 1 {
        let (a, b) = (&mut ids, &mut labels);
        scored += case.accepted(validation_batch(shard, index, BATCH, CONTEXT, a, b), "").unwrap_or(0);
        overlapping += case.accepted(overlapping_batch(shard, index, (BATCH, CONTEXT, 1), a, b), "").unwrap_or(0);
    }
    if sound {
        let all = shard.len().saturating_sub(1);
        same("scored tokens", &[scored, overlapping], &[all, all]);
    }
}

fn again(case: &harness::Case, shard: &Shard, ids: &[i32], starts: Vec<usize>) {
    let boundaries = match shard.documents() {
        Some(_) => Boundaries::Known { continues: shard.continues() },
        None => Boundaries::Unknown,
    };
    let path = case.dir.join("again.bin");
    let mut writer = ShardWriter::create(&path, shard.vocab_size(), boundaries).expect("a vocabulary that was read");
    let mut done = 0;
    let tokens: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    for start in starts.iter().copied().chain([tokens.len()]) {
        writer.push(&tokens[done..start]).expect("tokens that were read");
        done = start;
        if start < tokens.len() {
            writer.begin_document();
        }
    }
    writer.commit().expect("written");
    let copy = Shard::open(&path).expect("it was just written");
    let mut found = vec![0; copy.len()];
    copy.read(0, &mut found).expect("it was just written");
    same("tokens", &found.as_slice(), &ids);
    let facts = |shard: &Shard| (shard.documents(), shard.continues(), shard.vocab_size());
    same("facts", &facts(&copy), &facts(shard));
    for (number, start) in starts.into_iter().enumerate() {
        same("a document", &copy.document_start(number).ok(), &Some(start));
    }
}
