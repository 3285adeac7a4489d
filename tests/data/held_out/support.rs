//! Files, configurations and batches, for all of these tests.

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
use vcycle::families::dataset::Data;

pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file; it is compressed as its name says.
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

    pub fn open(&self, config: &Config) -> Data {
        Data::open(config, &self.path().join("cache"), &mut |_| {}).expect("data")
    }

    pub fn source(&self, config: &Config) -> Arc<dyn Source> {
        self.open(config).source(config).expect("a source")
    }

    /// What the program prints when it runs here.
    pub fn vcycle(&self, args: &[&str]) -> String {
        let done = Command::new(env!("CARGO_BIN_EXE_vcycle")).args(args).current_dir(self.path()).output();
        let done = done.expect("the program runs");
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

/// A path as TOML has it.
pub fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

pub fn all_quoted(paths: &[PathBuf]) -> String {
    format!("[{}]", paths.iter().map(|path| quoted(path)).collect::<Vec<_>>().join(", "))
}

/// How much a configuration of the tests computes.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub seed: u64,
    pub batch: usize,
    pub accumulate: usize,
}

impl Sizes {
    /// Examples of an evaluation's batch.
    pub fn rows(self) -> usize {
        self.batch / self.accumulate
    }
}

pub const USUAL: Sizes = Sizes { seed: 1, batch: 4, accumulate: 1 };

/// Batches of one row, of several micro-batches, that do not divide anything, and larger than any held-out set here.
pub const ALL_SIZES: [(usize, usize); 5] = [(1, 1), (4, 1), (6, 2), (7, 1), (2000, 2)];

/// A configuration: `model` has what of `[model]` is the family's, `rest` is other sections.
pub fn config_text(model: &str, rest: &str, Sizes { seed, batch, accumulate }: Sizes) -> String {
    format!(
        "seed = {seed}\n[model]\n{model}\nlayers = 1\nheads = 2\nhead_size = 4\ninit_std = 0.3\n{rest}\n[train]\nbatch = {batch}\naccumulate = \
         {accumulate}\neval_every = 1000\n[[levels]]\ntrain = {{ steps = 1, lr = 1e-3 }}\n"
    )
}

pub fn config(model: &str, rest: &str, sizes: Sizes) -> Config {
    Config::parse(&config_text(model, rest, sizes), &[]).expect("a configuration")
}

/// The training batches of these steps.
pub fn training(source: &dyn Source, rows: usize, steps: u64) -> impl Iterator<Item = Vec<Field>> {
    (0..steps).map(move |step| {
        let mut fields = source.room(rows).expect("room");
        source.training_batch(step, &mut fields).expect("a batch");
        fields
    })
}

/// All held-out batches, with how many labels each says it scores.
pub fn held_out(source: &dyn Source, rows: usize) -> Vec<(Vec<Field>, usize)> {
    let mut all = Vec::new();
    loop {
        let mut fields = source.room(rows).expect("room");
        match source.held_out_batch(all.len(), &mut fields).expect("a batch") {
            Some(scored) => all.push((fields, scored)),
            None => break,
        }
    }
    // The end is the end.
    let mut fields = source.room(rows).expect("room");
    for index in [all.len() + 1, 1000 * (all.len() + 1), usize::MAX] {
        assert_eq!(source.held_out_batch(index, &mut fields).expect("no batch"), None, "batch {index}");
    }
    all
}

/// That threads which read ahead bring the batches that the source has.
pub fn read_ahead(source: &Arc<dyn Source>, rows: usize, workers: &[usize]) {
    let direct: Vec<_> = training(&**source, rows, 12).collect();
    for &workers in workers {
        let mut ahead = Prefetch::new(Arc::clone(source), rows, 0, workers).expect("threads");
        for (step, fields) in direct.iter().enumerate() {
            assert!(ahead.next(step as u64).expect("a batch") == fields, "step {step}, {workers} workers");
        }
    }
}

