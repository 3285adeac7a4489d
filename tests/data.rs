//! Text, tokenizers, shards, batches and the cache, from outside.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proptest::prelude::*;
use tempfile::TempDir;
use vcycle::data::prepare::{DataSpec, Dataset, prepare};
use vcycle::data::sampler::{IGNORED, Sampler, check_length, validation_batch};
use vcycle::data::shard::{Shard, write_shard};
use vcycle::data::text::{HeldOut, read_text, split};
use vcycle::data::tokenizer::Tokenizer;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn file(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("write a test file");
    path
}

/// The error's text, which must have all of `parts`.
fn error_with<T>(result: vcycle::error::Result<T>, parts: &[&str]) -> String {
    let Err(error) = result else { panic!("no error; wanted one with {parts:?}") };
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    text
}

/// Twelve small documents with blank lines, numbers and characters of one to four bytes.
fn documents() -> String {
    (0..12)
        .map(|i| {
            format!(
                "== {i} Título {} ==\n\nThe quick brown fox number {i} jumped; it's 日本 and 🦊.\n\n{}\n",
                i * 7,
                "Fellow citizens of the Senate, the state of the union is strong.\n".repeat(3 + i)
            )
        })
        .collect()
}

fn by_prefix(prefix: &str, every: usize) -> HeldOut {
    HeldOut { prefix: Some(prefix.to_owned()), every }
}

fn by_size(every: usize) -> HeldOut {
    HeldOut { prefix: None, every }
}

// ---------------------------------------------------------------------------------------------------------------------
// text
// ---------------------------------------------------------------------------------------------------------------------

fn compressed(text: &str) -> Vec<u8> {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    compress_to_vec(text.as_bytes(), CompressionLevel::Fastest)
}

#[test]
fn reads_plain_and_compressed_text() {
    let dir = folder();
    let text = documents();
    assert_eq!(read_text(&file(&dir, "a.txt", &text)).unwrap(), text);
    assert_eq!(read_text(&file(&dir, "a.txt.zst", compressed(&text))).unwrap(), text);

    let mut frames = compressed(&text);
    frames.extend(0x184D_2A53u32.to_le_bytes());
    frames.extend(5u32.to_le_bytes());
    frames.extend(b"notes");
    frames.extend(compressed("and more"));
    let both = read_text(&file(&dir, "b.zst", frames)).unwrap();
    assert_eq!(both, text + "and more");
}

#[test]
fn unreadable_text_names_file_and_remedy() {
    let dir = folder();
    error_with(read_text(&dir.path().join("none.txt")), &["cannot read", "none.txt"]);
    error_with(read_text(dir.path()), &["folder", "name one text file"]);
    error_with(read_text(&file(&dir, "empty.txt", "")), &["empty.txt", "give a file"]);
    error_with(read_text(&file(&dir, "empty.zst", "")), &["empty.zst", "give a file"]);
    error_with(read_text(&file(&dir, "blank.txt", " \n\t\n")), &["blank.txt", "whitespace", "give"]);
    error_with(
        read_text(&file(&dir, "latin.txt", b"one\ntwo\ncaf\xe9\n")),
        &["latin.txt", "byte 11", "line 3", "iconv"],
    );
    error_with(read_text(&file(&dir, "not.zst", "plain text")), &["not.zst", "Zstandard", "again"]);

    let whole = compressed(&documents());
    for length in [3, 9, whole.len() / 2, whole.len() - 1] {
        error_with(read_text(&file(&dir, "cut.zst", &whole[..length])), &["cut.zst", "corrupt", "again"]);
    }
    let mut flipped = whole.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    error_with(read_text(&file(&dir, "flip.zst", flipped)), &["flip.zst", "checksum"]);
    let mut skip = whole;
    skip.extend(0x184D_2A50u32.to_le_bytes());
    skip.extend(u32::MAX.to_le_bytes());
    error_with(read_text(&file(&dir, "skip.zst", skip)), &["skip.zst", "cut short"]);
}

