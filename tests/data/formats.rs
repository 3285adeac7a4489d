//! Token files of other programs, several files as one stream, and damaged files.

use super::*;
use crate::shard::shard;
use std::sync::Arc;
use vcycle::data::tokens::Tokens;
use vcycle::data::tokens::formats::Format;
use vcycle::data::tokens::shard_writer::{Boundaries, ShardWriter};

/// Builds a file like llm.c's `write_datafile`.
fn llm_c(magic: u32, version: u32, tokens: &[u32]) -> Vec<u8> {
    let mut header = [0u32; 256];
    (header[0], header[1], header[2]) = (magic, version, tokens.len() as u32);
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    let width = if version == 1 { 2 } else { 4 };
    tokens.iter().for_each(|token| bytes.extend_from_slice(&token.to_le_bytes()[..width]));
    bytes
}

fn nano_gpt(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|&token| (token as u16).to_le_bytes()).collect()
}

fn tokens() -> Vec<u32> {
    (0..5000u32).map(|i| i * 7919 % 50_257).collect()
}

#[test]
fn files_of_other_programs_are_read_as_they_are() {
    let dir = folder();
    let (narrow, wide) = (tokens(), tokens().iter().map(|t| t * 2).collect::<Vec<u32>>());
    for (name, bytes, tokens, format) in [
        ("gpt2.bin", llm_c(20_240_520, 1, &narrow), &narrow, Format::LlmC),
        ("llama3.bin", llm_c(20_240_801, 7, &wide), &wide, Format::LlmC),
        ("nano.bin", nano_gpt(&narrow), &narrow, Format::NanoGpt),
    ] {
        let path = file(&dir, name, bytes);
        let vocab = if name == "llama3.bin" { 128_256 } else { 50_257 };
        let shard = Shard::open_any(&path, Some(vocab)).unwrap();
        assert_eq!((shard.format(), shard.len(), shard.vocab_size()), (format, 5000, vocab), "{name}");
        assert_eq!((shard.documents(), shard.states_vocabulary()), (None, false), "{name}");
        let mut out = vec![0; 4990];
        shard.read(10, &mut out).unwrap();
        assert!(out.iter().zip(&tokens[10..]).all(|(&a, &b)| a as u32 == b), "{name}");
        error_with(shard.document_start(0), &[name, "data prepare"]);
        let limit = tokens[..4096].iter().max().map(|&id| id as usize);
        let text = error_with(Shard::open_any(&path, limit), &[name, "position", "vocabulary size", "data.vocab"]);
        assert!(!text.contains("damaged"), "{text}");
        error_with(Shard::open(&path), &[name, "VCYCTOK1"]);
    }
    // Beyond the tokens that are checked when a file is opened.
    let mut late = tokens();
    late[4500] = 60_000;
    let shard = Shard::open_any(&file(&dir, "late.bin", nano_gpt(&late)), Some(50_257)).unwrap();
    let mut out = vec![0; 1000];
    error_with(shard.read(4000, &mut out), &["late.bin", "token 60000", "position 4500", "50257"]);
}

#[test]
fn damaged_files_are_refused() {
    let dir = folder();
    let good = llm_c(20_240_520, 1, &tokens());
    let mut long = good.clone();
    long.push(0);
    for (name, bytes, says) in [
        ("cut.bin", good[..good.len() - 2].to_vec(), &["5000 tokens of 2 bytes", "9998 bytes"][..]),
        ("long.bin", long, &["5000 tokens of 2 bytes", "10001 bytes"]),
        ("header.bin", good[..1000].to_vec(), &["1024-byte header"]),
        ("version.bin", llm_c(20_240_520, 2, &tokens()), &["version 2", "reads 1"]),
        ("odd.bin", vec![1; 9], &["9 bytes", "two-byte"]),
        ("zip.bin", vec![0x1f, 0x8b, 8, 0], &["compressed"]),
        (
            "text.bin",
            b"Some text that was named like tokens, by mistake.".repeat(2),
            &["text, not tokens", "data.text"],
        ),
        ("large.bin", [0x50, 0xc3].repeat(50), &["token 50000 at position 0", "vocabulary size"]),
    ] {
        error_with(Shard::open_any(&file(&dir, name, bytes), Some(20_000)), &[&[name], says].concat());
    }
    error_with(Shard::open_any(dir.path(), None), &["not a regular file"]);
}