/// That `order` of a source differs from seed to seed at every step, and not within a seed.
pub fn seed_orders<T: PartialEq>(
    folder: &Folder,
    make: impl Fn(Sizes) -> Config,
    order: impl Fn(&Config, &dyn Source) -> Vec<T>,
) {
    let orders = [1, 2, 1 << 40, 1].map(|seed| {
        let config = make(Sizes { seed, ..USUAL });
        order(&config, &*folder.source(&config))
    });
    assert!(orders[0] == orders[3], "the same seed gives another order");
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let equal = orders[one].iter().zip(&orders[other]).filter(|(one, other)| one == other).count();
        assert!(!orders[one].is_empty() && equal == 0, "{equal} steps of {} are the same", orders[one].len());
    }
}

/// The order of training batches as they come, of the first steps.
pub fn batches(config: &Config, source: &dyn Source) -> Vec<Vec<Field>> {
    training(source, config.train.batch, 10).collect()
}

pub fn floats(field: &Field) -> &[f32] {
    let Field::Floats(values) = field else { panic!("{field:?} holds no floats") };
    values
}

/// How often each value is there.
pub fn counts<T: std::hash::Hash + Eq>(values: impl IntoIterator<Item = T>) -> HashMap<T, usize> {
    values.into_iter().fold(HashMap::new(), |mut all, value| {
        *all.entry(value).or_default() += 1;
        all
    })
}

/// Documents of words that come only once, in small letters; those held out are in capitals. Each begins with `begin`.
#[derive(Clone)]
pub struct Texts {
    pub documents: Vec<String>,
    pub every: usize,
}

impl Texts {
    /// All documents are of the same length, in lines of up to six words.
    pub fn new(count: usize, words: usize, every: usize, begin: &str) -> Self {
        let mut number = 0;
        let documents = (0..count).map(|document| {
            let mut text = begin.to_owned();
            for word in 0..words {
                // Words of three letters in base 20, none of them twice.
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

    /// The documents of both sides.
    pub fn sides(&self) -> [Vec<&str>; 2] {
        let of = |held_out| {
            let of_side = move |(number, _): &(usize, &String)| self.is_held_out(*number) == held_out;
            self.documents.iter().enumerate().filter(of_side).map(|(_, text)| text.as_str()).collect()
        };
        [of(false), of(true)]
    }

    /// One document a line.
    pub fn json_lines(documents: &[String], key: &str) -> String {
        documents.iter().map(|text| serde_json::json!({ key: text, "other": "QQQ" }).to_string() + "\n").collect()
    }
}

/// Of what only held-out text has.
pub fn is_sentinel(token: i32) -> bool {
    (i32::from(b'A')..=i32::from(b'Z')).contains(&token)
}

pub fn bytes(text: &str) -> Vec<i32> {
    text.bytes().map(i32::from).collect()
}

/// A token file as llm.c writes it: for GPT-2, and for Llama 3.
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

/// A tokenizer of so many words, numbered from 5 on; before them are the special ones.
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

/// A row of a masked or a labelled batch as it was before anything was hidden.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The text between special tokens: one segment or two.
    pub segments: Vec<Vec<i32>>,
    /// Places in the row that are scored, with what was there.
    pub scored: Vec<(usize, i32)>,
    /// 0 where the second segment goes on with the first.
    pub next: Option<i32>,
}

/// The rows of a masked batch whose micro-batches have `micro` rows. Those without text are left out.
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

/// The texts of `[CLS] text [SEP]` or `[CLS] text [SEP] text [SEP]`.
pub fn segments(ids: &[i32], special: SpecialTokens) -> Vec<Vec<i32>> {
    let (cls, sep) = (special.cls as i32, special.sep as i32);
    let [first, text @ .., last] = ids else { panic!("{ids:?} is no row") };
    assert!(*first == cls && *last == sep, "{ids:?}");
    text.split(|&id| id == sep).map(<[i32]>::to_vec).collect()
}
