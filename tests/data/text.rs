//! Reading text and splitting it into training and held-out data.

use super::*;

pub fn compressed(text: &str) -> Vec<u8> {
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
    error_with(read_text(dir.path()), &["folder", "name one file"]);
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