#[test]
fn split_holds_out_every_nth_document() {
    let text = "before\n== a\n1\n== b\n2\n== c\n3\n== d\n4\n== e\n5";
    let (train, valid) = split(text, &by_prefix("== ", 2)).unwrap();
    assert_eq!(train, "before\n== a\n1\n== c\n3\n== e\n5");
    assert_eq!(valid, "== b\n2\n== d\n4\n");
    let (train, valid) = split(text, &by_prefix("== ", 5)).unwrap();
    assert_eq!(train, "before\n== a\n1\n== b\n2\n== c\n3\n== d\n4\n");
    assert_eq!(valid, "== e\n5");
}

#[test]
fn split_by_size_cuts_at_line_ends() {
    let text: String = (0..5000).map(|i| format!("line {i} é\n")).collect();
    let (train, valid) = split(&text, &by_size(10)).unwrap();
    assert_eq!(train.len() + valid.len(), text.len());
    let share = valid.len() as f64 / text.len() as f64;
    assert!((0.09..0.11).contains(&share), "{share}");
    let mut lines: Vec<&str> = train.lines().chain(valid.lines()).collect();
    lines.sort_unstable();
    let mut expected: Vec<&str> = text.lines().collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    // Piece 9 of 100 is the first held out.
    let first = text.find(valid.lines().next().unwrap()).unwrap() as f64 / text.len() as f64;
    assert!((0.09..0.091).contains(&first), "{first}");
}

#[test]
fn impossible_splits_say_what_to_change() {
    let text = "== a\n1\n== b\n2\n";
    error_with(split(text, &by_prefix("== ", 0)), &["data.held_out_every is 0", "2 or more"]);
    error_with(split(text, &by_size(1)), &["data.held_out_every is 1", "2 or more"]);
    error_with(split(text, &by_prefix("## ", 2)), &["data.document_prefix \"## \"", "check it"]);
    error_with(split(text, &by_prefix("", 2)), &["data.document_prefix is empty"]);
    error_with(split(text, &by_prefix("a\nb", 2)), &["spans lines"]);
    error_with(
        split(text, &by_prefix("== ", 3)),
        &["nothing is held out", "2 documents", "data.held_out_every to at most 2"],
    );
    error_with(split(text, &by_size(101)), &["nothing is held out", "at most"]);
    error_with(split("one line", &by_size(2)), &["1 piece;", "at least two"]);
    error_with(split("\n\n\nx\n", &by_size(4)), &["nothing is left to train on"]);
}

