//! Token shards and prepared folders.
//!
//! Not detected in a shard alone: tokens that become other tokens of the vocabulary, and a larger vocabulary size with
//! the same token width. Both are detected in a prepared folder, by the checksums in its `data.json`.

use crate::judge::{folder, judge, write};
use crate::mutate::{self, Case};
use std::path::{Path, PathBuf};
use vcycle::data::prepared::cache::{DataSpec, open_shard, prepare};
use vcycle::data::text::HeldOut;
use vcycle::data::tokens::shard::{Shard, write_shard};

/// The content of a shard.
#[derive(Clone, Debug, PartialEq)]
struct Content {
    vocab: usize,
    tokens: Vec<i32>,
}

fn content(shard: &Shard) -> vcycle::error::Result<Content> {
    let mut tokens = vec![0; shard.len()];
    shard.read(0, &mut tokens)?;
    Ok(Content { vocab: shard.vocab_size(), tokens })
}

fn read(path: PathBuf) -> impl FnOnce() -> vcycle::error::Result<Content> {
    move || content(&Shard::open(&path)?)
}

fn cases(valid: &[u8], seed: u64) -> Vec<Case> {
    let mut cases = mutate::bytes(valid, &[8, 12, 16, 24, 32, 64, valid.len()], seed, 60);
    cases.extend((0..64 * 8).map(|i| mutate::flip(valid, i / 8, i as u32 % 8)));
    for at in [16, 24] {
        for number in [0, 1, u64::from(u32::MAX), 1 << 31, 1 << 62, 1 << 63, u64::MAX, u64::MAX / 2 + 1] {
            let mut bytes = valid.to_vec();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            cases.push(Case { name: format!("{number} at {at}"), bytes });
        }
    }
    cases
}

#[test]
fn damaged_shards() {
    let dir = folder();
    let path = dir.path().join("tokens.bin");
    for (vocab, seed) in [(300, 1), (70_000, 2)] {
        let tokens: Vec<u32> = (0..500u32).map(|i| i * i % vocab).collect();
        write_shard(&path, &tokens, vocab as usize).expect("a shard");
        let valid = std::fs::read(&path).expect("bytes");
        let original = read(path.clone())().expect("a valid shard");
        let width = if vocab == 300 { 2 } else { 4 };
        for Case { name, bytes } in cases(&valid, seed) {
            write(&path, &bytes);
            let Ok(found) = judge("tokens.bin", &name, read(path.clone())) else { continue };
            assert_eq!(found.tokens.len(), original.tokens.len(), "{name}");
            assert!(found.tokens.iter().all(|&t| (t as usize) < found.vocab), "{name}");
            // Tokens differ exactly where bytes differ.
            let same_header = valid[..64] == bytes[..64];
            assert!(same_header || valid[..16] == bytes[..16] && valid[24..64] == bytes[24..64], "{name}");
            for (i, (a, b)) in original.tokens.iter().zip(&found.tokens).enumerate() {
                let range = 64 + i * width..64 + (i + 1) * width;
                assert_eq!(a == b, valid[range.clone()] == bytes[range], "{name}: token {i}");
            }
        }
    }
    mutate::in_place_of(&path.clone(), |name| {
        judge("tokens.bin", name, read(path.clone())).expect_err(name);
    });
}

