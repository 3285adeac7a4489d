//! Texts whose format differs from their file name, and JSON lines that strict readers reject.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use vcycle::data::text::read_text;

use super::*;

/// The text of forty documents, and the same as JSON lines, where `other` is appended to the object in line 8.
fn documents(other: &str) -> (String, String) {
    let texts: Vec<String> = (0..40).map(|i| format!("document {i} of jetty and fjord")).collect();
    let line = |(i, text): (usize, &String)| format!("{{\"text\": {text:?}{}}}\n", if i == 7 { other } else { "" });
    (texts.join("\n"), texts.iter().enumerate().map(line).collect())
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[track_caller]
fn error(path: &Path, parts: &[&str]) {
    let text = read_text(path).expect_err("an error").to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} are not in: {text}");
}

#[test]
fn json_lines_are_detected_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let (text, lines) = documents("");
    for name in ["ok.jsonl", "ok.json", "ok.ndjson", "OK.JSONL", "part-00000", "ok.data"] {
        assert_eq!(read_text(&write(at, name, &lines)).unwrap(), text, "{name}");
        assert_eq!(
            read_text(&write(at, name, format!("\u{feff}{lines}"))).unwrap(),
            text,
            "{name} with a byte order mark"
        );
        assert_eq!(read_text(&write(at, &format!("{name}.gz"), gzip(lines.as_bytes()))).unwrap(), text, "{name}.gz");
    }
    // In a file named as plain text, JSON lines are refused with advice. An empty first line makes it plain text.
    error(&write(at, "lines.txt", &lines), &["lines.txt", "JSON", ".jsonl", "empty line"]);
    let prose = format!("\n{lines}");
    assert_eq!(read_text(&write(at, "prose.txt", &prose)).unwrap(), prose);
    error(&write(at, "list.json", "[\n{\"text\": \"a\"},\n{\"text\": \"b\"}\n]\n"), &["list.json", "jq -c"]);
    for code in ["{\n  return 1;\n}\n", "{}\n{}\n", "{a} is a set\n", "[1] a note\n"] {
        assert_eq!(read_text(&write(at, "code.c", code)).unwrap(), code);
    }
    refused(at, "data prepare lines.txt --tokenizer byte --out o", &["lines.txt", ".jsonl"]);
    let (output, _) = ok(at, "data prepare part-00000 --tokenizer byte --out p");
    assert!(output.contains("4 documents"), "{output}");
}

#[test]
fn only_the_text_key_must_be_valid() {
    let dir = tempfile::tempdir().unwrap();
    let deep = format!(", \"meta\": {}1{}", "[".repeat(3000), "]".repeat(3000));
    for other in [", \"score\": NaN", ", \"score\": -Infinity", ", \"tail\": \"x \\udcb2\"", ", \"n\": 1e999", &deep] {
        let (text, lines) = documents(other);
        assert_eq!(read_text(&write(dir.path(), "a.jsonl", lines)).unwrap(), text, "{other:.40}");
    }
    let (_, lines) = documents("");
    let null = lines.replacen("\"document 7 of jetty and fjord\"", "null", 1);
    error(&write(dir.path(), "null.jsonl", null), &["null.jsonl: line 8: \"text\" is null"]);
    let lone = lines.replacen("document 7", "document \\udcb2", 1);
    error(&write(dir.path(), "lone.jsonl", lone), &["lone.jsonl: line 8: \"text\" is not valid text"]);
}

/// A byte order mark is not part of the content: not in plain texts, tables, configurations, or files of a model
/// folder.
#[test]
fn a_byte_order_mark_is_never_text() {
    let dir = place("nli-labels");
    let at = dir.path();
    assert_eq!(read_text(&write(at, "a.txt", "\u{feff}one\ntwo\u{feff}\n")).unwrap(), "one\ntwo\u{feff}\n");
    assert_eq!(read_text(&write(at, "a.txt.gz", gzip("\u{feff}one\n".as_bytes()))).unwrap(), "one\n");
    error(&write(at, "mark.txt", "\u{feff}"), &["mark.txt", "whitespace"]);
    error(&write(at, "late.txt", b"\xef\xbb\xbfone\n\xe9\n"), &["late.txt", "byte 7", "line 2"]);
    for name in ["dev.tsv", "run.toml", "model/config.json", "model/vocab.txt", "model/tokenizer_config.json"] {
        let text = fs::read_to_string(at.join(name)).unwrap();
        fs::write(at.join(name), format!("\u{feff}{text}")).unwrap();
    }
    assert_eq!(printed(&ok(at, "eval model --run run.toml").0, "loss:"), 0.2367);
}

