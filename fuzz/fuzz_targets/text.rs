//! Plain text and JSON lines: divided into documents, split, prepared with a tokenizer and decoded again. The first
//! byte selects the file name, the second how documents are delimited.
//!
//! Sources: src/data/text/documents.rs src/data/text/json_line.rs src/data/text/mod.rs src/data/text/reader.rs src/data/text/encodings.rs src/data/prepared/cache.rs src/eval/lambada.rs
#![no_main]

use harness::{Case, Memory, choice, run, same};
use serde_json::Value;
use std::path::Path;
use vcycle::data::prepared::cache::{DataSpec, prepare};
use vcycle::data::text::documents::is_json_lines;
use vcycle::data::text::{FLAGS, HeldOut, Marks, TextSource, read_text, split};
use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::tokens::shard::Shard;
use vcycle::eval::lambada::read_passages;

const NAMES: [&str; 5] = ["text", "text.txt", "text.jsonl", "text.json", "text.md"];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((name, data)) = choice(data) else { return };
    let Some((marks, data)) = choice(data) else { return };
    run(data, Memory { mib: 16, per_byte: 512 }, |case| {
        let name = NAMES[usize::from(name) % NAMES.len()];
        let path = case.file(name, data);
        case.accepted(read_passages(&path), name).inspect(|all| assert!(!all.is_empty()));
        let whole = case.accepted(read_text(&path), name);
        if let Some(text) = &whole {
            if is_json_lines(&path) { strict(data, text) } else { plain(data, text) }
        }
        let marks = match marks % 5 {
            0 | 1 => Marks::None,
            2 => Marks::Prefix("= ".into()),
            3 => Marks::Separator("--".into()),
            _ => Marks::Prefix("\u{e9}".into()),
        };
        let every = 2 + data.len() % 3;
        documents(case, name, &marks, every);
        prepared(case, &path, name, &marks, every);
    });
});

/// Compares the text with the one that a strict JSON parser finds, if it accepts every line.
fn strict(data: &[u8], text: &str) {
    let data = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
    let lines = data.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let lines: Result<Vec<Value>, _> = lines.map(serde_json::from_slice).collect();
    if let Ok(lines) = lines {
        let texts: Vec<&str> =
            lines.iter().filter_map(|line| line["text"].as_str()).filter(|t| !t.is_empty()).collect();
        same("the texts", &text, &texts.join("\n").as_str());
    }
}

fn plain(data: &[u8], text: &str) {
    same("the text", &text.as_bytes(), &data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data));
    for (prefix, every) in [(None, 2), (None, usize::MAX), (Some("= "), 3), (Some("\0"), 2)] {
        let held_out = HeldOut { prefix: prefix.map(str::to_owned), every };
        if let Ok((train, valid)) = split(text, &held_out) {
            assert_eq!(train.len() + valid.len(), text.len(), "{held_out:?}");
        }
    }
}

/// Checks that the encoder yields all tokens of both splits; with the byte tokenizer there is one per byte.
fn documents(case: &Case, name: &str, marks: &Marks, every: usize) {
    let inputs = vec![case.dir.join(name)];
    let source = TextSource { inputs, marks: marks.clone(), field: "text".into(), every, keys: &FLAGS };
    let Some((division, survey)) = case.accepted(source.survey(), "") else { return };
    let bytes = Tokenizer::from_spec("byte", "").expect("a tokenizer");
    let (mut tokens, mut documents) = ([0, 0], 0);
    let read = (&division, &survey);
    let encoded = source.encode(&bytes, read, false, &mut |_| {}, &mut |ids, begins, side| {
        tokens[side] += ids.len() as u64;
        documents += u64::from(begins);
        Ok(())
    });
    encoded.expect("it was just read");
    same("bytes of both splits", &tokens, &survey.bytes);
    same("documents", &documents, &survey.documents);
}

fn decoded(shard: &Shard, tokenizer: &Tokenizer) -> String {
    let mut ids = vec![0; shard.len()];
    shard.read(0, &mut ids).expect("it was just written");
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    tokenizer.decode(&ids).expect("tokens of this tokenizer")
}

fn prepared(case: &Case, path: &Path, name: &str, marks: &Marks, every: usize) {
    let prefix = if let Marks::Prefix(prefix) = marks { Some(prefix.clone()) } else { None };
    let spec = DataSpec {
        text: path.to_owned(),
        tokenizer: if every == 2 { "char" } else { "byte" }.into(),
        held_out: HeldOut { prefix, every },
        field: "text".into(),
    };
    let cache = case.dir.join("cache");
    let Some(data) = case.accepted(prepare(&spec, &cache, &mut |_| {}), "") else { return };
    let sides = [decoded(&data.train, &data.tokenizer), decoded(&data.valid, &data.tokenizer)];
    if spec.tokenizer == "byte" {
        same("bytes", &sides.each_ref().map(|text| text.len() as u64), &[data.train_bytes, data.valid_bytes]);
        if !is_json_lines(path) {
            let text = read_text(path).expect("as before");
            same("the splits", &split(&text, &spec.held_out).ok(), &Some(sides.into()));
        }
    }
    let mut notes = Vec::new();
    prepare(&spec, &cache, &mut |note| notes.push(note.to_owned())).expect("it is there");
    assert!(notes[0].starts_with("using"), "{name}: the cache was not used: {notes:?}");
}
