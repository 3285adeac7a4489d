//! Token shards: round trips, and invalid files.

use super::*;
use crate::tokenizer::path_below_a_file;

pub fn shard(dir: &TempDir, tokens: &[u32], vocab_size: usize) -> Shard {
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