/// NumPy arrays, whose headers are text. Not detected: tokens that become other tokens of the vocabulary.
#[test]
fn damaged_arrays() {
    let dir = folder();
    let path = dir.path().join("tokens.npy");
    let tokens: Vec<u8> = (0..500u32).flat_map(|i| ((i * i % 300) as u16).to_le_bytes()).collect();
    let header = format!("{:117}\n", "{'descr': '<u2', 'fortran_order': False, 'shape': (500,), }");
    let valid = [b"\x93NUMPY\x01\0\x76\0", header.as_bytes(), &tokens].concat();
    let read = |path: PathBuf| move || content(&Shard::open_any(&path, Some(300))?);
    write(&path, &valid);
    let original = read(path.clone())().expect("a valid array");
    assert_eq!(original.tokens.len(), 500);
    let mut cases = mutate::bytes(&valid, &[6, 8, 10, 64, 128, valid.len()], 5, 60);
    cases.extend((0..128 * 8).map(|i| mutate::flip(&valid, i / 8, i as u32 % 8)));
    for (from, to) in
        [("500,", "18446744073709551615,"), ("500,", "-1,"), ("500,", ""), ("<u2", "<u4"), ("500,", "250, 2")]
    {
        let bytes = String::from_utf8_lossy(&valid[10..128]).replacen(from, to, 1);
        let length = (bytes.len() as u16).to_le_bytes();
        cases.push(Case { name: to.to_owned(), bytes: [&valid[..8], &length, bytes.as_bytes(), &tokens].concat() });
    }
    for Case { name, bytes } in cases {
        write(&path, &bytes);
        let Ok(found) = judge("tokens.npy", &name, read(path.clone())) else { continue };
        assert_eq!(found.tokens.len(), 500, "{name}");
        assert!(valid[128..] != bytes[bytes.len() - 1000..] || found == original, "{name}");
    }
}

/// Prepares the text, or reads the cached folder, as training does. Returns the training and held-out tokens.
fn prepared(dir: &Path) -> vcycle::error::Result<[Content; 2]> {
    let spec = DataSpec {
        text: dir.join("text.txt"),
        tokenizer: "bpe:300".into(),
        held_out: HeldOut { prefix: None, every: 4 },
        field: "text".into(),
    };
    let data = prepare(&spec, &dir.join("cache"), &mut |_| {})?;
    assert_eq!(data.tokenizer.vocab_size(), data.train.vocab_size());
    Ok([content(&data.train)?, content(&data.valid)?])
}

#[test]
fn damaged_prepared_folders_are_rebuilt() {
    let dir = folder();
    let text: String = (0..200).map(|i| format!("line {i} of a text of some two hundred lines\n")).collect();
    write(&dir.path().join("text.txt"), text.as_bytes());
    let original = prepared(dir.path()).expect("a prepared folder");
    let cache = std::fs::read_dir(dir.path().join("cache"))
        .expect("a folder")
        .next()
        .expect("an entry")
        .expect("an entry")
        .path();
    for file in ["train.bin", "valid.bin", "tokenizer.json", "data.json"] {
        let path = cache.join(file);
        let valid = std::fs::read(&path).expect("bytes");
        let mut cases = mutate::bytes(&valid, &[64], 3, 2);
        if file == "data.json" {
            cases.extend(mutate::json(&serde_json::from_slice(&valid).expect("JSON"), 4, 4));
        }
        for Case { name, bytes } in cases {
            write(&path, &bytes);
            if file.ends_with(".bin") {
                let shard = path.clone();
                judge(file, &name, move || open_shard(&shard, None).map(|_| ())).expect_err(&name);
            }
            let at = dir.path().to_path_buf();
            let found = judge("cache", &name, move || prepared(&at)).expect("a rebuilt folder");
            assert!(found == original, "{file}: {name}");
        }
        mutate::in_place_of(&path, |name| {
            if name == "a folder" {
                return; // May belong to someone else, so it is not removed; tested below.
            }
            let at = dir.path().to_path_buf();
            let found = judge("cache", name, move || prepared(&at)).expect("a rebuilt folder");
            assert!(found == original, "{file}: {name}");
        });
        prepared(dir.path()).expect("a valid folder");
    }
    // A folder with the name of a file may belong to someone else, so it is not removed and the file cannot be rebuilt.
    let path = cache.join("train.bin");
    std::fs::remove_file(&path).expect("removed");
    std::fs::create_dir(&path).expect("a folder");
    let at = dir.path().to_path_buf();
    judge("cache", "a folder for train.bin", move || prepared(&at)).expect_err("a folder in place of a file");
}
