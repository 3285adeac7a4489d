//! Batches of masked models, from outside: what is chosen, what replaces it, and that it can all be undone.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use vcycle::data::corpus::{Corpus, DataSource, ShardsSpec};
use vcycle::data::masking::{MaskedBatch, Masking, MaskingConfig};
use vcycle::data::prepare::DataSpec;
use vcycle::data::sampler::{IGNORED, Sampler};
use vcycle::data::shard::{Shard, write_shard};
use vcycle::data::shard_writer::{Boundaries, ShardWriter};
use vcycle::data::text::HeldOut;
use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::vocabulary::TokenKind;
use vcycle::data::windows::{Pack, Window};

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
    let Err(error) = result else { panic!("no error; wanted one with {parts:?}") };
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// A model's tokens, special ones first.
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

/// A vocabulary of `count` words, so large that a text can have each word once: what a row shows is then known by it.
fn numbers(count: usize) -> Tokenizer {
    let words: Vec<String> = (0..count).map(|i| format!("w{i}")).collect();
    load(&with_tokens("WordLevel", &NAMES, &words)).expect("a tokenizer")
}

/// A shard of these ids; with `starts`, of documents that begin there.
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

/// A row as it was before it was masked.
#[derive(Debug)]
struct Row {
    /// With special tokens, without padding.
    ids: Vec<i32>,
    /// Positions in the row, labels, and what stands there now.
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

