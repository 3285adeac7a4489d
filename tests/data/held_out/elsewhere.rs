//! Next-sentence prediction: a second segment that is not the continuation comes from an unrelated place. In a stream,
//! it neither overlaps nor directly follows the window that the first segment is cut from, and every other place can be
//! drawn.

use std::collections::HashSet;

use proptest::prelude::*;
use tempfile::tempdir;
use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::tokens::masking::{MaskedBatch, Masking, MaskingConfig};
use vcycle::data::tokens::sampler::Sampler;
use vcycle::data::tokens::shard::{Shard, write_shard};

use super::support::{Folder, masked_rows, words};
use vcycle::data::loader::batch::Field;

/// Number of special tokens, whose ids come before those of the text.
const SPECIAL: i32 = 5;

/// Where a segment is: file, begin and end.
type Place = (usize, usize, usize);

/// Draws rows from files of the given sizes, in which each token encodes its own position. Returns for each row whether
/// the second segment is the continuation of the first, and where both are.
fn draw(sizes: &[usize], context: usize, seed: u64, steps: u64) -> Vec<(bool, [Place; 2])> {
    thread_local! {
        static TOKENIZER: Tokenizer = Tokenizer::load(&words(&Folder::new(), 2000)).expect("a tokenizer");
    }
    let dir = tempdir().expect("a folder");
    let mut begin = SPECIAL as u32;
    let shards: Vec<Shard> = sizes
        .iter()
        .enumerate()
        .map(|(number, &size)| {
            let path = dir.path().join(format!("{number}.bin"));
            let ids: Vec<u32> = (begin..).take(size).collect();
            begin += size as u32;
            write_shard(&path, &ids, 2005).expect("written");
            Shard::open(&path).expect("a shard")
        })
        .collect();
    let place = |ids: &[i32]| {
        assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ids:?} are not contiguous");
        let (mut file, mut at) = (0, (ids[0] - SPECIAL) as usize);
        while at >= sizes[file] {
            at -= sizes[file];
            file += 1;
        }
        assert!(at + ids.len() <= sizes[file], "{ids:?} span two files");
        (file, at, at + ids.len())
    };
    TOKENIZER.with(|tokenizer| {
        let config = MaskingConfig { next_sentence: true, ..MaskingConfig::default() };
        let mut masking = Masking::new(config, tokenizer, context).expect("masking");
        let sampler = Sampler { seed, rank: 0, world: 1 };
        let (rows, mut all) = (32, Vec::new());
        for step in 0..steps {
            let each = [context, context, context, masking.slots(), masking.slots(), 1];
            let mut fields = each.map(|each| vec![0; rows * each]);
            let [ids, types, mask, positions, labels, next] = &mut fields;
            let mut batch = MaskedBatch { ids, types, mask, positions, labels, next };
            masking.training_batch(&sampler, &shards[..], step, (rows, rows), &mut batch).expect("a batch");
            let fields = fields.map(Field::Ints);
            let special = tokenizer.special_tokens().expect("special tokens");
            for row in masked_rows(&fields, (context, rows), special) {
                let [first, second] = &row.segments[..] else { panic!("{row:?}") };
                assert_eq!(first.len() + second.len(), context - 3, "{row:?}");
                all.push((row.next == Some(0), [place(first), place(second)]));
            }
        }
        all
    })
}

/// Whether the second segment neither overlaps nor directly follows the window of `width` tokens that the first begins.
fn are_apart([first, second]: [Place; 2], width: usize) -> bool {
    let window_end = first.1 + width;
    first.0 != second.0 || second.2 <= first.1 || second.1 > window_end
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn second_segments_follow_or_are_unrelated(
        context in 5usize..24,
        more in 0usize..30,
        others in prop::collection::vec(1usize..60, 0..3),
        seed in any::<u64>(),
    ) {
        // The file is hardly longer than the minimum, so that places next to the window are drawn often.
        let width = context - 3;
        let sizes: Vec<usize> = [vec![3 * width + more], others].concat();
        for (follows, segments) in draw(&sizes, context, seed, 12) {
            let [first, second] = segments;
            if follows {
                prop_assert_eq!((first.0, first.2), (second.0, second.1));
            } else {
                prop_assert!(are_apart(segments, width), "{:?} of windows of {}", segments, width);
            }
        }
    }
}

#[test]
fn every_unrelated_place_is_drawn() {
    let (context, width) = (9, 6);
    let sizes = [22, 9];
    let mut seen = HashSet::new();
    for (follows, segments) in draw(&sizes, context, 3, 3000) {
        if !follows {
            seen.insert(segments);
        }
    }
    // All windows, cut at all positions; the second segment has as many tokens as remain.
    let mut all = HashSet::new();
    for (file, &size) in sizes.iter().enumerate() {
        for (begin, cut) in (0..=size - width).flat_map(|begin| (1..width).map(move |cut| (begin, cut))) {
            let rest = width - cut;
            for (other, &size) in sizes.iter().enumerate() {
                let segments = (0..=size - rest).map(|at| [(file, begin, begin + cut), (other, at, at + rest)]);
                all.extend(segments.filter(|segments| are_apart(*segments, width)));
            }
        }
    }
    assert!(seen == all, "{} places of {}", seen.len(), all.len());
}
