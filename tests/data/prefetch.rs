//! What is read ahead is what sampling gives, from any step, in any order.

use super::*;
use crate::shard::shard;
use std::sync::Arc;
use std::time::Duration;
use vcycle::data::batch::{Field, NextToken};
use vcycle::data::prefetch::Prefetch;
use vcycle::data::tokens::Tokens;

const SAMPLER: Sampler = Sampler { seed: 5, rank: 0, world: 1 };

fn check(batches: &mut Prefetch, tokens: &Tokens, step: u64) {
    let (mut ids, mut labels) = (vec![0; 24], vec![0; 24]);
    SAMPLER.training_batch(tokens, step, 3, 8, &mut ids, &mut labels).unwrap();
    let found = batches.next(step).unwrap();
    assert_eq!(found, [Field::Ints(ids), Field::Ints(labels)], "step {step}");
}

fn windows(tokens: &Arc<Tokens>) -> Arc<NextToken> {
    let (train, valid) = (Arc::clone(tokens), Arc::clone(tokens));
    Arc::new(NextToken { train, valid, sampler: SAMPLER, context: 8 })
}

#[test]
fn every_step_gets_its_own_batch() {
    let dir = folder();
    let tokens = Arc::new(Tokens::from(shard(&dir, &(0..1000).collect::<Vec<u32>>(), 1000)));
    for first in [0, 1, 1000, u64::MAX - 5] {
        let mut batches = Prefetch::new(windows(&tokens), 3, first).unwrap();
        (0..40).for_each(|i| check(&mut batches, &tokens, first.wrapping_add(i)));
        // Not where it was expected to go on: backwards, forwards, twice the same.
        for step in [3, 3, 2, 500, 501, 503, 502, 504, 505, 0] {
            check(&mut batches, &tokens, step);
        }
        assert!(batches.waited() < Duration::from_secs(60));
    }
}

#[test]
fn it_ends_when_dropped_whatever_it_does() {
    let dir = folder();
    let tokens = Arc::new(Tokens::from(shard(&dir, &(0..1000).collect::<Vec<u32>>(), 1000)));
    for i in 0..50 {
        let mut batches = Prefetch::new(windows(&tokens), 3, i).unwrap();
        if i % 3 == 0 {
            check(&mut batches, &tokens, i);
        }
        drop(batches);
        assert_eq!(Arc::strong_count(&tokens), 1, "the thread is gone");
    }
}

#[test]
fn errors_come_with_their_step() {
    let dir = folder();
    let short = Arc::new(Tokens::from(shard(&dir, &[1; 8], 2)));
    let mut batches = Prefetch::new(windows(&short), 3, 0).unwrap();
    for step in [0, 1, 1, 7] {
        error_with(batches.next(step), &["shard.bin", "at most 7"]);
    }
    // One token is beyond the vocabulary: the steps that meet it fail, the others do not.
    let path = dir.path().join("shard.bin");
    let mut bytes = fs::read(shard(&dir, &(0..1000).collect::<Vec<u32>>(), 1000).path()).unwrap();
    bytes[64 + 2 * 500..][..2].copy_from_slice(&1000u16.to_le_bytes());
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let tokens = Arc::new(Tokens::from(Shard::open(&path).unwrap()));
    let mut batches = Prefetch::new(windows(&tokens), 3, 0).unwrap();
    let (mut ids, mut labels, mut failed) = (vec![0; 24], vec![0; 24], 0);
    for step in 0..200 {
        match SAMPLER.training_batch(&*tokens, step, 3, 8, &mut ids, &mut labels) {
            Ok(()) => {
                assert_eq!(batches.next(step).unwrap(), [Field::Ints(ids.clone()), Field::Ints(labels.clone())]);
            }
            Err(_) => {
                error_with(batches.next(step), &["shard.bin", "position 500"]);
                failed += 1;
            }
        }
    }
    assert!(failed > 0 && failed < 50, "{failed} steps failed");
    assert!(Prefetch::new(windows(&tokens), usize::MAX, 0).is_err());
}