    /// Undoes the masks; checks what holds of every row.
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

/// All batches of held-out text, and what each said it scores.
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

/// That `found` of `count` draws are as likely as chance has it.
fn within_five_sigma(what: &str, found: usize, count: usize, share: f64) {
    let (mean, sigma) = (count as f64 * share, (count as f64 * share * (1.0 - share)).sqrt());
    assert!((found as f64 - mean).abs() <= 5.0 * sigma, "{what}: {found} of {count}, {mean:.0} +- {sigma:.0} expected");
}

#[test]
fn shares_are_those_of_the_configuration() {
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
    // One in a thousand random words is the word that was there.
    within_five_sigma("masked", masked, count, 0.8);
    within_five_sigma("changed", changed, count, 0.1 * 0.999);
    within_five_sigma("kept", kept, count, 0.1 * 1.001);
    // The rate counts special tokens, which are never chosen: 19 of 126 others.
    assert_eq!((places[0], places[context - 1]), (0, 0));
    for (at, &found) in places[1..context - 1].iter().enumerate() {
        within_five_sigma(&format!("place {at}"), found, rows, 19.0 / 126.0);
    }
}

#[test]
fn special_tokens_are_neither_chosen_nor_put_in() {
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
                // Half of the 40 tokens of text are not special, and all of these are wanted.
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
fn all_pieces_of_a_word_or_none() {
    let dir = folder();
    // Words of 1, 2 and 3 pieces: w is piece 0 of a word, ##w a further one.
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
    // Passing over words that are too long leaves no slot free while words of one piece are left.
    assert_eq!((masking.slots(), scored), (16, 100 * 4 * 16));
    // Where every word is longer than there are slots, some of a word.
    let config = MaskingConfig { rate: 0.02, whole_words: true, ..config };
    let long = [shard(dir.path(), (0..100).map(|i| FIRST + 2 + i % 4), 305, None)];
    let mut masking = Masking::new(config, &tokenizer, 50).expect("masking");
    let rows = train(&mut masking, SAMPLER, &long, 0, (8, 8, 50, false)).rows(8);
    assert!(rows.iter().all(|row| row.chosen.len() == 1), "{rows:?}");
}

#[test]
fn words_begin_where_each_kind_of_tokenizer_says() {
    let kinds = |tokenizer: &Tokenizer, text: &str| -> String {
        let (kinds, ids) = (tokenizer.kinds(), tokenizer.encode(text).expect("encoded"));
        let letter = |id: &u32| match kinds[*id as usize] {
            TokenKind::Begins => 'B',
            TokenKind::Continues => 'c',
            TokenKind::Special => 'S',
            TokenKind::Absent => '-',
        };
        ids.iter().map(letter).collect()
    };
    let byte = Tokenizer::from_spec("byte", "").expect("a tokenizer");
    assert_eq!(kinds(&byte, "to be\n\u{120}x"), "ccBccBccc");
    let char = Tokenizer::from_spec("char", "to be\n\u{120}x").expect("a tokenizer");
    assert_eq!(kinds(&char, "to be\n\u{120}x?"), "ccBccBccS");
    let bpe = Tokenizer::from_spec("bpe:300", &"the cats catsup\n".repeat(50)).expect("a tokenizer");
    let (ids, found) = (bpe.encode("the catsup cats").expect("encoded"), kinds(&bpe, "the catsup cats"));
    for (id, kind) in ids.iter().zip(found.chars()) {
        let begins = bpe.decode(&[*id]).expect("decoded").starts_with(' ');
        assert_eq!(kind, if begins { 'B' } else { 'c' });
    }
    assert_eq!(found.matches('B').count(), 2);
    let pieces = ["cat", "##s", "##up"].map(str::to_owned);
    let word_piece = load(&with_tokens("WordPiece", &NAMES, &pieces)).expect("a tokenizer");
    assert_eq!(kinds(&word_piece, "cats catsup [MASK] dog"), "BcBccSS");
    assert_eq!(kinds(&numbers(3), "w0 w1 [SEP]"), "BBS");
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
    // Micro-batches change what positions refer to.
    let halves = train(&mut masking, SAMPLER, &tokens, 5, (8, 4, context, true));
    assert_eq!(first.positions[..4 * 3], halves.positions[..4 * 3]);
    let moved: Vec<i32> = halves.positions[4 * 3..].iter().map(|at| at + 4 * context as i32).collect();
    assert_eq!(first.positions[4 * 3..], moved);
    assert_eq!(first, Batch { positions: first.positions.clone(), ..halves });
    // The second of two processes goes on where the first ends.
    let rank = |rank, batch| train(&mut masking.clone(), Sampler { rank, world: 2, ..SAMPLER }, &tokens, 5, batch);
    let (all, second) = (rank(0, (8, 4, context, true)), rank(1, (4, 4, context, true)));
    assert_eq!(all.ids[4 * context..], second.ids);
    assert_eq!(all.positions[4 * 3..], second.positions);
}

#[test]
fn held_out_windows_come_once_with_the_same_masks() {
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
    // Rows past the end: nothing to predict, but something to attend to.
    let last = &all[5].0.rows(3)[1..];
    assert!(last.iter().all(|row| row.ids == [CLS, SEP] && row.chosen.is_empty()), "{last:?}");
    // Another size of batch, another object, at another time: the same masks.
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
    // The first shard's third document goes on in the second shard.
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
    // Every token as often as any other: seven of two hundred are those of the first document.
    within_five_sigma("rows of the first document", of_first, rows, 7.0 / 200.0);
}

#[test]
fn second_segments_go_on_half_of_the_time() {
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
                        assert_eq!((begin - FIRST) % 45 % 30, 0, "begins with a piece");
                    }
                    Some(1) => assert!(last + 1 < begin || b[b.len() - 1] < a[0], "{row:?}"),
                    other => panic!("{other:?}"),
                }
                (follow, count) = (follow + usize::from(row.next == Some(0)), count + 1);
            }
        }
        within_five_sigma("going on", follow, count, 0.5);
        let (windows, all) = held_out(&mut masking, &tokens, (7, 33, true));
        let told: Vec<i32> = all.iter().flat_map(|(batch, _)| batch.next.clone()).collect();
        assert!(told[..windows.len()].iter().all(|next| [0, 1].contains(next)));
        assert!(told[windows.len()..].iter().all(|&next| next == IGNORED), "{told:?}");
    }
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

