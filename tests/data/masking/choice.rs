//! Which tokens of a row are chosen, and what replaces them.

use super::*;

#[test]
fn shares_match_the_configuration() {
    let dir = folder();
    let (words, context, batch) = (1000, 128, 16);
    let tokens = [shard(dir.path(), FIRST..FIRST + words, 1005, None)];
    let mut masking = Masking::new(MaskingConfig::default(), &numbers(1000), context).expect("masking");
    assert_eq!(masking.slots(), 19);
    let (mut masked, mut changed, mut kept, mut places) = (0, 0, 0, vec![0; context]);
    let steps = 300;
    for step in 0..steps {
        for row in train(&mut masking, SAMPLER, &tokens, step, (batch, batch, context, false)).rows(batch) {
            assert_eq!((row.ids.len(), row.chosen.len()), (context, 19));
            for (at, label, shown) in row.chosen {
                places[at] += 1;
                match shown {
                    MASK => masked += 1,
                    shown if shown == label => kept += 1,
                    _ => changed += 1,
                }
            }
        }
    }
    let rows = batch * steps as usize;
    let count = rows * 19;
    // One in a thousand random words is the original word.
    within_five_sigma("masked", masked, count, 0.8);
    within_five_sigma("changed", changed, count, 0.1 * 0.999);
    within_five_sigma("kept", kept, count, 0.1 * 1.001);
    // The rate includes special tokens, which are never chosen: 19 of the 126 other tokens are.
    assert_eq!((places[0], places[context - 1]), (0, 0));
    for (at, &found) in places[1..context - 1].iter().enumerate() {
        within_five_sigma(&format!("place {at}"), found, rows, 19.0 / 126.0);
    }
}

#[test]
fn special_tokens_are_neither_chosen_nor_inserted() {
    let dir = folder();
    // Every second token of the text itself is special.
    let ids = (0..400).map(|i| if i % 2 == 0 { [UNK, CLS, SEP, MASK, PAD][i as usize / 2 % 5] } else { FIRST + i % 7 });
    let tokens = [shard(dir.path(), ids, 12, None)];
    let config = MaskingConfig { rate: 0.9, mask: 0.0, random: 1.0, ..MaskingConfig::default() };
    for whole_words in [false, true] {
        let mut masking = Masking::new(MaskingConfig { whole_words, ..config }, &numbers(7), 42).expect("masking");
        let mut shown = HashSet::new();
        for step in 0..50 {
            let batch = train(&mut masking, SAMPLER, &tokens, step, (4, 4, 42, false));
            for (row, labels) in batch.labels.chunks(masking.slots()).enumerate() {
                // Half of the 40 text tokens are not special, and at this rate all of them are chosen.
                assert_eq!(labels.iter().filter(|&&label| label >= FIRST).count(), 20);
                assert!(labels.iter().all(|&label| label >= FIRST || label == IGNORED));
                let positions = &batch.positions[row * masking.slots()..][..20];
                shown.extend(positions.iter().map(|&at| batch.ids[at as usize]));
            }
        }
        assert_eq!(shown, (FIRST..FIRST + 7).collect());
    }
}

#[test]
fn words_are_chosen_whole_or_not_at_all() {
    let dir = folder();
    // Words of 1, 2 and 3 pieces: `w` is the first piece of a word, `##w` a further one.
    let pieces: Vec<String> = (0..300).map(|i| if i % 6 < 3 { format!("w{i}") } else { format!("##w{i}") }).collect();
    let tokenizer = load(&with_tokens("WordPiece", &NAMES, &pieces)).expect("a tokenizer");
    let kinds = tokenizer.kinds();
    let word = |i: i32| -> Vec<i32> {
        let begin = FIRST + i / 3 * 6 + i % 3;
        let more = FIRST + i / 3 * 6 + 3..FIRST + i / 3 * 6 + 3 + i % 3;
        [begin].into_iter().chain(more).collect()
    };
    let tokens = [shard(dir.path(), (0..150).flat_map(word), 305, None)];
    let config = MaskingConfig { rate: 0.25, whole_words: true, ..MaskingConfig::default() };
    let mut masking = Masking::new(config, &tokenizer, 64).expect("masking");
    let mut scored = 0;
    for step in 0..100 {
        for row in train(&mut masking, SAMPLER, &tokens, step, (4, 2, 64, false)).rows(2) {
            let chosen: HashSet<usize> = row.chosen.iter().map(|&(at, ..)| at).collect();
            scored += chosen.len();
            for at in 2..row.ids.len() - 1 {
                if kinds[row.ids[at] as usize] == TokenKind::Continues {
                    assert_eq!(chosen.contains(&at), chosen.contains(&(at - 1)), "{at}: {row:?}");
                }
            }
        }
    }
    // Words that do not fit are skipped, and words of one piece fill the remaining slots.
    assert_eq!((masking.slots(), scored), (16, 100 * 4 * 16));
    // If every word is longer than the number of slots, a part of a word is chosen.
    let config = MaskingConfig { rate: 0.02, whole_words: true, ..config };
    let long = [shard(dir.path(), (0..100).map(|i| FIRST + 2 + i % 4), 305, None)];
    let mut masking = Masking::new(config, &tokenizer, 50).expect("masking");
    let rows = train(&mut masking, SAMPLER, &long, 0, (8, 8, 50, false)).rows(8);
    assert!(rows.iter().all(|row| row.chosen.len() == 1), "{rows:?}");
}