#[test]
fn gzip_files_are_read_as_gzip_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = documents("");
    let one = gzip(text.as_bytes());
    let at = |bytes: &[u8]| write(dir.path(), "a.txt.gz", bytes);
    for zeros in [1, 512, 300_000] {
        let padded = [&one[..], &one, &vec![0; zeros]].concat();
        assert_eq!(read_text(&at(&padded)).unwrap(), format!("{text}{text}"), "{zeros}");
    }
    for garbage in [&b"x"[..], b"\0\0x", b"\x1f", b"PK\x03\x04"] {
        error(&at(&[&one[..], garbage].concat()), &["a.txt.gz", "corrupt gzip", "gzip -t"]);
    }
    // The content decides, not the name.
    assert_eq!(read_text(&write(dir.path(), "b.txt", &one)).unwrap(), text);
}

/// `iconv -f ENCODING -t UTF-8` of GNU libc converts each of these to the text.
#[test]
fn other_encodings_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = documents("");
    let encode = |big: bool, four: bool, mark: bool| -> Vec<u8> {
        let marked = format!("{}{text}", if mark { "\u{feff}" } else { "" });
        let bytes = marked.chars().map(|c| match (big, four) {
            (true, true) => (c as u32).to_be_bytes().to_vec(),
            (false, true) => (c as u32).to_le_bytes().to_vec(),
            (true, false) => (c as u16).to_be_bytes().to_vec(),
            (false, false) => (c as u16).to_le_bytes().to_vec(),
        });
        bytes.flatten().collect()
    };
    for (big, end) in [(true, "BE"), (false, "LE")] {
        for (four, name) in [(true, "UTF-32"), (false, "UTF-16")] {
            for (mark, encoding) in [(true, name.to_owned()), (false, format!("{name}{end}"))] {
                let bytes = encode(big, four, mark);
                let path = write(dir.path(), "my text.txt", &bytes);
                let command = format!("iconv -f {encoding} -t UTF-8 '{}' > ", path.display());
                error(&path, &["my text.txt", &format!("is {encoding}, not UTF-8"), &command]);
                let path = write(dir.path(), "a.gz", gzip(&bytes));
                error(&path, &["a.gz", &format!("is {encoding}, not UTF-8")]);
            }
        }
    }
    // NUL bytes are valid in UTF-8 text, and Latin-1 is only a guess.
    assert_eq!(read_text(&write(dir.path(), "z.txt", "a\0b and more of it")).unwrap(), "a\0b and more of it");
    error(&write(dir.path(), "l.txt", b"caf\xe9 au lait, and more"), &["byte 3", "iconv", "if it is Latin-1"]);
}

/// A text without line ends, such as text8 and many Chinese books, is cut between words, or between characters if there
/// are no spaces. A compressed text, which is read in different pieces, is cut at the same positions.
#[test]
fn a_text_in_one_line_is_cut_between_words() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let words: String = (0..90_000).map(|i| ["jetty ", "fjord ", "lagoon "][i * i % 3]).collect();
    let signs: String = (0..200_000).map(|i| ['的', '一', '是', 'é'][i * i % 4]).collect();
    let few = format!("{}\n{}\n", &words[..300_000], &words[300_000..]);
    for (name, text, unit) in [("words", &words, 7), ("signs", &signs, 3), ("few", &few, 7)] {
        write(at, &format!("{name}.txt"), text);
        write(at, &format!("{name}.txt.gz"), gzip(text.as_bytes()));
        let (output, _) = ok(at, &format!("data prepare {name}.txt --tokenizer byte --out {name}"));
        // A hundred pieces of about the same size, every tenth held out.
        assert!(output.contains("90 documents") && output.contains("10 documents"), "{name}: {output}");
        ok(at, &format!("data prepare {name}.txt.gz --tokenizer byte --out {name}-gz"));
        let files = |folder: String| json(&at.join(folder).join("data.json"));
        let [plain, packed] = [files(name.to_owned()), files(format!("{name}-gz"))];
        assert_eq!([&plain["train"], &plain["valid"]], [&packed["train"], &packed["valid"]], "{name}");
        let held_out = plain["valid"]["files"][0]["tokens"].as_u64().expect("a number");
        // The end of each piece is off by at most 64 bytes and one word or character.
        let share = text.len() as u64 / 10;
        assert!(held_out.abs_diff(share) <= 10 * (64 + unit), "{name}: {held_out} of {share}");
    }
    fs::create_dir(at.join("sub")).unwrap();
    for again in ["words.txt", "./words.txt", "sub/../words.txt"] {
        let args = format!("data prepare words.txt few.txt {again} --tokenizer byte --out no");
        refused(at, &args, &[again, "given twice"]);
    }
    // One line is too little to hold anything out.
    write(at, "line.txt", "jetty and fjord");
    refused(at, "data prepare line.txt --tokenizer byte --out no", &["line.txt", "nothing is held out"]);
}