#[test]
fn special_tokens_are_found_or_added_at_the_end() {
    let roberta = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];
    let mut json = with_tokens("WordLevel", &roberta, &["a".to_owned()]);
    json["model"]["unk_token"] = json!("<unk>");
    let found = load(&json).expect("a tokenizer").special_tokens().expect("all are there");
    assert_eq!((found.cls, found.pad, found.sep, found.unk, found.mask), (0, 1, 2, Some(3), 4));

    let dir = folder();
    let path = dir.path().join("tokenizer.json");
    for (spec, added) in [("byte", 5), ("bpe:280", 5), ("char", 4)] {
        let text = "the men, ten men\n".repeat(40);
        let before = Tokenizer::from_spec(spec, &text).expect("a tokenizer");
        let size = before.vocab_size();
        error_with(before.special_tokens(), &["[MASK]", "[CLS]"]);
        let plain = before.encode(&text).expect("encoded");
        let after = before.with_special_tokens().expect("extended");
        let special = after.special_tokens().expect("all are there");
        assert_eq!(
            (special.pad, special.mask, after.vocab_size()),
            (size as u32, (size + added - 1) as u32, size + added)
        );
        assert_eq!(after.encode(&text).expect("encoded"), plain);
        assert_eq!(after.decode(&plain).expect("decoded"), text);
        assert_eq!(after.encode("[MASK]the").expect("encoded")[0], special.mask);
        after.save(&path).expect("saved");
        let again = Tokenizer::load(&path).expect("loaded").with_special_tokens().expect("complete");
        assert_eq!((again.special_tokens().expect("all"), again.vocab_size()), (special, size + added));
    }
    // Other programs put the tokens around a text.
    let theirs = tokenizers::Tokenizer::from_file(&path).expect("loaded");
    let pair = theirs.encode(("the", "men"), true).expect("encoded");
    let special = Tokenizer::load(&path).expect("loaded").special_tokens().expect("all are there");
    assert_eq!((pair.get_ids()[0], pair.get_ids()[4], pair.get_ids()[8]), (special.cls, special.sep, special.sep));
    assert_eq!(pair.get_type_ids(), [0, 0, 0, 0, 0, 1, 1, 1, 1]);

    let gpt = with_tokens("WordLevel", &["<|endoftext|>"], &["a".to_owned()]);
    error_with(load(&gpt).expect("a tokenizer").with_special_tokens(), &["[PAD], [CLS], [SEP], [MASK]", "bpe:N"]);
}

#[test]
fn a_corpus_gets_special_tokens_and_room_for_them() {
    let dir = folder();
    let text = dir.path().join("text.txt");
    fs::write(&text, "a line of text\n".repeat(200)).expect("written");
    let held_out = HeldOut { prefix: None, every: 10 };
    let spec = DataSpec { text, tokenizer: "byte".to_owned(), held_out, field: "text".to_owned() };
    let open = |source: DataSource| Corpus::open(&source, dir.path(), &mut |_| {}).expect("data");
    let plain = open(DataSource::Text(spec.clone()));
    let (name, train) = (plain.name(), plain.train.as_ref().as_ref()[0].path().to_owned());
    let extended = plain.with_special_tokens().expect("extended");
    assert_eq!(extended.vocab_size, 261);
    assert_ne!(extended.name(), name);
    let mut masking =
        Masking::new(MaskingConfig::default(), extended.tokenizer.as_ref().expect("a tokenizer"), 16).expect("masking");
    let mut made = Batch::new(&masking, 2, 16, false);
    masking.training_batch(&SAMPLER, &*extended.train, 0, (2, 2), &mut made.out()).expect("a batch");
    // What is cached stays as it was.
    assert_eq!(open(DataSource::Text(spec)).vocab_size, 256);
    let files = ShardsSpec { train: vec![train.clone()], valid: vec![train], tokenizer: None, vocab: None };
    error_with(open(DataSource::Shards(files)).with_special_tokens(), &["data.tokenizer: missing", "[MASK]"]);
}

