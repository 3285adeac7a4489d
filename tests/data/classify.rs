//! Labelled texts: batches hold the file's examples, and errors name its line.

use std::path::PathBuf;
use std::sync::LazyLock;

use tempfile::TempDir;
use vcycle::data::labelled::{Classification, ClassifyBatch, ClassifyConfig, Labels};
use vcycle::data::tokenizer::Tokenizer;
use vcycle::data::tokens::sampler::{IGNORED, Sampler};
use vcycle::error::Result;

static BYTE: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_spec("byte", "").unwrap().with_special_tokens().unwrap());
const SAMPLER: Sampler = Sampler { seed: 3, rank: 0, world: 1 };

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, content: &str) -> PathBuf {
        let path = self.0.path().join("examples.tsv");
        std::fs::write(&path, content).unwrap();
        path
    }

    fn open(&self, content: &str, config: &str, context: usize) -> Result<Classification> {
        Classification::open(&self.file(content), &toml::from_str(config).unwrap(), None, &BYTE, context)
    }

    /// Asserts that `content` is refused with a message that names the file and contains `parts`.
    fn refuses(&self, content: &str, config: &str, parts: &[&str]) {
        let Err(error) = self.open(content, config, 16) else { panic!("no error; expected one with {parts:?}") };
        let text = error.to_string();
        assert!(text.contains("examples.tsv"), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{parts:?} are not in: {text}");
    }
}