#[test]
fn documents_are_stored_and_checked() {
    let dir = folder();
    let path = dir.path().join("d.bin");
    let write = |starts: &[usize], continues: bool| {
        let mut writer = ShardWriter::create(&path, 300, Boundaries::Known { continues }).unwrap();
        for i in 0..7 {
            if starts.contains(&i) {
                writer.begin_document();
            }
            writer.push(&[i as u32]).unwrap();
        }
        assert_eq!((writer.len(), writer.documents()), (7, starts.len() as u64));
        writer.commit().unwrap();
    };
    for (starts, continues) in [(&[0][..], false), (&[0, 3, 6], false), (&[], true), (&[2, 4], true)] {
        write(starts, continues);
        let shard = Shard::open(&path).unwrap();
        assert_eq!(
            (shard.format(), shard.documents(), shard.continues()),
            (Format::Vcycle2, Some(starts.len()), continues)
        );
        let found: Vec<usize> = (0..starts.len()).map(|i| shard.document_start(i).unwrap()).collect();
        assert_eq!(found, starts);
        error_with(shard.document_start(starts.len()), &["d.bin", "no document"]);
        assert!((0..7).all(|i| shard.token(i) == i as u32));
    }
    write(&[0, 3, 6], false);
    let good = fs::read(&path).unwrap();
    // 7 tokens of two bytes, padded to 80, then the starts.
    assert_eq!(good.len(), 80 + 3 * 8);
    for (at, value) in [(32, 2u64), (32, u64::MAX), (40, 1), (40, 2), (44, 1), (80, 1), (96, 7)] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()[..4]);
        error_with(Shard::open(&file(&dir, "bad.bin", bytes)), &["bad.bin", "prepared again"]);
    }
    let mut bytes = good;
    bytes[88] = 0;
    let shard = Shard::open(&file(&dir, "order.bin", bytes)).unwrap();
    error_with(shard.document_start(1), &["order.bin", "out of order"]);
    drop(ShardWriter::create(&dir.path().join("never.bin"), 5, Boundaries::Unknown).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "an unfinished file is left");
}

#[test]
fn several_files_are_one_stream() {
    let dir = folder();
    let all = tokens();
    let parts = [&all[..900], &all[900..909], &all[909..2000], &all[2000..]];
    let paths: Vec<PathBuf> =
        parts.iter().enumerate().map(|(i, part)| file(&dir, &format!("part-{i}.bin"), nano_gpt(part))).collect();
    let stream = Tokens::open(&paths, Some(50_257)).unwrap();
    assert_eq!(stream.len(), 5000);
    let of_folder = Tokens::open(&[dir.path().to_owned()], Some(50_257)).unwrap();
    assert!(of_folder.as_ref().iter().map(Shard::path).eq(paths.iter().map(PathBuf::as_path)));

    // Training: each window lies in one file, and windows come from all files that can hold one.
    let (sampler, batch, context) = (Sampler { seed: 3, rank: 0, world: 1 }, 50, 16);
    let (mut ids, mut labels) = (vec![0; batch * context], vec![0; batch * context]);
    let mut seen = HashSet::new();
    let position = |window: &[i32]| {
        let first = window.iter().map(|&id| id as u32);
        (0..4985).find(|&at| first.clone().eq(all[at..at + 16].iter().copied())).expect("a window of the stream")
    };
    for step in 0..20 {
        sampler.training_batch(&stream, step, batch, context, &mut ids, &mut labels).unwrap();
        for (ids, labels) in ids.chunks(context).zip(labels.chunks(context)) {
            let at = position(ids);
            assert!(ids[1..] == labels[..context - 1] && all[at + context] as i32 == labels[context - 1]);
            let file = |at: usize| [900, 909, 2000].iter().filter(|&&end| at >= end).count();
            assert_eq!(file(at), file(at + context));
            assert_ne!(file(at), 1, "nine tokens hold no window");
            seen.insert(file(at));
        }
    }
    assert_eq!(seen.len(), 3);

    // Validation: every token except the first of each file is scored once, also if a file ends at the end of a window.
    for context in [1, 8, 16, 899] {
        let (mut ids, mut labels) = (vec![0; context], vec![0; context]);
        let mut scored: Vec<i32> = Vec::new();
        for index in 0.. {
            if validation_batch(&stream, index, 1, context, &mut ids, &mut labels).unwrap() == 0 {
                break;
            }
            scored.extend(labels.iter().filter(|&&label| label != IGNORED));
        }
        let wanted: Vec<i32> = parts.iter().flat_map(|part| part[1..].iter().map(|&t| t as i32)).collect();
        assert!(scored == wanted, "context {context}");
    }
    check_length(&stream, 2999).unwrap();
    error_with(check_length(&stream, 3000), &["part-3.bin", "3000 tokens", "at most 2999"]);

    error_with(Tokens::open(&[], None), &["no token file"]);
    error_with(Tokens::open(&[paths[0].clone(), paths[0].clone()], None), &["part-0.bin", "twice"]);
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    error_with(Tokens::open(std::slice::from_ref(&empty), None), &["empty", "no .bin or .npy file"]);
    file(&dir, "empty/data.json", "{}");
    error_with(Tokens::open(&[empty], None), &["data.prepared"]);
    error_with(Tokens::open(&[dir.path().join("none.bin")], None), &["cannot read", "none.bin"]);
}

#[test]
fn one_shard_alone_is_sampled_as_ever() {
    let dir = folder();
    let (mut ids, mut labels, mut others) = (vec![0; 32], vec![0; 32], [vec![0; 32], vec![0; 32]]);
    let sampler = Sampler { seed: 7, rank: 1, world: 3 };
    let single = shard(&dir, &tokens(), 50_257);
    let stream = Arc::new(Tokens::from(shard(&dir, &tokens(), 50_257)));
    for step in 0..20 {
        let [a, b] = &mut others;
        sampler.training_batch(&single, step, 2, 16, &mut ids, &mut labels).unwrap();
        sampler.training_batch(&*stream, step, 2, 16, a, b).unwrap();
        assert_eq!((&ids, &labels), (&*a, &*b));
        let start = sampler.start(step, 1, 2, 5000, 16);
        assert_eq!(ids[16] as u32, tokens()[start]);
    }
}