#[test]
fn what_cannot_be_is_an_error() {
    let config = |text: &str| toml::from_str::<MaskingConfig>(text);
    assert_eq!(config("").expect("defaults"), MaskingConfig::default());
    let read = config("rate = 0.3\npack = \"documents\"\nwhole_words = true").expect("read");
    assert_eq!((read.rate, read.pack, read.whole_words, read.mask), (0.3, Pack::Documents, true, 0.8));
    for wrong in ["rates = 0.1", "pack = \"rows\"", "rate = \"x\""] {
        assert!(config(wrong).is_err(), "{wrong}");
    }
    let tokenizer = numbers(600);
    for (text, key) in [
        ("rate = 0.0", "masking.rate: 0"),
        ("rate = 1.0", "masking.rate: 1"),
        ("rate = nan", "masking.rate: NaN"),
        ("mask = -0.1", "masking.mask: -0.1"),
        ("random = 1.5", "masking.random: 1.5"),
        ("random = 0.3", "0.8 and 0.3"),
    ] {
        error_with(Masking::new(config(text).expect("a form"), &tokenizer, 32), &[key]);
    }
    error_with(Masking::new(MaskingConfig::default(), &tokenizer, 2), &["context of 2", "3"]);
    let byte = Tokenizer::from_spec("byte", "").expect("a tokenizer");
    error_with(Masking::new(MaskingConfig::default(), &byte, 32), &["[MASK]"]);
    let only = load(&with_tokens("WordLevel", &NAMES, &[])).expect("a tokenizer");
    error_with(Masking::new(MaskingConfig::default(), &only, 32), &["special tokens only"]);
    let pieces = load(&with_tokens("WordPiece", &NAMES, &["##a".to_owned()])).expect("a tokenizer");
    let words = MaskingConfig { whole_words: true, ..MaskingConfig::default() };
    error_with(Masking::new(words, &pieces, 32), &["masking.whole_words"]);

    let dir = folder();
    let short = [shard(dir.path(), FIRST..34, 605, None)];
    let batch = |masking: &mut Masking, tokens: &[Shard], pairs| {
        let mut made = Batch::new(masking, 2, 32, pairs);
        masking.training_batch(&SAMPLER, tokens, 0, (2, 1), &mut made.out())
    };
    let mut masking = Masking::new(MaskingConfig::default(), &tokenizer, 32).expect("masking");
    error_with(batch(&mut masking, &short, false), &["29 tokens", "30", "model.context"]);
    error_with(batch(&mut masking, &[], false), &["no token file"]);
    let mut made = Batch::new(&masking, 3, 32, false);
    error_with(masking.training_batch(&SAMPLER, &short[..], 0, (2, 2), &mut made.out()), &["2 x 32", "96"]);
    error_with(masking.training_batch(&SAMPLER, &short[..], 0, (3, 0), &mut made.out()), &["micro-batches of 0"]);
    let stray = Sampler { rank: 1, ..SAMPLER };
    error_with(masking.training_batch(&stray, &short[..], 0, (3, 3), &mut made.out()), &["rank 1"]);
    let documents = MaskingConfig { pack: Pack::Documents, next_sentence: true, ..MaskingConfig::default() };
    let mut masking = Masking::new(documents, &tokenizer, 32).expect("masking");
    error_with(batch(&mut masking, &short, true), &["0.bin", "where documents begin", "data prepare"]);
    let one = [shard(dir.path(), FIRST..34, 605, Some(&[0]))];
    error_with(batch(&mut masking, &one, true), &["1 document,", "2", "next_sentence"]);
    let windows = masking.held_out(&[shard(dir.path(), FIRST..134, 605, Some(&[0, 50]))][..]).expect("windows");
    let mut small = Masking::new(MaskingConfig::default(), &tokenizer, 16).expect("masking");
    let mut made = Batch::new(&small, 1, 16, false);
    error_with(small.held_out_batch(&one[..], &windows, 0, (1, 1), &mut made.out()), &["window 0"]);
}
