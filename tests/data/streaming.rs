//! Streaming gives the same documents, tokens and boundaries as processing the whole text in memory.

use super::*;
use crate::text::compressed;
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use std::io::Write;
use vcycle::data::prepared::folder::{FolderSpec, open_folder, prepare_folder, verify};
use vcycle::data::prepared::manifest::{FolderManifest, Manifest};
use vcycle::data::text::documents::{Division, Documents};
use vcycle::data::text::{FLAGS, Marks, TextSource};
use vcycle::data::tokenizer::encoder::Encoder;

pub fn gzipped(text: &str) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Level::fast());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

/// Documents with blank lines, quotes and long characters, some of many kilobytes.
fn texts() -> Vec<String> {
    (0..23)
        .map(|i| {
            let line = format!("Fellow \"citizens\" of 日本 and 🦊, number {i}.\n");
            format!("== {i}\n\n{}\n\n\n", line.repeat(1 + i * i * 2))
        })
        .collect()
}

fn json_lines(texts: &[String]) -> String {
    let line = |(i, text): (usize, &String)| serde_json::json!({"id": i, "body": text}).to_string();
    texts.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

fn source(inputs: &[PathBuf], marks: Marks) -> TextSource {
    TextSource { inputs: inputs.to_vec(), marks, field: "body".to_owned(), every: 4, keys: &FLAGS }
}

fn prepared(source: TextSource, tokenizer: &str, shard_tokens: u64, dir: &Path) -> FolderManifest {
    let spec = FolderSpec { source, tokenizer: tokenizer.to_owned(), shard_tokens };
    prepare_folder(&spec, dir, &mut |_| ()).unwrap()
}

/// Returns the tokens and document starts of both splits.
fn content(dir: &Path) -> [(Vec<u32>, Vec<usize>); 2] {
    let facts = Manifest::read(dir).unwrap().folder().unwrap();
    verify(dir, &facts).unwrap();
    let (sides, _) = open_folder(dir, &facts).unwrap();
    sides.map(|side| {
        let (mut tokens, mut starts) = (Vec::new(), Vec::new());
        for shard in side.as_ref() {
            let first = tokens.len();
            starts.extend((0..shard.documents().unwrap()).map(|i| first + shard.document_start(i).unwrap()));
            assert_eq!(shard.continues(), !shard.is_empty() && starts.binary_search(&first).is_err());
            tokens.extend((0..shard.len()).map(|i| shard.token(i)));
        }
        (tokens, starts)
    })
}

/// Returns the expected [`content`], with every document encoded separately.
fn expected(texts: &[String], tokenizer: &Tokenizer) -> [(Vec<u32>, Vec<usize>); 2] {
    let mut sides = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for (i, text) in texts.iter().enumerate() {
        let (tokens, starts) = &mut sides[usize::from(i % 4 == 3)];
        starts.push(tokens.len());
        tokens.extend(tokenizer.encode(text).unwrap());
    }
    sides
}

#[test]
fn every_form_gives_the_same_tokens_and_boundaries() {
    let dir = folder();
    let texts = texts();
    let (plain, json) = (texts.concat(), json_lines(&texts));
    let separated = texts.join("<|end|>\r\n");
    let (front, back) = plain.split_at(plain.find("number 9").unwrap());
    let members = [gzipped(front), gzipped(back)].concat();
    let (front, back) = json.split_at(json.find("number 9").unwrap());
    let frames = [compressed(front), compressed(back)].concat();
    let prefix = Marks::Prefix("== ".to_owned());
    let line = Marks::Separator("<|end|>".to_owned());
    let tokenizer_file = dir.path().join("t.json");
    crate::tokenizer::trained().save(&tokenizer_file).unwrap();
    let tokenizer = Tokenizer::load(&tokenizer_file).unwrap();
    let wanted = expected(&texts, &tokenizer);
    for (number, (name, bytes, marks)) in [
        ("a.txt", plain.clone().into_bytes(), prefix.clone()),
        ("a.txt.zst", compressed(&plain), prefix.clone()),
        ("a.txt.gz", members, prefix.clone()),
        ("b.txt", separated.clone().into_bytes(), line.clone()),
        ("b.gz", gzipped(&separated), line.clone()),
        ("c.jsonl", json.clone().into_bytes(), Marks::None),
        ("c.jsonl.gz", gzipped(&json), Marks::None),
        ("c.jsonl.zst", frames, Marks::None),
    ]
    .into_iter()
    .enumerate()
    {
        let input = file(&dir, name, bytes);
        let out = dir.path().join(format!("out{number}"));
        // Shards that end in the middle of documents, and one shard for everything.
        let shard_tokens = if number % 2 == 0 { 1 << 40 } else { 5000 };
        let facts = prepared(source(&[input], marks), tokenizer_file.to_str().unwrap(), shard_tokens, &out);
        assert!(content(&out) == wanted, "{name}: other tokens or boundaries");
        assert_eq!((facts.train.documents(), facts.valid.documents()), (18, 5), "{name}");
        assert_eq!(facts.train.files.len() > 1, shard_tokens == 5000, "{name}");
        assert!(facts.train.files.iter().rev().skip(1).all(|file| file.tokens == shard_tokens));
    }
}

#[test]
fn files_follow_one_another_and_each_begins_a_document() {
    let dir = folder();
    let texts = texts();
    let inputs = [
        file(&dir, "1.txt", format!("before\n{}", texts[0])),
        file(&dir, "2.jsonl", json_lines(&texts[1..9])),
        file(&dir, "3.jsonl.gz", gzipped(&(json_lines(&texts[9..]) + "\n \n{\"body\":\"\"}\n"))),
    ];
    let mut wanted = texts.clone();
    wanted[0].insert_str(0, "before\n");
    let division = || Division::Pieces { total: wanted[0].len() as u64, words: false };
    let mut documents = Documents::new(&inputs[..1], Division::Prefix("== ".to_owned()), "body");
    let mut found: Vec<String> = Vec::new();
    while let Some(part) = documents.next_part().unwrap() {
        if part.begins {
            found.push(String::new());
        }
        found[part.document as usize].push_str(part.text);
    }
    assert_eq!((&found[..], documents.count(), documents.marks()), (&wanted[..1], 1, 1));
    let mut documents = Documents::new(&inputs[1..], division(), "body");
    let mut count = 0;
    while let Some(part) = documents.next_part().unwrap() {
        assert_eq!((part.document, part.begins, part.text), (count, true, wanted[count as usize + 1].as_str()));
        count += 1;
    }
    assert_eq!((count, documents.count()), (22, 22), "blank lines and empty texts are no documents");
    // Document marks apply only to plain text.
    error_with(source(&inputs, Marks::Prefix("== ".to_owned())).survey(), &["2.jsonl", "--document-prefix"]);
}

#[test]
fn pieces_and_tokenizers_are_those_of_the_text_in_memory() {
    let dir = folder();
    let text = documents().repeat(30);
    let input = file(&dir, "a.txt.gz", gzipped(&text));
    let (train, valid) = split(&text, &by_size(4)).unwrap();
    for spec in ["char", "byte", "bpe:300"] {
        let out = dir.path().join(spec.replace(':', ""));
        let facts = prepared(source(std::slice::from_ref(&input), Marks::None), spec, 1 << 30, &out);
        assert_eq!((facts.train.bytes, facts.valid.bytes), (train.len() as u64, valid.len() as u64));
        let (sides, tokenizer) = open_folder(&out, &facts).unwrap();
        for (side, text) in sides.iter().zip([&train, &valid]) {
            let tokens: Vec<u32> = (0..side.len()).map(|i| side.as_ref()[0].token(i)).collect();
            assert!(tokenizer.decode(&tokens).unwrap() == *text, "{spec}");
        }
    }
    // The cache of `data.text` still joins the documents of a split: its tokens are those of the whole text encoded at
    // once.
    let spec = DataSpec { text: input, tokenizer: "bpe:300".into(), held_out: by_size(4), field: "text".into() };
    let data = prepare(&spec, &dir.path().join("cache"), &mut |_| ()).unwrap();
    let whole = Tokenizer::from_spec("bpe:300", &train).unwrap();
    let tokens: Vec<u32> = (0..data.train.len()).map(|i| data.train.token(i)).collect();
    assert!(tokens == whole.encode(&train).unwrap());
}

#[test]
fn a_cached_text_is_what_it_was_before_streams() {
    // Names and hashes from the first version of the cache, which held texts in memory.
    let dir = folder();
    let text = file(&dir, "documents.txt", documents());
    for (tokenizer, held_out, name, train, valid) in [
        ("bpe:300", by_prefix("== ", 4), "2d8408a437992b7e", "57bf888a995d1f80", "fdd63b54713af5e7"),
        ("bpe:300", by_size(10), "422d7b010a3558da", "ac67e07c33fc6ee0", "6cc88c421db9b8a0"),
        ("byte", by_size(10), "688d367d23fc0fe0", "dd8ef82a6e53fb25", "fcf96a0cced893bc"),
        ("char", by_prefix("== ", 4), "b216ee01fc93a3f2", "6b71ee47c798a379", "6cf568c69662773e"),
    ] {
        let spec = DataSpec { text: text.clone(), tokenizer: tokenizer.into(), held_out, field: "text".into() };
        let data = prepare(&spec, &dir.path().join("cache"), &mut |_| ()).unwrap();
        assert!(data.dir.ends_with(format!("documents-{name}")), "{tokenizer}: {}", data.dir.display());
        let facts = fs::read_to_string(data.dir.join("data.json")).unwrap();
        assert!(facts.contains(train) && facts.contains(valid), "{tokenizer}: {facts}");
        assert_eq!(data.train.documents(), None, "a shard of version 1");
    }
}

#[test]
fn a_cached_text_may_be_json_lines() {
    let dir = folder();
    let texts = texts();
    let text = file(&dir, "t.v2.jsonl.gz", gzipped(&json_lines(&texts)));
    let spec = |field: &str| {
        let held_out = by_size(4);
        DataSpec { text: text.clone(), tokenizer: "byte".into(), held_out, field: field.into() }
    };
    let cache = dir.path().join("cache");
    let data = prepare(&spec("body"), &cache, &mut |_| ()).unwrap();
    assert!(data.dir.file_name().unwrap().to_str().unwrap().starts_with("t-v2-"));
    let [(tokens, starts), _] = expected(&texts, &data.tokenizer);
    assert!(tokens.iter().enumerate().all(|(i, &token)| data.train.token(i) == token));
    let found: Vec<usize> =
        (0..data.train.documents().unwrap()).map(|i| data.train.document_start(i).unwrap()).collect();
    assert_eq!(found, starts);
    error_with(
        prepare(&spec("text"), &cache, &mut |_| ()),
        &["t.v2.jsonl.gz", "line 1", "\"text\"", "\"body\", \"id\""],
    );
}

#[test]
fn the_encoder_does_not_see_how_a_text_was_cut() {
    let text = format!("{}\n\n\n  tail \r\n\r\nend  \n", documents().repeat(5));
    let tokenizer = crate::tokenizer::trained();
    let whole = tokenizer.encode(&text).unwrap();
    for size in [1, 7, 4096, 5000] {
        let mut ids = Vec::new();
        let mut sink = |part: &[u32], _| {
            ids.extend_from_slice(part);
            Ok(())
        };
        let mut encoder = Encoder::new(tokenizer);
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let end = (size..rest.len()).find(|&i| rest.is_char_boundary(i)).unwrap_or(rest.len());
            encoder.push(&rest[..end], &mut sink).unwrap();
            rest = &rest[end..];
        }
        encoder.finish(&mut sink).unwrap();
        assert!(ids == whole, "parts of {size}");
    }
}