/// The rows of a batch: text with one character per special token, segment types, and label.
fn rows(
    batch: usize,
    context: usize,
    labels: &Labels,
    fill: impl FnOnce(&mut ClassifyBatch<'_>),
) -> Vec<(String, String, f32)> {
    let regression = *labels == Labels::Values;
    let (mut ids, mut types, mut mask) =
        (vec![-7; batch * context], vec![-7; batch * context], vec![-7; batch * context]);
    let (mut classes, mut values) = (vec![-7; batch], vec![-7.0; batch]);
    let sizes = if regression { (0, batch) } else { (batch, 0) };
    fill(&mut ClassifyBatch {
        ids: &mut ids,
        types: &mut types,
        mask: &mut mask,
        classes: &mut classes[..sizes.0],
        values: &mut values[..sizes.1],
    });
    let special = BYTE.special_tokens().unwrap();
    let text = |(&id, &there): (&i32, &i32)| {
        assert_eq!(there, i32::from(id as u32 != special.pad));
        match id as u32 {
            id if id == special.pad => '.',
            id if id == special.cls => '^',
            id if id == special.sep => '|',
            id => char::from(id as u8),
        }
    };
    (0..batch)
        .map(|row| {
            let at = row * context..(row + 1) * context;
            let shown = ids[at.clone()].iter().zip(&mask[at.clone()]).map(text).collect();
            let types = types[at].iter().map(ToString::to_string).collect();
            (shown, types, if regression { values[row] } else { classes[row] as f32 })
        })
        .collect()
}

fn in_order(data: &Classification, index: usize, batch: usize, context: usize) -> (usize, Vec<(String, String, f32)>) {
    let mut there = 0;
    let rows = rows(batch, context, data.labels(), |out| {
        there = data.evaluation_batch(index, batch, out).unwrap();
    });
    (there, rows)
}

fn row(text: &str, types: &str, label: f32) -> (String, String, f32) {
    (text.to_owned(), types.to_owned(), label)
}

#[test]
fn pairs_with_a_header_in_any_order_of_columns() {
    let folder = Folder::new();
    let content =
        "\u{feff}id\tlabel\ts2\ts1\r\n0\tyes\tcd\t\"ab\r\n\r\n1\tno\tdefghijkl\tabc\r\n2\tno\tb\tabcdefghijkl\n";
    let data = folder.open(content, "sentence = \"s1\"\nsecond = \"s2\"\nlabel = \"label\"", 12).unwrap();
    assert_eq!(data.labels(), &Labels::Classes(vec!["no".to_owned(), "yes".to_owned()]));
    let (there, rows) = in_order(&data, 0, 4, 12);
    assert_eq!(there, 3);
    assert_eq!(rows[0], row("^\"ab|cd|....", "000001110000", 1.0));
    assert_eq!(rows[1], row("^abc|defghi|", "000001111111", 0.0));
    assert_eq!(rows[2], row("^abcdefgh|b|", "000000000011", 0.0));
    assert_eq!(rows[3], row("^|..........", "000000000000", IGNORED as f32));
    assert_eq!(in_order(&data, 1, 2, 12).0, 1);
    assert_eq!(in_order(&data, usize::MAX, 2, 12).0, 0);
    let halves = folder.open("1\tabcdefghij\tklmnopqrst\n0\ta\tb", "sentence = 2\nsecond = 3\nlabel = 1", 12).unwrap();
    assert_eq!(in_order(&halves, 0, 1, 12).1[0].0, "^abcde|klmn|");
}

#[test]
fn single_sentences_by_number_without_a_header() {
    let folder = Folder::new();
    let columns = "sentence = 4\nlabel = 2\n";
    let data = folder.open("gj04\t1\t\tabc\ngj04\t3\t*\tabcdefghi", columns, 8).unwrap();
    // Class 2 does not occur in the file.
    assert_eq!(data.labels(), &Labels::Classes(["0", "1", "2", "3"].map(str::to_owned).to_vec()));
    let (_, rows) = in_order(&data, 0, 2, 8);
    assert_eq!(rows, [row("^abc|...", "00000000", 1.0), row("^abcdef|", "00000000", 3.0)]);
    // A header is skipped if the configuration declares one.
    let data =
        folder.open("source\tlabel\tmark\ttext\na\t1\t\tx\nb\t0\t\ty", &format!("{columns}header = true"), 8).unwrap();
    assert_eq!(data.len(), 2);
    // The configuration may set the order of classes, which then applies to the evaluation file, too.
    let named = folder.open("a\tno\t\tx", &format!("{columns}classes = [\"yes\", \"no\"]"), 8).unwrap();
    assert_eq!(in_order(&named, 0, 1, 8).1[0].2, 1.0);
    let config: ClassifyConfig = toml::from_str(columns).unwrap();
    let path = folder.file("a\tyes\t\tx");
    let measured = Classification::open(&path, &config, Some(named.labels()), &BYTE, 8).unwrap();
    assert_eq!(in_order(&measured, 0, 1, 8).1[0].2, 0.0);
}

#[test]
fn regression_labels_are_numbers() {
    let folder = Folder::new();
    let data = folder.open("2.5\tab\n-1e-1\tc", "sentence = 2\nlabel = 1\nregression = true", 6).unwrap();
    let (_, rows) = in_order(&data, 0, 3, 6);
    assert_eq!((rows[0].2, rows[1].2), (2.5, -0.1));
    assert!(rows[2].2.is_nan());
}

#[test]
fn every_epoch_has_each_example_once_in_another_order() {
    let folder = Folder::new();
    let letters: Vec<char> = ('a'..='z').collect();
    let content: String = letters.iter().enumerate().map(|(i, c)| format!("{}\t{c}\n", i % 2)).collect();
    let data = folder.open(&content, "sentence = 2\nlabel = 1", 3).unwrap();
    let batch = |sampler: Sampler, step: u64, size: usize| -> Vec<String> {
        let rows = rows(size, 3, data.labels(), |out| data.training_batch(&sampler, step, size, out).unwrap());
        rows.into_iter().map(|row| row.0).collect()
    };
    let epochs: Vec<Vec<String>> =
        (0..4).map(|epoch| (0..13).flat_map(|step| batch(SAMPLER, epoch * 13 + step, 2)).collect()).collect();
    for (number, epoch) in epochs.iter().enumerate() {
        let mut sorted = epoch.clone();
        sorted.sort();
        assert_eq!(sorted, letters.iter().map(|c| format!("^{c}|")).collect::<Vec<_>>());
        assert!(epochs[..number].iter().all(|other| other != epoch) && sorted != *epoch);
    }
    // Two processes together get the examples that one would.
    let of_rank = |rank| batch(Sampler { rank, world: 2, ..SAMPLER }, 7, 2);
    assert_eq!([of_rank(0), of_rank(1)].concat(), batch(SAMPLER, 7, 4));
    assert_ne!(batch(SAMPLER, 7, 4), batch(Sampler { seed: 4, ..SAMPLER }, 7, 4));
}

#[test]
fn errors_name_file_and_line() {
    let folder = Folder::new();
    let config = "sentence = \"s\"\nlabel = \"l\"";
    folder.refuses("s\tl\na\t1\nb\n", config, &["line 3", "1 columns", "label is column 2"]);
    folder.refuses("s\tlabel\na\t1\n", config, &["no column \"l\"", "s, label"]);
    folder.refuses("s\tl\n", config, &["no example"]);
    folder.refuses("", config, &["empty"]);
    folder.refuses("s\tl\na\tx\nb\tx\n", config, &["1 classes"]);
    folder.refuses("s\tl\na\t1\nb\t0.5\nc\tx\n", &format!("{config}\nregression = true"), &["line 4", "\"x\""]);
    folder.refuses("s\tl\na\tNaN\n", &format!("{config}\nregression = true"), &["line 2", "NaN"]);
    folder.refuses(
        "s\tl\na\tno\nb\tmaybe\n",
        &format!("{config}\nclasses = [\"yes\", \"no\"]"),
        &["line 3", "maybe", "yes, no"],
    );
    folder.refuses("s\tl\na\tno\n", &format!("{config}\nclasses = [\"no\", \"no\"]"), &["2 labels, 1 of them"]);
    folder.refuses("s\tl\na\t1\n", &format!("{config}\nclasses = [\"0\", \"1\"]\nregression = true"), &["remove one"]);
    folder.refuses("a\t1\n", "sentence = 0\nlabel = 2", &["counted from 1"]);
    folder.refuses("a\t0\nb\t10000", "sentence = 1\nlabel = 2", &["10001 classes"]);
    assert!(toml::from_str::<ClassifyConfig>("sentence = 1\nlabel = 2\nlabels = 3").is_err());
    let plain = Tokenizer::from_spec("byte", "").unwrap();
    let path = folder.file("a\t0\nb\t1");
    let columns: ClassifyConfig = toml::from_str("sentence = 1\nlabel = 2").unwrap();
    assert!(Classification::open(&path, &columns, None, &plain, 16).is_err_and(|e| e.to_string().contains("[CLS]")));
    assert!(
        Classification::open(&path, &columns, None, &BYTE, 2).is_err_and(|e| e.to_string().contains("context of 2"))
    );
    let data = Classification::open(&path, &columns, None, &BYTE, 16).unwrap();
    rows(2, 15, data.labels(), |out| {
        let error = data.training_batch(&SAMPLER, 0, 2, out).expect_err("another context").to_string();
        assert!(error.contains("2 x 16") && error.contains("[30, 30, 30]"), "{error}");
        // Nothing was filled in; write text that `rows` can read.
        out.ids.fill(b'a'.into());
        out.mask.fill(1);
    });
}
