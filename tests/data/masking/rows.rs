//! Which text a row holds: windows, documents, pairs, held-out text.

use super::*;

#[test]
fn held_out_windows_occur_once_with_fixed_masks() {
    let dir = folder();
    let tokens = [shard(dir.path(), FIRST..305, 605, None), shard(dir.path(), 305..318, 605, None)];
    let tokenizer = numbers(600);
    let mut masking = Masking::new(MaskingConfig::default(), &tokenizer, 22).expect("masking");
    let (windows, all) = held_out(&mut masking, &tokens, (3, 22, false));
    assert_eq!((windows.len(), all.len()), (16, 6));
    let rows: Vec<Row> = all.iter().flat_map(|(batch, _)| batch.rows(3)).collect();
    let text: Vec<i32> = rows.iter().flat_map(|row| row.segments().concat()).collect();
    assert_eq!(text, (FIRST..318).collect::<Vec<_>>());
    for (batch, scored) in &all {
        assert_eq!(*scored, batch.labels.iter().filter(|&&label| label != IGNORED).count());
    }
    // Rows past the end have nothing to predict, but two tokens to attend to.
    let last = &all[5].0.rows(3)[1..];
    assert!(last.iter().all(|row| row.ids == [CLS, SEP] && row.chosen.is_empty()), "{last:?}");
    // Full windows are masked at different positions: four of twenty tokens, 4,845 choices.
    let places = |row: &Row| row.chosen.iter().map(|(at, ..)| *at).collect::<Vec<_>>();
    let distinct: HashSet<Vec<usize>> = rows[..15].iter().map(places).collect();
    assert!(distinct.len() >= 14, "{distinct:?}");
    // Another batch size and another object that was used before give the same masks.
    let mut again = Masking::new(MaskingConfig::default(), &tokenizer, 22).expect("masking");
    train(&mut again, SAMPLER, &tokens, 3, (2, 2, 22, false));
    let (_, others) = held_out(&mut again, &tokens, (5, 22, false));
    let others: Vec<Row> = others.iter().flat_map(|(batch, _)| batch.rows(5)).collect();
    for (row, other) in rows.iter().zip(&others).take(16) {
        assert_eq!((&row.ids, &row.chosen), (&other.ids, &other.chosen));
    }
    let mut beyond = Batch::new(&masking, 2, 22, false);
    let scored = masking.held_out_batch(&tokens, &windows, usize::MAX, (2, 2), &mut beyond.out()).expect("a batch");
    assert_eq!(scored, 0);
}

#[test]
fn documents_are_padded_and_not_mixed() {
    let dir = folder();
    // The first shard's third document continues in the second shard.
    let starts = [0, 7, 60];
    let tokens = [shard(dir.path(), FIRST..105, 905, Some(&starts)), shard(dir.path(), 105..205, 905, Some(&[4, 99]))];
    let bounds = [FIRST, 12, 65, 105, 109, 204, 205];
    let pieces: HashSet<Vec<i32>> = bounds
        .windows(2)
        .flat_map(|pair| (pair[0]..pair[1]).collect::<Vec<_>>().chunks(20).map(<[i32]>::to_vec).collect::<Vec<_>>())
        .collect();
    let config = MaskingConfig { pack: Pack::Documents, ..MaskingConfig::default() };
    let mut masking = Masking::new(config, &numbers(900), 22).expect("masking");
    let (windows, all) = held_out(&mut masking, &tokens, (4, 22, false));
    let shown: Vec<Vec<i32>> = all.iter().flat_map(|(batch, _)| batch.rows(4)).map(|r| r.segments().concat()).collect();
    assert_eq!(windows.len(), pieces.len());
    assert_eq!(shown.concat(), (FIRST..205).collect::<Vec<_>>());
    assert!(shown.iter().filter(|text| !text.is_empty()).all(|text| pieces.contains(text)), "{shown:?}");
    let (mut seen, mut of_first, rows) = (HashSet::new(), 0, 8 * 400);
    for step in 0..400 {
        for row in train(&mut masking, SAMPLER, &tokens, step, (8, 8, 22, false)).rows(8) {
            let text = row.segments().concat();
            assert!(pieces.contains(&text), "{text:?}");
            of_first += usize::from(text[0] == FIRST);
            seen.insert(text);
        }
    }
    assert_eq!(seen, pieces);
    // Every token is drawn equally often, and seven of two hundred are in the first document.
    within_five_sigma("rows of the first document", of_first, rows, 7.0 / 200.0);
}

#[test]
fn half_of_the_second_segments_are_the_continuation() {
    let dir = folder();
    for pack in [Pack::Stream, Pack::Documents] {
        let starts: Vec<usize> = (0..900).step_by(45).collect();
        let tokens = [shard(dir.path(), FIRST..905, 905, Some(&starts))];
        let config = MaskingConfig { pack, next_sentence: true, ..MaskingConfig::default() };
        let mut masking = Masking::new(config, &numbers(900), 33).expect("masking");
        let (mut follow, mut count) = (0, 0);
        for step in 0..200 {
            for row in train(&mut masking, SAMPLER, &tokens, step, (8, 4, 33, true)).rows(4) {
                let segments = row.segments();
                let [a, b] = segments[..] else { panic!("{row:?}") };
                let (last, begin) = (a[a.len() - 1], b[0]);
                assert!(a.windows(2).chain(b.windows(2)).all(|pair| pair[0] + 1 == pair[1]), "{row:?}");
                let document = |id: i32| (id - FIRST) / 45;
                match row.next {
                    Some(0) => assert_eq!(last + 1, begin),
                    Some(1) if pack == Pack::Documents => {
                        assert_ne!(document(last), document(begin));
                        assert_eq!((begin - FIRST) % 45 % 30, 0, "the second segment should begin at a piece");
                    }
                    // `a` is the first part of a window of 30 tokens; the text right after that window is never drawn.
                    Some(1) => assert!(a[0] + 30 < begin || b[b.len() - 1] < a[0], "{row:?}"),
                    other => panic!("{other:?}"),
                }
                (follow, count) = (follow + usize::from(row.next == Some(0)), count + 1);
            }
        }
        within_five_sigma("continuations", follow, count, 0.5);
        let (windows, all) = held_out(&mut masking, &tokens, (7, 33, true));
        let next: Vec<i32> = all.iter().flat_map(|(batch, _)| batch.next.clone()).collect();
        assert!(next[..windows.len()].iter().all(|next| [0, 1].contains(next)));
        assert!(next[windows.len()..].iter().all(|&next| next == IGNORED), "{next:?}");
    }
}