#[test]
fn a_batch_is_a_function_of_seed_step_and_row() {
    let dir = folder();
    let tokens = [shard(dir.path(), FIRST..905, 905, None), shard(dir.path(), FIRST..85, 905, None)];
    let config = MaskingConfig { next_sentence: true, ..MaskingConfig::default() };
    let (tokenizer, context) = (numbers(900), 20);
    let mut masking = Masking::new(config, &tokenizer, context).expect("masking");
    let mut other = Masking::new(config, &tokenizer, context).expect("masking");
    let shape = (8, 8, context, true);
    let first = train(&mut masking, SAMPLER, &tokens, 5, shape);
    train(&mut other, Sampler { seed: 8, ..SAMPLER }, &tokens, 0, shape);
    assert_eq!(first, train(&mut other, SAMPLER, &tokens, 5, shape));
    assert_ne!(first, train(&mut other, SAMPLER, &tokens, 6, shape));
    assert_ne!(first, train(&mut other, Sampler { seed: 8, ..SAMPLER }, &tokens, 5, shape));
    // Positions are relative to their micro-batch.
    let halves = train(&mut masking, SAMPLER, &tokens, 5, (8, 4, context, true));
    assert_eq!(first.positions[..4 * 3], halves.positions[..4 * 3]);
    let moved: Vec<i32> = halves.positions[4 * 3..].iter().map(|at| at + 4 * context as i32).collect();
    assert_eq!(first.positions[4 * 3..], moved);
    assert_eq!(first, Batch { positions: first.positions.clone(), ..halves });
    // The second of two processes continues where the first one ends.
    let rank = |rank, batch| train(&mut masking.clone(), Sampler { rank, world: 2, ..SAMPLER }, &tokens, 5, batch);
    let (all, second) = (rank(0, (8, 4, context, true)), rank(1, (4, 4, context, true)));
    assert_eq!(all.ids[4 * context..], second.ids);
    assert_eq!(all.positions[4 * 3..], second.positions);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn unmasked_rows_are_the_text(
        (context, batch, micro) in (5usize..40, 1usize..5, 1usize..5),
        rate in 0.01f64..0.99,
        (whole_words, documents, next_sentence) in (any::<bool>(), any::<bool>(), any::<bool>()),
        lengths in prop::collection::vec(1usize..70, 2..8),
        seed: u64,
    ) {
        let dir = folder();
        let total: usize = lengths.iter().sum();
        let starts: Vec<usize> = lengths.iter().scan(0, |at, n| { *at += n; Some(*at - n) }).collect();
        let tokens = [shard(dir.path(), FIRST..FIRST + total as i32, 605, Some(&starts))];
        let pack = if documents { Pack::Documents } else { Pack::Stream };
        let config = MaskingConfig { rate, whole_words, pack, next_sentence, ..MaskingConfig::default() };
        let mut masking = Masking::new(config, &numbers(600), context).unwrap();
        let mut made = Batch::new(&masking, batch, context, next_sentence);
        let sampler = Sampler { seed, ..SAMPLER };
        let done = masking.training_batch(&sampler, &tokens[..], 1, (batch, micro), &mut made.out());
        let needed = if next_sentence { 3 * (context - 3) } else { context - 2 };
        prop_assert_eq!(done.is_ok(), documents || total >= needed);
        if done.is_err() {
            return Ok(());
        }
        for row in made.rows(micro) {
            let segments = row.segments();
            prop_assert_eq!(segments.len(), 1 + usize::from(next_sentence));
            for text in segments {
                prop_assert!(!text.is_empty() && text[0] >= FIRST);
                prop_assert!(text.windows(2).all(|pair| pair[0] + 1 == pair[1]));
            }
            let length = row.ids.len();
            let special = 2 + usize::from(next_sentence);
            let wanted = ((rate * length as f64).round() as usize).max(1);
            prop_assert_eq!(row.chosen.len(), wanted.min(length - special));
            prop_assert!(wanted <= masking.slots());
        }
    }
}
