//! Files, configurations and batches that these tests share.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use vcycle::config::Config;
use vcycle::data::loader::batch::{Field, Source};
use vcycle::data::loader::prefetch::Prefetch;
use vcycle::data::tokenizer::vocabulary::SpecialTokens;
use vcycle::data::tokens::sampler::IGNORED;
use vcycle::families;

pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, compressed if its name ends in `.gz` or `.zst`.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let (path, bytes) = (self.path().join(name), bytes.as_ref());
        let bytes = match path.extension().and_then(|e| e.to_str()) {
            Some("gz") => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(bytes).expect("compressed");
                out.finish().expect("compressed")
            }
            Some("zst") => ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest),
            _ => bytes.to_vec(),
        };
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(&path, bytes).expect("a file");
        path
    }

    pub fn open(&self, config: &Config) -> Box<dyn families::Dataset> {
        families::open(config, &self.path().join("cache"), &mut |_| {}).expect("data")
    }

    pub fn source(&self, config: &Config) -> Arc<dyn Source> {
        self.open(config).source(config).expect("a source")
    }

    /// Runs the program in this folder and returns its standard output.
    pub fn vcycle(&self, args: &[&str]) -> String {
        let done = Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).current_dir(self.path()).output();
        let done = done.expect("the program runs");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

/// A path as a TOML string.
pub fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

pub fn all_quoted(paths: &[PathBuf]) -> String {
    format!("[{}]", paths.iter().map(|path| quoted(path)).collect::<Vec<_>>().join(", "))
}

/// The seed and batch sizes of a test configuration.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub seed: u64,
    pub batch: usize,
    pub accumulate: usize,
}

impl Sizes {
    /// Number of examples in an evaluation batch.
    pub fn rows(self) -> usize {
        self.batch / self.accumulate
    }
}

pub const USUAL: Sizes = Sizes { seed: 1, batch: 4, accumulate: 1 };

/// Batch sizes and numbers of micro-batches: one row, several micro-batches, sizes that do not divide the data, and one
/// larger than any held-out split here.
pub const ALL_SIZES: [(usize, usize); 5] = [(1, 1), (4, 1), (6, 2), (7, 1), (2000, 2)];

/// A configuration: `model` has the family's keys of `[model]`, `rest` other sections.
pub fn config_text(model: &str, rest: &str, Sizes { seed, batch, accumulate }: Sizes) -> String {
    format!(
        "seed = {seed}\n[model]\n{model}\nlayers = 1\nheads = 2\nhead_size = 4\ninit_std = 0.3\n{rest}\n[train]\nbatch = {batch}\naccumulate = \
         {accumulate}\neval_every = 1000\n[[levels]]\ntrain = {{ steps = 1, lr = 1e-3 }}\n"
    )
}

pub fn config(model: &str, rest: &str, sizes: Sizes) -> Config {
    families::parse(&config_text(model, rest, sizes), &[]).expect("a configuration")
}

/// The training batches of steps 0 to `steps` - 1.
pub fn training(source: &dyn Source, rows: usize, steps: u64) -> impl Iterator<Item = Vec<Field>> {
    (0..steps).map(move |step| {
        let mut fields = source.allocate(rows).expect("room");
        source.training_batch(step, &mut fields).expect("a batch");
        fields
    })
}

/// All held-out batches, each with the number of labels that it reports to score.
pub fn held_out(source: &dyn Source, rows: usize) -> Vec<(Vec<Field>, usize)> {
    let mut all = Vec::new();
    loop {
        let mut fields = source.allocate(rows).expect("room");
        match source.held_out_batch(all.len(), &mut fields).expect("a batch") {
            Some(scored) => all.push((fields, scored)),
            None => break,
        }
    }
    // There is no batch after the last one.
    let mut fields = source.allocate(rows).expect("room");
    for index in [all.len() + 1, 1000 * (all.len() + 1), usize::MAX] {
        assert_eq!(source.held_out_batch(index, &mut fields).expect("no batch"), None, "batch {index}");
    }
    all
}

/// Asserts that prefetching threads give the same batches as the source itself.
pub fn read_ahead(source: &Arc<dyn Source>, rows: usize, workers: &[usize]) {
    let direct: Vec<_> = training(&**source, rows, 12).collect();
    for &workers in workers {
        let mut ahead = Prefetch::new(Arc::clone(source), rows, 0, workers).expect("threads");
        for (step, fields) in direct.iter().enumerate() {
            assert!(ahead.next(step as u64).expect("a batch") == fields, "step {step}, {workers} workers");
        }
    }
}

/// Asserts that the `order` of a source differs between seeds at every step and is reproducible for one seed.
pub fn seed_orders<T: PartialEq>(
    folder: &Folder,
    make: impl Fn(Sizes) -> Config,
    order: impl Fn(&Config, &dyn Source) -> Vec<T>,
) {
    let orders = [1, 2, 1 << 40, 1].map(|seed| {
        let config = make(Sizes { seed, ..USUAL });
        order(&config, &*folder.source(&config))
    });
    assert!(orders[0] == orders[3], "the same seed gives different orders");
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let equal = orders[one].iter().zip(&orders[other]).filter(|(one, other)| one == other).count();
        assert!(!orders[one].is_empty() && equal == 0, "{equal} steps of {} are the same", orders[one].len());
    }
}

/// The first 10 training batches.
pub fn batches(config: &Config, source: &dyn Source) -> Vec<Vec<Field>> {
    training(source, config.train.batch, 10).collect()
}

pub fn floats(field: &Field) -> &[f32] {
    let Field::Floats(values) = field else { panic!("{field:?} holds no floats") };
    values
}

