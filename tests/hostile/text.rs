//! Texts, plain and compressed. The zstd frames made here have checksums, as those of the `zstd` tool do, so that all
//! damage is detected.
//!
//! Not detected: damage to a plain text that leaves it valid UTF-8.

use crate::judge::{folder, judge, write};
use crate::mutate::{self, Case};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use vcycle::data::text::{HeldOut, read_text, split};

fn text() -> String {
    (0..400).map(|i| format!("line {} of ä text, {}\n", i * i, i % 7)).collect()
}

#[test]
fn damaged_archives() {
    let dir = folder();
    let path = dir.path().join("text.zst");
    let valid = compress_to_vec(text().as_bytes(), CompressionLevel::Fastest);
    write(&path, &valid);
    assert_eq!(read_text(&path).expect("a valid archive"), text());
    let end = valid.len();
    for Case { name, bytes } in mutate::bytes(&valid, &[4, 5, 6, 9, end / 2, end - 4, end], 1, 100) {
        write(&path, &bytes);
        let at = path.clone();
        let Ok(found) = judge("text.zst", &name, move || read_text(&at)) else { continue };
        // Two concatenated archives are one valid archive.
        assert!(found == text() || bytes.len() == 2 * end && found == text().repeat(2), "{name}");
    }
    mutate::in_place_of(&path.clone(), |name| {
        let at = path.clone();
        judge("text.zst", name, move || read_text(&at)).expect_err(name);
    });
}

/// A frame of run-length blocks, each of 4 bytes that expand to 128 KiB of the letter a.
fn bomb(blocks: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    for i in 0..blocks {
        let header = u32::from(i + 1 == blocks) | 1 << 1 | 131_072 << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.push(b'a');
    }
    frame
}

/// A frame, and the magic number of a second one.
const FOUND: &[u8] = b"\x28\xb5\x2f\xfd\x68\x34\x69\x63\x10\0\0\x28\xb5\x2f\xfd\xff\xff\xff\xff\xff\xff\xff\xff\x01\0\0\0\0\x04\x04\x4c\x68\x65";

#[test]
fn hostile_archives() {
    let dir = folder();
    let path = dir.path().join("text.zst");
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    let claims = |rest: &[u8]| [&magic[..], rest].concat();
    let skippable = |length: u32, bytes: usize| {
        [&0x184d_2a50u32.to_le_bytes()[..], &length.to_le_bytes(), &vec![0; bytes]].concat()
    };
    for (name, bytes) in [
        ("a bomb of ten gigabytes", bomb(80_000)),
        ("bombs one after the other", bomb(600).repeat(200)),
        ("a window of 2^41", claims(&[0x00, 0xff, 0x01, 0x00, 0x00])),
        ("a window of 256 MiB", claims(&[0x00, 0x90, 0x21, 0x00, 0x00, b'a', b'b', b'c', b'\n'])),
        ("a window of 16 MiB for a frame that is none, found by fuzzing", FOUND.to_vec()),
        ("a size of 2^64 - 1", claims(&[0xe0, 255, 255, 255, 255, 255, 255, 255, 255, 0x01, 0x00, 0x00])),
        ("a dictionary", claims(&[0x03, 0x58, 1, 2, 3, 4, 0x01, 0x00, 0x00])),
        ("a reserved block", claims(&[0x00, 0x58, 0x07, 0x00, 0x00])),
        ("only a magic number", claims(&[])),
        ("an empty frame", claims(&[0x20, 0x00, 0x01, 0x00, 0x00])),
        ("a skippable frame cut short", skippable(u32::MAX, 10)),
        ("only skippable frames", skippable(10, 10).repeat(1000)),
        ("not an archive", b"just a text\n".to_vec()),
        ("not UTF-8", compress_to_vec(&b"caf\xe9\n"[..], CompressionLevel::Fastest)),
        ("blank", compress_to_vec(&b" \n \n"[..], CompressionLevel::Fastest)),
    ] {
        write(&path, &bytes);
        let at = path.clone();
        judge("text.zst", name, move || read_text(&at)).expect_err(name);
    }
    // As large a window as zstd itself accepts.
    write(&path, &claims(&[0x00, 0x88, 0x21, 0x00, 0x00, b'a', b'b', b'c', b'\n']));
    let at = path.clone();
    assert_eq!(judge("text.zst", "a window of 128 MiB", move || read_text(&at)).expect("a text"), "abc\n");
    write(&path, &bomb(100));
    assert_eq!(read_text(&path).expect("a small one is a text").len(), 100 << 17);
}