proptest! {
    #[test]
    fn split_loses_nothing(text in "(== |x|é|\n|\r\n| ){0,60}", every in 2usize..5, documents: bool) {
        let held_out = if documents { by_prefix("== ", every) } else { by_size(every) };
        if let Ok((train, valid)) = split(&text, &held_out) {
            prop_assert_eq!(train.len() + valid.len(), text.len());
            let sorted = |s: String| { let mut b = s.into_bytes(); b.sort_unstable(); b };
            prop_assert_eq!(sorted(train + &valid), sorted(text));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// tokenizer
// ---------------------------------------------------------------------------------------------------------------------

fn trained() -> &'static Tokenizer {
    static BPE: OnceLock<Tokenizer> = OnceLock::new();
    BPE.get_or_init(|| Tokenizer::from_spec("bpe:320", &documents()).unwrap())
}

proptest! {
    #[test]
    fn byte_and_bpe_round_trip_any_text(text in r"(\PC|[ \n\t\r]|the |<unk>|\x00){0,80}") {
        let byte = Tokenizer::from_spec("byte", "").unwrap();
        let ids = byte.encode(&text).unwrap();
        prop_assert_eq!(ids.len(), text.len());
        prop_assert_eq!(byte.decode(&ids).unwrap(), text.clone());
        let ids = trained().encode(&text).unwrap();
        prop_assert!(ids.iter().all(|&id| (id as usize) < trained().vocab_size()));
        prop_assert_eq!(trained().decode(&ids).unwrap(), text);
    }

    #[test]
    fn char_round_trips_seen_characters(text in r"(\PC|[ \n\t\r]|<unk>|\x00){1,80}") {
        let tokenizer = Tokenizer::from_spec("char", &text).unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(ids.len(), text.chars().count());
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}

#[test]
fn char_numbers_characters_by_code_point() {
    let tokenizer = Tokenizer::from_spec("char", "hello é\n").unwrap();
    assert_eq!(tokenizer.vocab_size(), 8);
    assert_eq!(tokenizer.encode("\n ehloé").unwrap(), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(tokenizer.encode("zzh").unwrap(), [7, 7, 3]);
    assert_eq!(tokenizer.decode(&[7, 3]).unwrap(), "<unk>h");
}

#[test]
fn byte_ids_are_byte_values() {
    let tokenizer = Tokenizer::from_spec("byte", "").unwrap();
    assert_eq!(tokenizer.vocab_size(), 256);
    assert_eq!(tokenizer.encode("A\n é\0").unwrap(), [65, 10, 32, 0xc3, 0xa9, 0]);
    assert!(tokenizer.encode("").unwrap().is_empty());
}

#[test]
fn bpe_is_deterministic_and_bounded() {
    let dir = folder();
    let text = documents();
    let mut files = Vec::new();
    for name in ["a.json", "b.json", "c.json"] {
        let tokenizer = Tokenizer::from_spec("bpe:300", &text).unwrap();
        assert_eq!(tokenizer.vocab_size(), 300);
        let path = dir.path().join(name);
        tokenizer.save(&path).unwrap();
        files.push(fs::read(path).unwrap());
    }
    assert!(files.windows(2).all(|pair| pair[0] == pair[1]));
    assert!(Tokenizer::from_spec("bpe:5000", "a b a b").unwrap().vocab_size() <= 5000);
    let longer = text.repeat(40);
    assert_eq!(trained().encode(&longer).unwrap(), trained().encode(&longer).unwrap());
}

#[test]
fn pieces_change_no_token() {
    let dir = folder();
    let path = dir.path().join("tokenizer.json");
    let text = format!("{}\n\n\n  tail \r\n\r\nend  \n", documents().repeat(12));
    let modern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    for spec in ["char", "byte", "bpe:320", "modern"] {
        let base = if spec == "modern" { "bpe:320" } else { spec };
        Tokenizer::from_spec(base, &text).unwrap().save(&path).unwrap();
        if spec == "modern" {
            // The split of Llama 3, whose tokens may end in newlines, with the merge that shows it.
            let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            json["pre_tokenizer"] = serde_json::json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": modern}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            ]});
            json["model"]["vocab"][".Ċ"] = serde_json::json!(320);
            let merges = json["model"]["merges"].as_array_mut().unwrap();
            merges.insert(0, serde_json::json!([".", "Ċ"]));
            fs::write(&path, json.to_string()).unwrap();
        }
        let ours = Tokenizer::load(&path).unwrap().encode(&text).unwrap();
        let whole = tokenizers::Tokenizer::from_file(&path).unwrap().encode_fast(text.as_str(), false).unwrap();
        assert!(ours == whole.get_ids(), "{spec}: the pieces' tokens differ from the whole text's");
        assert!(spec != "modern" || ours.contains(&320));
    }
}

#[test]
fn saved_tokenizers_load_without_truncation_or_padding() {
    let dir = folder();
    let path = dir.path().join("tokenizer.json");
    trained().save(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["truncation"] = serde_json::json!(
        {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({"strategy": {"Fixed": 4000}, "direction": "Right",
        "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    fs::write(&path, json.to_string()).unwrap();
    let text = documents();
    let loaded = Tokenizer::from_spec(path.to_str().unwrap(), "").unwrap();
    assert_eq!(loaded.encode(&text).unwrap(), trained().encode(&text).unwrap());
    assert_eq!(loaded.vocab_size(), trained().vocab_size());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left");
}

/// A path that nobody can write: its folder is the file `bad.json`.
fn path_below_a_file(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join("bad.json").join(name)
}

#[test]
fn bad_tokenizers_are_errors() {
    let dir = folder();
    for spec in ["", "word", "BYTE", "no/such/place"] {
        error_with(Tokenizer::from_spec(spec, "a"), &["`char`", "`byte`", "`bpe:N`", "tokenizer.json"]);
    }
    for spec in ["bpe:", "bpe:256", "bpe:-1", "bpe:x", "bpe:99999999999999999999999", "bpe:999999999999"] {
        error_with(Tokenizer::from_spec(spec, "a"), &[spec, "257"]);
    }
    error_with(Tokenizer::from_spec("none.json", "a"), &["cannot read", "none.json"]);
    for content in ["", "{}", "[1", "\u{0}", r#"{"model":{"type":"BPE","vocab":{},"merges":[]}}"#] {
        let path = file(&dir, "bad.json", content);
        error_with(Tokenizer::load(&path), &["bad.json"]);
    }
    error_with(Tokenizer::load(dir.path()), &["cannot read"]);
    error_with(trained().decode(&[1, 320]), &["token 320", "position 1", "320"]);
    error_with(trained().save(&path_below_a_file(&dir, "t.json")), &["cannot create", "bad.json"]);
}

// ---------------------------------------------------------------------------------------------------------------------
// shard
// ---------------------------------------------------------------------------------------------------------------------

fn shard(dir: &TempDir, tokens: &[u32], vocab_size: usize) -> Shard {
    let path = dir.path().join("shard.bin");
    write_shard(&path, tokens, vocab_size).unwrap();
    Shard::open(&path).unwrap()
}

#[test]
fn shards_round_trip_at_both_widths() {
    let dir = folder();
    for (vocab_size, bytes) in [(1usize, 2u64), (65_536, 2), (65_537, 4), (i32::MAX as usize, 4)] {
        let tokens: Vec<u32> = (0..1000u64).map(|i| (i * 0x9e37_79b9 % vocab_size as u64) as u32).collect();
        let shard = shard(&dir, &tokens, vocab_size);
        assert_eq!((shard.len(), shard.vocab_size(), shard.is_empty()), (1000, vocab_size, false));
        assert_eq!(fs::metadata(shard.path()).unwrap().len(), 64 + 1000 * bytes);
        assert!((0..1000).all(|i| shard.token(i) == tokens[i]));
        let mut out = [0; 990];
        shard.read(10, &mut out).unwrap();
        assert!(out.iter().zip(&tokens[10..]).all(|(&a, &b)| a as u32 == b));
        error_with(shard.read(11, &mut out), &["shard.bin", "990", "11", "1000"]);
        error_with(shard.read(usize::MAX, &mut out), &["shard.bin"]);
    }
    assert!(shard(&dir, &[], 5).is_empty());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file is left");
}

#[test]
fn tokens_beyond_the_vocabulary_are_not_written() {
    let dir = folder();
    let path = dir.path().join("x.bin");
    error_with(write_shard(&path, &[1, 2, 5], 5), &["x.bin", "token 5", "position 2", "vocabulary size 5"]);
    error_with(write_shard(&path, &[], 0), &["x.bin", "vocabulary size 0"]);
    error_with(write_shard(&path, &[], 1 << 31), &["x.bin", "vocabulary size"]);
    std::fs::write(dir.path().join("bad.json"), "").unwrap();
    error_with(write_shard(&path_below_a_file(&dir, "x.bin"), &[], 5), &["cannot create", "bad.json"]);
    assert!(!path.exists());
}

#[test]
fn hostile_shards_are_errors() {
    let dir = folder();
    let good = {
        let shard = shard(&dir, &(0..100).collect::<Vec<u32>>(), 100);
        fs::read(shard.path()).unwrap()
    };
    let changed = |at: usize, bytes: &[u8]| {
        let mut copy = good.clone();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        copy
    };
    let mut longer = good.clone();
    longer.push(0);
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("header cut", good[..63].to_vec()),
        ("cut", good[..good.len() - 1].to_vec()),
        ("a token short", good[..good.len() - 2].to_vec()),
        ("longer", longer),
        ("magic", changed(0, b"X")),
        ("version", changed(8, &2u32.to_le_bytes())),
        ("width 4", changed(12, &4u32.to_le_bytes())),
        ("width 0", changed(12, &0u32.to_le_bytes())),
        ("vocabulary 0", changed(16, &0u64.to_le_bytes())),
        ("vocabulary huge", changed(16, &u64::MAX.to_le_bytes())),
        ("count", changed(24, &99u64.to_le_bytes())),
        ("count huge", changed(24, &u64::MAX.to_le_bytes())),
        ("count wraps", changed(24, &((1u64 << 63) + 100).to_le_bytes())),
        ("rest", changed(63, &[1])),
    ] {
        let path = file(&dir, "bad.bin", bytes);
        let text = error_with(Shard::open(&path), &["bad.bin", "prepared again"]);
        println!("{name}: {text}");
    }
    error_with(Shard::open(dir.path()), &["not a regular file"]);
    error_with(Shard::open(&dir.path().join("none.bin")), &["cannot read", "none.bin"]);

    let path = file(&dir, "beyond.bin", changed(64 + 2 * 42, &100u16.to_le_bytes()));
    let shard = Shard::open(&path).unwrap();
    let mut out = [0; 10];
    shard.read(30, &mut out).unwrap();
    error_with(shard.read(40, &mut out), &["beyond.bin", "token 100", "position 42", "vocabulary size 100"]);
}

proptest! {
    #[test]
    fn any_header_opens_or_is_an_error(at in 0usize..64, byte: u8, cut in 0usize..100) {
        let dir = folder();
        let path = dir.path().join("s.bin");
        write_shard(&path, &[1, 2, 3, 4], 9).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] = byte;
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(50)));
        fs::write(&path, bytes).unwrap();
        if let Ok(shard) = Shard::open(&path) {
            let mut out = vec![0; shard.len()];
            let _ = shard.read(0, &mut out);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// sampler
// ---------------------------------------------------------------------------------------------------------------------

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
    // Resuming a run relies on these staying what they are.
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

// ---------------------------------------------------------------------------------------------------------------------
// prepare
// ---------------------------------------------------------------------------------------------------------------------

fn spec(text: &Path, tokenizer: &str) -> DataSpec {
    DataSpec { text: text.to_owned(), tokenizer: tokenizer.to_owned(), held_out: by_prefix("== ", 4) }
}

/// The data and every note, one a line.
fn prepared(spec: &DataSpec, cache: &Path) -> (Dataset, String) {
    let notes = RefCell::new(String::new());
    let data = prepare(spec, cache, &mut |note| {
        notes.borrow_mut().push_str(note);
        notes.borrow_mut().push('\n');
    });
    (data.unwrap(), notes.into_inner())
}

fn tokens(shard: &Shard) -> Vec<u32> {
    (0..shard.len()).map(|i| shard.token(i)).collect()
}

#[test]
fn prepared_data_is_the_split_text() {
    let dir = folder();
    let text = file(&dir, "talks.v1.txt.zst", compressed(&documents()));
    let cache = dir.path().join("deep/cache");
    for tokenizer in ["char", "byte", "bpe:300"] {
        let spec = spec(&text, tokenizer);
        let (data, notes) = prepared(&spec, &cache);
        let (train, valid) = split(&documents(), &spec.held_out).unwrap();
        assert_eq!(data.tokenizer.decode(&tokens(&data.train)).unwrap(), train);
        assert_eq!((data.train_bytes, data.valid_bytes), (train.len() as u64, valid.len() as u64));
        if tokenizer != "char" {
            assert_eq!(data.tokenizer.decode(&tokens(&data.valid)).unwrap(), valid);
        }
        assert_eq!(data.train.vocab_size(), data.tokenizer.vocab_size());
        let name = data.dir.file_name().unwrap().to_str().unwrap();
        let hash = name.strip_prefix("talks-v1-").unwrap();
        assert!(hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
        for part in ["reading ", "talks.v1.txt.zst", &format!("training {tokenizer} on "), "training tokens"] {
            assert!(notes.contains(part), "{part:?} is not in {notes}");
        }
    }
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 3, "something temporary is left");
}

#[test]
fn preparing_twice_reuses_and_any_change_does_not() {
    let dir = folder();
    let cache = dir.path().join("cache");
    let text = file(&dir, "a.txt", documents());
    let first = spec(&text, "byte");
    let (data, _) = prepared(&first, &cache);
    let written = |name: &str| fs::metadata(data.dir.join(name)).unwrap().modified().unwrap();
    let before = written("train.bin");
    let (again, notes) = prepared(&first, &cache);
    assert!(notes.starts_with("using ") && notes.lines().count() == 1, "{notes}");
    assert_eq!((again.dir.as_path(), written("train.bin")), (data.dir.as_path(), before));
    assert_eq!(tokens(&again.train), tokens(&data.train));

    let saved = data.dir.join("tokenizer.json");
    let copy = file(&dir, "t.json", fs::read(saved).unwrap());
    let mut folders = HashSet::from([data.dir.clone()]);
    let mut fresh = |spec: &DataSpec| assert!(folders.insert(prepared(spec, &cache).0.dir));
    fresh(&spec(&text, "char"));
    fresh(&DataSpec { held_out: by_prefix("== ", 5), ..first.clone() });
    fresh(&DataSpec { held_out: by_size(5), ..first.clone() });
    fresh(&spec(&text, copy.to_str().unwrap()));
    Tokenizer::from_spec("char", &documents()).unwrap().save(&copy).unwrap();
    fresh(&spec(&text, copy.to_str().unwrap()));
    fs::write(&text, documents().replace("fox", "cat")).unwrap();
    fresh(&first);
}

#[test]
fn damage_is_noted_and_repaired() {
    let dir = folder();
    let cache = dir.path().join("cache");
    let spec = spec(&file(&dir, "a.txt", documents()), "bpe:300");
    let (data, _) = prepared(&spec, &cache);
    let good = tokens(&data.train);
    let at = |name: &str| data.dir.join(name);
    let flip = |name: &str| {
        let mut bytes = fs::read(at(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        // As a new file: the mapped one must not change under `data`.
        fs::remove_file(at(name)).unwrap();
        fs::write(at(name), bytes).unwrap();
    };
    let check = |what: &str, part: &str| {
        let (repaired, notes) = prepared(&spec, &cache);
        assert!(notes.contains("training bpe:300"), "{what}: {notes}");
        assert!(notes.contains(part), "{what}: {part:?} is not in {notes}");
        assert_eq!(tokens(&repaired.train), good, "{what}");
        assert!(prepared(&spec, &cache).1.starts_with("using "), "{what}");
    };
    for name in ["train.bin", "valid.bin", "tokenizer.json"] {
        flip(name);
        check(name, "preparing the data again");
        fs::remove_file(at(name)).unwrap();
        check(name, name);
        fs::remove_file(at(name)).unwrap();
        fs::write(at(name), "").unwrap();
        check(name, name);
    }
    fs::write(at("data.json"), "{").unwrap();
    check("data.json cut", "data.json");
    let facts = fs::read_to_string(at("data.json")).unwrap();
    fs::write(at("data.json"), facts.replace("\"format\": 1", "\"format\": 0")).unwrap();
    check("data.json format", "damaged");
    fs::remove_file(at("data.json")).unwrap();
    check("data.json gone", "reading");
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1, "something temporary is left");
}

#[test]
fn preparing_at_once_agrees() {
    let dir = folder();
    let cache = dir.path().join("cache");
    let text = file(&dir, "a.txt", documents());
    let (spec, cache) = (&spec(&text, "bpe:280"), cache.as_path());
    let all: Vec<(Vec<u32>, Vec<u32>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6).map(|_| scope.spawn(|| prepared(spec, cache).0)).collect();
        workers.into_iter().map(|w| w.join().unwrap()).map(|data| (tokens(&data.train), tokens(&data.valid))).collect()
    });
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(fs::read_dir(cache).unwrap().count(), 1, "something temporary is left");
}

#[test]
fn failures_leave_nothing_behind() {
    let dir = folder();
    let cache = dir.path().join("cache");
    let text = file(&dir, "a.txt", documents());
    let fail = |spec: &DataSpec, cache: &Path, parts: &[&str]| {
        error_with(prepare(spec, cache, &mut |_| ()), parts);
    };
    fail(&spec(&text, "word"), &cache, &["unknown tokenizer `word`", "bpe:N"]);
    fail(&spec(&text, "none.json"), &cache, &["none.json"]);
    fail(&spec(&dir.path().join("none.txt"), "byte"), &cache, &["none.txt"]);
    let sparse = DataSpec { held_out: by_prefix("== ", 99), ..spec(&text, "byte") };
    fail(&sparse, &cache, &["a.txt", "12 documents", "at most 12"]);
    fail(&spec(&text, "byte"), &text, &["cannot create folder", "a.txt"]);
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "something temporary is left");
}
