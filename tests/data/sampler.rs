//! Training and validation batches of tokens.

use super::*;
use crate::shard::shard;

const SAMPLER: Sampler = Sampler { seed: 7, rank: 0, world: 1 };

#[test]
fn starts_depend_on_every_number_and_nothing_else() {
    let start = |s: Sampler, step, row| s.start(step, row, 8, 1 << 40, 256);
    assert_eq!(start(SAMPLER, 3, 2), start(SAMPLER, 3, 2));
    let mut seen = HashSet::new();
    for seed in 0..4 {
        for rank in 0..4 {
            for step in 0..50 {
                for row in 0..8 {
                    seen.insert(start(Sampler { seed, rank, world: 4 }, step, row));
                }
            }
        }
    }
    assert_eq!(seen.len(), 4 * 4 * 50 * 8);
    assert_ne!(start(SAMPLER, 0, 0), start(Sampler { seed: 8, ..SAMPLER }, 0, 0));
    // Resuming a run relies on these values never changing.
    assert_eq!([0, 1, 2].map(|step| SAMPLER.start(step, 0, 8, 1_000_000, 256)), [34_090, 925_385, 406_612]);
}

#[test]
fn starts_are_uniform_over_the_whole_range() {
    let (tokens, context) = (26, 16);
    let mut counts = [0usize; 10];
    for step in 0..5000 {
        for row in 0..4 {
            counts[SAMPLER.start(step, row, 4, tokens, context)] += 1;
        }
    }
    // 2,000 expected each, with a standard deviation of 42.
    assert!(counts.iter().all(|c| (1800..2200).contains(c)), "{counts:?}");
    assert_eq!(SAMPLER.start(1, 1, 4, 17, 16), 0);
    assert_eq!(SAMPLER.start(1, 1, 4, 0, 16), 0);
}

#[test]
fn training_labels_are_ids_shifted_by_one() {
    let dir = folder();
    let shard = shard(&dir, &(0..1000).collect::<Vec<u32>>(), 1000);
    let (mut ids, mut labels) = ([0; 4 * 32], [0; 4 * 32]);
    SAMPLER.training_batch(&shard, 5, 4, 32, &mut ids, &mut labels).unwrap();
    for row in 0..4 {
        let start = SAMPLER.start(5, row, 4, 1000, 32) as i32;
        for i in 0..32 {
            assert_eq!(ids[row * 32 + i], start + i as i32);
            assert_eq!(labels[row * 32 + i], start + i as i32 + 1);
        }
    }
    let mut short = [0; 5];
    error_with(SAMPLER.training_batch(&shard, 0, 4, 32, &mut short, &mut labels), &["4 x 32", "5 ids"]);
    let stray = Sampler { rank: 2, world: 2, ..SAMPLER };
    error_with(stray.training_batch(&shard, 0, 4, 32, &mut ids, &mut labels), &["rank 2"]);
    error_with(SAMPLER.training_batch(&shard, 0, 1, 0, &mut [], &mut []), &["context is 0"]);
}

#[test]
fn a_shard_shorter_than_a_window_is_an_error() {
    let dir = folder();
    let shard = shard(&dir, &[1; 16], 2);
    check_length(&shard, 15).unwrap();
    error_with(check_length(&shard, 16), &["shard.bin", "16 tokens", "context 16", "at most 15"]);
    error_with(check_length(&shard, usize::MAX), &["at most 15"]);
    error_with(check_length(&shard, 0), &["context is 0"]);
    let (mut ids, mut labels) = ([0; 16], [0; 16]);
    error_with(SAMPLER.training_batch(&shard, 0, 1, 16, &mut ids, &mut labels), &["shard.bin"]);
}

#[test]
fn validation_windows_cover_every_token_once() {
    let dir = folder();
    for len in [0u32, 1, 2, 8, 9, 16, 17, 24, 25, 63, 64, 65, 100] {
        let shard = shard(&dir, &(0..len).collect::<Vec<u32>>(), 1000);
        let (batch, context) = (3, 8);
        let (mut ids, mut labels) = ([9; 24], [9; 24]);
        let mut targets = Vec::new();
        for index in 0.. {
            let scored = validation_batch(&shard, index, batch, context, &mut ids, &mut labels).unwrap();
            let kept = labels.iter().filter(|&&l| l != IGNORED).count();
            assert_eq!(scored, kept);
            for (i, (&id, &label)) in ids.iter().zip(&labels).enumerate() {
                let position = index * 24 + i;
                assert_eq!(id, if position < len as usize { position as i32 } else { 0 });
                if label != IGNORED {
                    assert_eq!(label, id + 1);
                    targets.push(label);
                }
            }
            if scored == 0 {
                break;
            }
        }
        assert_eq!(targets, (1..len as i32).collect::<Vec<_>>(), "{len} tokens");
        let far = validation_batch(&shard, usize::MAX, batch, context, &mut ids, &mut labels).unwrap();
        assert_eq!((far, ids, labels), (0, [0; 24], [IGNORED; 24]));
        error_with(validation_batch(&shard, 0, 2, context, &mut ids, &mut labels), &["2 x 8"]);
        error_with(validation_batch(&shard, 0, 2, 0, &mut [], &mut []), &["context is 0"]);
    }
}

#[test]
fn overlapping_windows_score_every_token_once_with_enough_before_it() {
    let dir = folder();
    let (batch, context) = (3, 8);
    for len in [0u32, 1, 2, 8, 9, 10, 16, 17, 25, 63, 64, 65] {
        let shard = shard(&dir, &(0..len).collect::<Vec<u32>>(), 1000);
        for stride in 1..=context {
            let (mut ids, mut labels) = ([9; 24], [9; 24]);
            let mut targets = Vec::new();
            for index in 0.. {
                let sizes = (batch, context, stride);
                let scored = overlapping_batch(&shard, index, sizes, &mut ids, &mut labels).unwrap();
                assert_eq!(scored, labels.iter().filter(|&&l| l != IGNORED).count());
                for (row, (ids, labels)) in ids.chunks(context).zip(labels.chunks(context)).enumerate() {
                    let start = (index * batch + row) * stride;
                    for (at, (&id, &label)) in ids.iter().zip(labels).enumerate() {
                        if label != IGNORED {
                            assert_eq!((id, label), ((start + at) as i32, id + 1));
                            assert!(start == 0 || at >= context - stride, "{at} of a window with stride {stride}");
                            targets.push(label);
                        }
                    }
                }
                if stride == context {
                    let (mut same, mut too) = ([0; 24], [0; 24]);
                    let count = validation_batch(&shard, index, batch, context, &mut same, &mut too).unwrap();
                    assert_eq!((count, same, too), (scored, ids, labels));
                }
                if scored == 0 {
                    break;
                }
            }
            assert_eq!(targets, (1..len as i32).collect::<Vec<_>>(), "{len} tokens, stride {stride}");
        }
        let batch = |index, stride| overlapping_batch(&shard, index, (1, 8, stride), &mut [0; 8], &mut [0; 8]);
        assert_eq!(batch(usize::MAX, 8).unwrap(), 0);
        error_with(batch(0, 0), &["stride of 0", "1..=8"]);
        error_with(batch(0, 9), &["stride of 9", "1..=8"]);
    }
}
