//! Prefetched batches equal those of direct sampling, from any step and in any order.

use super::*;
use crate::shard::shard;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use vcycle::data::loader::batch::{Field, NextToken, Source};
use vcycle::data::loader::prefetch::Prefetch;
use vcycle::data::tokens::Tokens;
use vcycle::error::Result;

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
    for (first, workers) in [(0, 1), (1, 2), (1000, 1), (u64::MAX - 5, 5)] {
        let mut batches = Prefetch::new(windows(&tokens), 3, first, workers).unwrap();
        (0..40).for_each(|i| check(&mut batches, &tokens, first.wrapping_add(i)));
        // Steps that were not prefetched: backwards, forwards, the same one twice.
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
        let mut batches = Prefetch::new(windows(&tokens), 3, i, 1 + i as usize % 4).unwrap();
        if i % 3 == 0 {
            check(&mut batches, &tokens, i);
        }
        drop(batches);
        assert_eq!(Arc::strong_count(&tokens), 1, "the threads are gone");
    }
}

#[test]
fn errors_come_with_their_step() {
    let dir = folder();
    let short = Arc::new(Tokens::from(shard(&dir, &[1; 8], 2)));
    let mut batches = Prefetch::new(windows(&short), 3, 0, 1).unwrap();
    for step in [0, 1, 1, 7] {
        error_with(batches.next(step), &["shard.bin", "at most 7"]);
    }
    // One token is outside the vocabulary: the steps that read it fail, the others do not.
    let path = dir.path().join("shard.bin");
    let mut bytes = fs::read(shard(&dir, &(0..1000).collect::<Vec<u32>>(), 1000).path()).unwrap();
    bytes[64 + 2 * 500..][..2].copy_from_slice(&1000u16.to_le_bytes());
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let tokens = Arc::new(Tokens::from(Shard::open(&path).unwrap()));
    let mut batches = Prefetch::new(windows(&tokens), 3, 0, 1).unwrap();
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
    assert!(Prefetch::new(windows(&tokens), usize::MAX, 0, 1).is_err());
}

/// A source whose rows are one number each, computed from step and row. Chunks have two rows; some of them fail.
#[derive(Default)]
struct Numbers {
    rooms: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

const ROWS: usize = 7;

impl Numbers {
    fn row(step: u64, row: usize) -> i32 {
        (1000 * step + row as u64) as i32
    }
}

impl Source for Numbers {
    fn allocate(&self, rows: usize) -> Result<Vec<Field>> {
        self.rooms.fetch_add(1, Ordering::SeqCst);
        Ok(vec![Field::ints(rows, 1)?])
    }

    fn training_batch(&self, step: u64, fields: &mut [Field]) -> Result<()> {
        self.training_rows(step, ROWS, 0, fields)
    }

    fn chunk_rows(&self) -> Option<usize> {
        Some(2)
    }

    fn training_rows(&self, step: u64, batch: usize, first: usize, fields: &mut [Field]) -> Result<()> {
        assert_eq!(batch, ROWS);
        let now = 1 + self.at_once.fetch_add(1, Ordering::SeqCst);
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        // Later chunks of a batch finish sooner.
        std::thread::sleep(Duration::from_micros(100 * (ROWS - first) as u64));
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        if step % 10 == 3 && first >= 2 {
            return Err(vcycle::error::Error::new(format!("numbers.bin: row {first} of step {step} is damaged")));
        }
        assert!(step % 10 != 6 || first != 4, "no number for row {first}");
        let [Field::Ints(numbers)] = fields else { panic!("one field") };
        assert_eq!(numbers.len(), 2.min(ROWS - first));
        numbers.iter_mut().enumerate().for_each(|(i, number)| *number = Numbers::row(step, first + i));
        Ok(())
    }

    fn describe(&self) -> String {
        "numbers.bin".to_owned()
    }

    fn held_out_batch(&self, _: usize, _: &mut [Field]) -> Result<Option<usize>> {
        Ok(None)
    }
}

#[test]
fn workers_share_batches_in_bounded_memory_and_their_errors_are_the_steps() {
    for workers in [1, 3, 16] {
        let source = Arc::new(Numbers::default());
        let mut batches = Prefetch::new(Arc::clone(&source) as Arc<dyn Source>, ROWS, 0, workers).unwrap();
        for step in 0..60 {
            match step % 10 {
                // The first that is wrong, although others were found before.
                3 => drop(error_with(batches.next(step), &[&format!("numbers.bin: row 2 of step {step} is damaged")])),
                6 => {
                    let place = format!("rows 4..6 of the batch of step {step}, from numbers.bin");
                    error_with(batches.next(step), &[&place, "panicked", "no number for row 4"]);
                }
                _ => {
                    let wanted: Vec<i32> = (0..ROWS).map(|row| Numbers::row(step, row)).collect();
                    assert_eq!(batches.next(step).unwrap(), [Field::Ints(wanted)], "step {step}");
                }
            }
        }
        drop(batches);
        let rooms = source.rooms.load(Ordering::SeqCst);
        assert_eq!(rooms, 5 + workers, "four prefetched batches, the one in use, and a chunk for each worker");
        let most = source.most_at_once.load(Ordering::SeqCst);
        assert!(most <= workers && (workers == 1 || most > 1), "{most} of {workers} workers worked at once");
    }
}