#[test]
fn bad_streams_name_file_place_and_remedy() {
    let dir = folder();
    let at = |name: &str, bytes: &[u8]| source(&[file(&dir, name, bytes)], Marks::None).survey();
    let good = r#"{"body": "a text"}"#;
    for (line, says) in [
        ("{", &["not a JSON object", "column 1"][..]),
        ("[1]", &["not a JSON object"]),
        (r#"{"text": "x", "id": 1}"#, &["no key \"body\"", "\"id\", \"text\""]),
        ("{}", &["no key \"body\"", "none"]),
        (r#"{"body": 7}"#, &["\"body\" is not a string"]),
        (r#"{"body": "a"} x"#, &["not a JSON object", "trailing"]),
    ] {
        let all = format!("{good}\n\n{good}\r\n{line}\n{good}\n");
        error_with(at("bad.jsonl", all.as_bytes()), &[&["bad.jsonl", "line 4"], says].concat());
        error_with(at("bad.jsonl.gz", &gzipped(&all)), &[&["bad.jsonl.gz", "line 4"], says].concat());
    }
    error_with(
        at("few.jsonl", good.as_bytes()),
        &["few.jsonl", "nothing is held out", "--held-out-every", "1 document;"],
    );
    error_with(at("latin.jsonl", b"{\"body\": \"a\"}\n{\"body\": \"\xe9\"}"), &["latin.jsonl", "line 2", "iconv"]);

    let whole = gzipped(&documents());
    for length in [5, whole.len() / 2, whole.len() - 1] {
        error_with(at("cut.gz", &whole[..length]), &["cut.gz", "corrupt gzip", "again"]);
    }
    let mut flipped = whole.clone();
    let sum = flipped.len() - 6;
    flipped[sum] ^= 1;
    error_with(at("flip.gz", &flipped), &["flip.gz", "corrupt gzip"]);
    error_with(at("not.gz", b"<!DOCTYPE html><p>404"), &["not.gz", "web page"]);
    error_with(at("short.gz", b"\x1f"), &["short.gz", "corrupt gzip"]);
    error_with(at("latin.gz", &[&whole[..], &gzipped("x")[..]].concat()[..whole.len() + 3]), &["latin.gz", "corrupt"]);
    error_with(at("cut.txt", "é".repeat(9).as_bytes().split_last().unwrap().1), &["cut.txt", "byte 16", "line 1"]);
    error_with(source(&[dir.path().join("none.gz")], Marks::None).survey(), &["cannot read", "none.gz"]);

    let input = file(&dir, "a.txt", documents());
    let one = |marks| source(std::slice::from_ref(&input), marks).survey();
    error_with(one(Marks::Separator("<|end|>".into())), &["a.txt", "no line is equal to --separator", "leave it out"]);
    error_with(one(Marks::Prefix(String::new())), &["--document-prefix is empty"]);
    error_with(one(Marks::Separator("a\nb".into())), &["--separator", "spans lines"]);
}

#[test]
fn a_folder_is_whole_or_not_there() {
    let dir = folder();
    let input = file(&dir, "a.txt", documents());
    let out = dir.path().join("out");
    let prefix = Marks::Prefix("== ".to_owned());
    let spec = |tokenizer: &str| FolderSpec {
        source: source(std::slice::from_ref(&input), prefix.clone()),
        tokenizer: tokenizer.to_owned(),
        shard_tokens: 1000,
    };
    let fail = |spec: &FolderSpec, parts: &[&str]| {
        error_with(prepare_folder(spec, &out, &mut |_| ()), parts);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left");
    };
    fail(&spec("word"), &["unknown tokenizer `word`"]);
    fail(&FolderSpec { shard_tokens: 0, ..spec("byte") }, &["shards of 0 tokens"]);
    fail(&FolderSpec { source: source(&[], Marks::None), ..spec("byte") }, &["no text"]);
    prepare_folder(&spec("byte"), &out, &mut |_| ()).unwrap();
    error_with(prepare_folder(&spec("byte"), &out, &mut |_| ()), &["out", "exists already"]);

    let facts = Manifest::read(&out).unwrap().folder().unwrap();
    let name = out.join(&facts.train.files[1].name);
    let bytes = fs::read(&name).unwrap();
    let put = |bytes: &[u8]| {
        fs::remove_file(&name).unwrap();
        fs::write(&name, bytes).unwrap();
    };
    let mut flipped = bytes.clone();
    flipped[100] ^= 1;
    put(&flipped);
    error_with(verify(&out, &facts), &["train-00001.bin", "damaged", "prepare"]);
    put(&bytes[..bytes.len() - 8]);
    error_with(open_folder(&out, &facts), &["train-00001.bin", "the header says", "prepared again"]);
    put(&fs::read(out.join("train-00000.bin")).unwrap());
    error_with(open_folder(&out, &facts), &["train-00001.bin", "not the file", "prepare"]);
    fs::remove_file(&name).unwrap();
    error_with(open_folder(&out, &facts), &["cannot read", "train-00001.bin"]);
    for (from, to, says) in [
        ("\"format\": 2", "\"format\": 3", "format 3"),
        ("\"format\": 2", "\"format\": 2,", "damaged"),
        ("train-00001.bin", "../train-00001.bin", "not the name of a file"),
    ] {
        let json = serde_json::to_string_pretty(&facts).unwrap().replacen(from, to, 1);
        fs::write(out.join("data.json"), json).unwrap();
        error_with(Manifest::read(&out), &["data.json", says, "prepare the data again"]);
    }
    error_with(Manifest::read(dir.path()), &["no data.json", "vcycle data prepare"]);
}

proptest! {
    #[test]
    fn documents_lose_nothing(text in "(== |<e>|x|é|\n|\r\n| ){1,80}", separator: bool) {
        let dir = folder();
        let path = file(&dir, "a.txt", &text);
        let division = match separator {
            true => Division::Separator("<e>".to_owned()),
            false => Division::Prefix("== ".to_owned()),
        };
        let mut documents = Documents::new(&[path], division, "");
        let mut found: Vec<String> = Vec::new();
        while let Ok(Some(part)) = documents.next_part() {
            if part.begins {
                found.push(String::new());
            }
            prop_assert_eq!(part.document as usize + 1, found.len());
            found[part.document as usize].push_str(part.text);
        }
        let lines = text.split_inclusive('\n');
        let is_mark = |line: &str| line.trim_end_matches('\n').trim_end_matches('\r') == "<e>";
        let kept: String = lines.filter(|line| !separator || !is_mark(line)).collect();
        if !text.trim().is_empty() {
            prop_assert_eq!(found.concat(), kept);
        }
        if !separator {
            prop_assert!(found.iter().skip(1).all(|document| document.starts_with("== ")));
        }
        prop_assert!(found.iter().all(|document| !document.is_empty()));
    }
}