#[test]
fn damaged_texts() {
    let dir = folder();
    let path = dir.path().join("text.txt");
    let valid = text().into_bytes();
    for Case { name, bytes } in mutate::bytes(&valid, &[1, 100, valid.len()], 2, 60) {
        write(&path, &bytes);
        let at = path.clone();
        let Ok(found) = judge("text.txt", &name, move || read_text(&at)) else { continue };
        assert_eq!(found.as_bytes(), bytes, "{name}");
        for (prefix, every) in [(None, 2), (None, usize::MAX), (Some("line 4"), 3), (Some("\0"), 2), (Some("ä"), 2)] {
            let held_out = HeldOut { prefix: prefix.map(str::to_owned), every };
            if let Ok((train, valid)) = split(&found, &held_out) {
                assert_eq!(train.len() + valid.len(), found.len(), "{name}: {held_out:?}");
            }
        }
    }
    for (name, bytes) in [
        ("Latin-1", &b"one\ntwo caf\xe9\n"[..]),
        ("UTF-16", b"\xff\xfeo\x00n\x00e\x00"),
        ("an overlong zero", b"a\xc0\x80b"),
        ("a surrogate", b"a\xed\xa0\x80b"),
        ("beyond Unicode", b"a\xf5\x80\x80\x80b"),
        ("a character cut short", b"abc \xe2\x82"),
        ("blank", b"\n\t \r\n"),
    ] {
        write(&path, bytes);
        let at = path.clone();
        judge("text.txt", name, move || read_text(&at)).expect_err(name);
    }
    mutate::in_place_of(&path.clone(), |name| {
        let at = path.clone();
        judge("text.txt", name, move || read_text(&at)).expect_err(name);
    });
}

/// gzip files, whose members have checksums, and padding after them.
#[test]
fn damaged_gzip() {
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;
    let dir = folder();
    let path = dir.path().join("text.txt.gz");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text().as_bytes()).expect("compressed");
    let member = encoder.finish().expect("compressed");
    for padding in [0, 700] {
        let valid = [&member[..], &vec![0; padding]].concat();
        let end = member.len();
        for Case { name, bytes } in mutate::bytes(&valid, &[4, 10, end / 2, end - 8, end, valid.len()], 3, 100) {
            write(&path, &bytes);
            let at = path.clone();
            let Ok(found) = judge("text.txt.gz", &name, move || read_text(&at)) else { continue };
            // Damage to a member's name, time or system does not affect the text; two members are one text.
            assert!(found == text() || found == text().repeat(2), "{name}, {padding} zeros");
        }
    }
}

/// JSON lines: if a damaged line is read and serde_json also accepts it, both find the same text.
#[test]
fn damaged_json_lines() {
    let dir = folder();
    let path = dir.path().join("text.jsonl");
    let line =
        r#"{"id": [1, {"a": "b]"}], "text": "a \"text\" with \u00e9 and \ud83e\udd8a", "score": -1.5e3, "last": null}"#;
    for Case { name, bytes } in mutate::bytes(line.as_bytes(), &[1, 8, 24, 33, 40, line.len() - 1, line.len()], 4, 400)
    {
        write(&path, &bytes);
        let at = path.clone();
        let Ok(found) = judge("text.jsonl", &name, move || read_text(&at)) else { continue };
        let strict: Result<Vec<serde_json::Value>, _> =
            String::from_utf8_lossy(&bytes).lines().map(serde_json::from_str).collect();
        if let Ok(lines) = strict {
            let texts: Vec<&str> = lines.iter().filter_map(|line| line["text"].as_str()).collect();
            assert_eq!(found, texts.join("\n"), "{name}");
        }
    }
    let deep = |open: &str, close: &str| {
        format!("{{\"x\": {}{}, \"text\": \"a\"}}\n", open.repeat(1 << 20), close.repeat(1 << 20))
    };
    for (name, bytes, reads) in [
        ("a million brackets", deep("[", "]"), true),
        ("a million objects", deep("{\"a\":", "}"), true),
        ("a million brackets that do not end", deep("[", ""), false),
        ("brackets that do not match", deep("[{", "]}"), false),
        ("a million keys", format!("{{{}\"text\": \"a\"}}", "\"k\": 1, ".repeat(1 << 20)), true),
        ("a string that does not end", format!("{{\"text\": \"a\", \"x\": \"{}", "\\\"".repeat(1 << 20)), false),
    ] {
        write(&path, bytes.as_bytes());
        let at = path.clone();
        assert_eq!(judge("text.jsonl", name, move || read_text(&at)).is_ok(), reads, "{name}");
    }
}

/// Tables of labelled texts: no label is missing in what is read.
#[test]
fn damaged_tables() {
    use vcycle::data::labelled::{Classification, Labels};
    use vcycle::data::tokenizer::Tokenizer;
    let dir = folder();
    let path = dir.path().join("table.tsv");
    let table: String = (0..40).map(|i| format!("text {i}\t{}\n", ["no", "yes", "", "-"][i % 4])).collect();
    for skip in [true, false] {
        let columns = format!("sentence = \"sentence\"\nlabel = \"label\"\nskip_unlabelled = {skip}");
        let config: vcycle::data::labelled::ClassifyConfig = toml::from_str(&columns).expect("columns");
        let valid = format!("\u{feff}sentence\tlabel\n{table}").into_bytes();
        for Case { name, bytes } in mutate::bytes(&valid, &[1, 3, 12, 19, 40, valid.len()], 5, 150) {
            write(&path, &bytes);
            let (at, config) = (path.clone(), config.clone());
            let done = judge("table.tsv", &name, move || {
                let tokenizer = Tokenizer::from_spec("byte", "")?.with_special_tokens()?;
                Classification::open(&at, &config, None, &tokenizer, 16)
            });
            let Ok(found) = done else { continue };
            let Labels::Classes(labels) = found.labels() else { panic!("{name}: values") };
            assert!(labels.iter().all(|label| !label.trim().is_empty()), "{name}: {labels:?}");
            assert!(skip || !bytes.windows(3).any(|part| part == b"\t\n"), "{name}: a missing label was accepted");
        }
    }
}