/// How often each value occurs.
pub fn counts<T: std::hash::Hash + Eq>(values: impl IntoIterator<Item = T>) -> HashMap<T, usize> {
    values.into_iter().fold(HashMap::new(), |mut all, value| {
        *all.entry(value).or_default() += 1;
        all
    })
}

/// Documents of words that occur only once, in lower case, or in upper case in held-out documents. Each document starts
/// with `begin`.
#[derive(Clone)]
pub struct Texts {
    pub documents: Vec<String>,
    pub every: usize,
}

impl Texts {
    /// Makes `count` documents of `words` words each, in lines of up to six words. Every `every`-th is held out.
    pub fn new(count: usize, words: usize, every: usize, begin: &str) -> Self {
        let mut number = 0;
        let documents = (0..count).map(|document| {
            let mut text = begin.to_owned();
            for word in 0..words {
                // Words are three-letter numbers in base 20, each used once.
                let letter = |n: usize| char::from(b"bcdfghjklmnpqrstvwxz"[n % 20]);
                let end = if word + 1 == words || word % 6 == 5 { '\n' } else { ' ' };
                write!(text, "{}{}{}{end}", letter(number / 400), letter(number / 20), letter(number))
                    .expect("written");
                number += 1;
            }
            if document % every == every - 1 { text.to_uppercase() } else { text }
        });
        Texts { documents: documents.collect(), every }
    }

    pub fn is_held_out(&self, document: usize) -> bool {
        document % self.every == self.every - 1
    }

    /// The documents of both splits.
    pub fn splits(&self) -> [Vec<&str>; 2] {
        let of = |held_out| {
            let of_split = move |(number, _): &(usize, &String)| self.is_held_out(*number) == held_out;
            self.documents.iter().enumerate().filter(of_split).map(|(_, text)| text.as_str()).collect()
        };
        [of(false), of(true)]
    }

    /// JSON lines with one document per line.
    pub fn json_lines(documents: &[String], key: &str) -> String {
        documents.iter().map(|text| serde_json::json!({ key: text, "other": "QQQ" }).to_string() + "\n").collect()
    }
}

/// Whether a token occurs in held-out text only: an upper-case letter.
pub fn is_sentinel(token: i32) -> bool {
    (i32::from(b'A')..=i32::from(b'Z')).contains(&token)
}

pub fn bytes(text: &str) -> Vec<i32> {
    text.bytes().map(i32::from).collect()
}

/// A token file as llm.c writes it: for Llama 3 if `wide`, else for GPT-2.
pub fn llm_c(tokens: &[i32], wide: bool) -> Vec<u8> {
    let (magic, version, width) = if wide { (20_240_801, 7, 4) } else { (20_240_520, 1, 2) };
    let mut header = [0i32; 256];
    (header[0], header[1], header[2]) = (magic, version, tokens.len() as i32);
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    tokens.iter().for_each(|token| bytes.extend_from_slice(&token.to_le_bytes()[..width]));
    bytes
}

pub fn nano_gpt(tokens: &[i32]) -> Vec<u8> {
    tokens.iter().flat_map(|&token| (token as u16).to_le_bytes()).collect()
}

/// Writes a tokenizer with `count` words, whose ids start at 5, after the special tokens.
pub fn words(folder: &Folder, count: usize) -> PathBuf {
    use serde_json::json;
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let names = special.iter().map(|name| (*name).to_owned()).chain((0..count).map(|i| format!("w{i}")));
    let vocab: serde_json::Map<_, _> = names.zip((0..).map(|id| json!(id))).collect();
    let added = special.iter().enumerate().map(|(id, content)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    });
    let json = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}});
    folder.file("tokenizer.json", json.to_string())
}

/// A row of a masked batch with the masks undone.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The text between special tokens: one or two segments.
    pub segments: Vec<Vec<i32>>,
    /// The scored positions in the row, with the original tokens.
    pub scored: Vec<(usize, i32)>,
    /// For pairs, 0 if the second segment is the continuation of the first, else 1.
    pub next: Option<i32>,
}

/// The rows of a masked batch whose micro-batches have `micro` rows. Rows without text are left out.
pub fn masked_rows(fields: &[Field], (context, micro): (usize, usize), special: SpecialTokens) -> Vec<Row> {
    let ids = fields[0].as_ints();
    let slots = fields[3].len() * context / ids.len();
    let row = |row: usize| {
        let length = fields[2].as_ints()[row * context..][..context].iter().filter(|&&mask| mask == 1).count();
        let mut ids = ids[row * context..][..length].to_vec();
        let positions = &fields[3].as_ints()[row * slots..][..slots];
        let labels = &fields[4].as_ints()[row * slots..][..slots];
        let scored = positions.iter().zip(labels).filter(|(_, label)| **label != IGNORED);
        let scored: Vec<_> = scored.map(|(&at, &label)| (at as usize - row % micro * context, label)).collect();
        scored.iter().for_each(|&(at, label)| ids[at] = label);
        let next = fields.get(5).map(|next| next.as_ints()[row]);
        Row { segments: segments(&ids, special), scored, next }
    };
    let rows = (0..ids.len() / context).map(row);
    rows.filter(|row| row.segments.iter().any(|segment| !segment.is_empty())).collect()
}

/// The text segments of `[CLS] text [SEP]` or `[CLS] text [SEP] text [SEP]`.
pub fn segments(ids: &[i32], special: SpecialTokens) -> Vec<Vec<i32>> {
    let (cls, sep) = (special.cls as i32, special.sep as i32);
    let [first, text @ .., last] = ids else { panic!("{ids:?} is not a row") };
    assert!(*first == cls && *last == sep, "{ids:?}");
    text.split(|&id| id == sep).map(<[i32]>::to_vec).collect()
}
