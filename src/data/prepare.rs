//! Text to shards, once: the result is cached in a folder named by what it was made from.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::shard::{Shard, write_shard};
use super::text::{HeldOut, decode_text, read_bytes, split};
use super::tokenizer::{Tokenizer, spec_file};
use crate::bail;
use crate::error::{At, Error, Result};
use crate::files::{self, write_atomic, write_dir_atomic};

/// Raised whenever the same inputs would give other files.
const FORMAT: u32 = 1;
const TRAIN: &str = "train.bin";
const VALID: &str = "valid.bin";
const TOKENIZER: &str = "tokenizer.json";
const FACTS: &str = "data.json";

/// What to prepare.
#[derive(Debug, Clone)]
pub struct DataSpec {
    /// A UTF-8 text, or one compressed as `.zst`.
    pub text: PathBuf,
    /// See [`Tokenizer::from_spec`].
    pub tokenizer: String,
    pub held_out: HeldOut,
}

/// A prepared text.
pub struct Dataset {
    pub train: Shard,
    pub valid: Shard,
    pub tokenizer: Tokenizer,
    /// The folder that holds `train.bin`, `valid.bin`, `tokenizer.json` and `data.json`.
    pub dir: PathBuf,
    /// UTF-8 bytes of the training side's text.
    pub train_bytes: u64,
    /// UTF-8 bytes of the held-out side's text.
    pub valid_bytes: u64,
}

impl Dataset {
    /// A name that another text or tokenizer would change.
    pub fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The content of `data.json`, which is written last: where it is, the folder is complete.
#[derive(Serialize, Deserialize)]
struct Facts {
    format: u32,
    text: String,
    tokenizer: String,
    prefix: Option<String>,
    every: usize,
    vocab_size: usize,
    train_tokens: usize,
    valid_tokens: usize,
    train_bytes: u64,
    valid_bytes: u64,
    /// [`Fingerprint`]s of the other files, in hexadecimal.
    train_sum: String,
    valid_sum: String,
    tokenizer_sum: String,
}

/// Opens the prepared data of `spec` under `cache`, making it first where it is missing or damaged.
///
/// The tokenizer is trained on the training side only. `note` gets a short sentence at each stage. Several processes may
/// prepare the same data at once: each works in its own folder, and the first to finish puts it in place.
///
/// # Errors
/// When the text or tokenizer cannot be read or used, the split leaves a side empty, or `cache` cannot be written.
pub fn prepare(spec: &DataSpec, cache: &Path, note: &mut dyn FnMut(&str)) -> Result<Dataset> {
    let bytes = read_bytes(&spec.text)?;
    let dir = cache.join(folder_name(spec, &bytes)?);
    if dir.join(FACTS).exists() {
        match open(&dir) {
            Ok(data) => {
                note(&format!("using {}: {}", dir.display(), token_counts(&data)));
                return Ok(data);
            }
            Err(error) => note(&format!("preparing the data again: {error}")),
        }
    }

    note(&format!("reading {}", spec.text.display()));
    let text = decode_text(&spec.text, bytes)?;
    let (train, valid) = split(&text, &spec.held_out).at(spec.text.display())?;
    drop(text);

    if dir.exists() {
        remove_prepared(&dir);
    }
    let written = write_dir_atomic(&dir, |work| fill(work, spec, &train, &valid, note));
    // Where another process was first, its folder is as good.
    let data = open(&dir).or_else(|damage| written.and(Err(damage)))?;
    note(&token_counts(&data));
    Ok(data)
}

/// Writes the four files into `dir`, `data.json` last.
fn fill(dir: &Path, spec: &DataSpec, train: &str, valid: &str, note: &mut dyn FnMut(&str)) -> Result<()> {
    let trained = spec_file(&spec.tokenizer).is_none();
    note(&format!(
        "{} {}{}",
        if trained { "training" } else { "loading" },
        spec.tokenizer,
        if trained { format!(" on {:.1} MB", train.len() as f64 / 1e6) } else { String::new() },
    ));
    let tokenizer = Tokenizer::from_spec(&spec.tokenizer, train)?;
    tokenizer.save(&dir.join(TOKENIZER))?;

    note(&format!("encoding {:.1} MB", (train.len() + valid.len()) as f64 / 1e6));
    let mut counts = [0; 2];
    for ((text, name), count) in [(train, TRAIN), (valid, VALID)].into_iter().zip(&mut counts) {
        let tokens = tokenizer.encode(text).at(spec.text.display())?;
        if tokens.is_empty() {
            bail!(
                "{}: tokenizer {} gives no tokens for {name}'s side of the text; use another tokenizer",
                spec.text.display(),
                spec.tokenizer
            );
        }
        write_shard(&dir.join(name), &tokens, tokenizer.vocab_size())?;
        *count = tokens.len();
    }

    let facts = Facts {
        format: FORMAT,
        text: spec.text.display().to_string(),
        tokenizer: spec.tokenizer.clone(),
        prefix: spec.held_out.prefix.clone(),
        every: spec.held_out.every,
        vocab_size: tokenizer.vocab_size(),
        train_tokens: counts[0],
        valid_tokens: counts[1],
        train_bytes: train.len() as u64,
        valid_bytes: valid.len() as u64,
        train_sum: sum_of(&dir.join(TRAIN))?,
        valid_sum: sum_of(&dir.join(VALID))?,
        tokenizer_sum: sum_of(&dir.join(TOKENIZER))?,
    };
    let path = dir.join(FACTS);
    let json = serde_json::to_string_pretty(&facts)
        .map_err(|e| Error::new(format!("cannot write {}: {e}", path.display())))?;
    write_atomic(&path, |out| out.write_all(json.as_bytes()))
}

/// Opens a complete folder and checks every file in it against `data.json`.
fn open(dir: &Path) -> Result<Dataset> {
    let path = dir.join(FACTS);
    let facts = read_facts(&path)?;
    // Sums come afterwards: opening compares lengths, so that no file of any length is read for its sum.
    let data = Dataset {
        train: Shard::open(&dir.join(TRAIN))?,
        valid: Shard::open(&dir.join(VALID))?,
        tokenizer: Tokenizer::load(&dir.join(TOKENIZER))?,
        dir: dir.to_owned(),
        train_bytes: facts.train_bytes,
        valid_bytes: facts.valid_bytes,
    };
    for (name, sum) in [(TRAIN, &facts.train_sum), (VALID, &facts.valid_sum), (TOKENIZER, &facts.tokenizer_sum)] {
        check_sum(&dir.join(name), sum)?;
    }
    let found = (
        facts.format,
        data.train.len(),
        data.valid.len(),
        [data.train.vocab_size(), data.valid.vocab_size(), data.tokenizer.vocab_size()],
    );
    let told = (FORMAT, facts.train_tokens, facts.valid_tokens, [facts.vocab_size; 3]);
    if found != told {
        bail!("{}: damaged: its numbers are not those of the files beside it", path.display());
    }
    Ok(data)
}

/// Removes our files and then the folder, which stays if somebody else put something into it.
fn remove_prepared(dir: &Path) {
    for name in [FACTS, TRAIN, VALID, TOKENIZER] {
        // What cannot be removed only takes space.
        let _ = fs::remove_file(dir.join(name));
    }
    let _ = fs::remove_dir(dir);
}

/// `<stem>-<16 hexadecimal digits>`, the digits from everything the prepared files depend on.
fn folder_name(spec: &DataSpec, text: &[u8]) -> Result<String> {
    let mut print = Fingerprint::default();
    print.add(&FORMAT.to_le_bytes());
    print.add(text);
    // The name decides whether the bytes are decompressed.
    print.add(&[u8::from(spec.text.extension().is_some_and(|e| e == "zst"))]);
    print.add(spec.tokenizer.as_bytes());
    if let Some(path) = spec_file(&spec.tokenizer) {
        print.add(&read_bytes(path).at("tokenizer")?);
    }
    print.add(&(spec.held_out.every as u64).to_le_bytes());
    if let Some(prefix) = &spec.held_out.prefix {
        print.add(prefix.as_bytes());
    }
    let name = spec.text.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    let name = name.strip_suffix(".zst").unwrap_or(&name);
    let stem: String = Path::new(name)
        .file_stem()
        .map(|s| s.to_string_lossy())
        .unwrap_or_default()
        .chars()
        .take(64)
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .collect();
    Ok(format!("{stem}-{}", print.hex()))
}

/// The same as [`Fingerprint::add`] of the whole file, without holding it in memory.
fn sum_of(path: &Path) -> Result<String> {
    let io = |e| Error::io("read", path, e);
    let facts = fs::metadata(path).map_err(io)?;
    // Opening a pipe waits for somebody to write into it.
    if !facts.is_file() {
        bail!("cannot read {}: it is not a file; remove its folder to have the data prepared again", path.display());
    }
    let mut file = fs::File::open(path).map_err(io)?;
    let mut left = facts.len();
    let mut print = Fingerprint::default();
    print.word(left);
    let mut block = vec![0; 1 << 20];
    while left > 0 {
        let length = left.min(block.len() as u64) as usize;
        file.read_exact(&mut block[..length]).map_err(io)?;
        print.words(&block[..length]);
        left -= length as u64;
    }
    Ok(print.hex())
}

/// Opens a token shard. One in a prepared folder must have the sum that is written there: damage below the vocabulary's
/// size shows in nothing else.
///
/// # Errors
/// See [`Shard::open`]; another sum than the one written down.
pub fn open_shard(path: &Path) -> Result<Shard> {
    let shard = Shard::open(path)?;
    let facts = path.with_file_name(FACTS);
    if !facts.exists() {
        return Ok(shard);
    }
    let known = read_facts(&facts)?;
    let sum = match path.file_name().and_then(|name| name.to_str()) {
        Some(TRAIN) => known.train_sum,
        Some(VALID) => known.valid_sum,
        _ => return Ok(shard),
    };
    check_sum(path, &sum)?;
    Ok(shard)
}

fn read_facts(path: &Path) -> Result<Facts> {
    serde_json::from_slice(&files::read(path, 1 << 20)?).map_err(|e| {
        Error::new(format!("{}: damaged: {e}; remove its folder to have the data prepared again", path.display()))
    })
}

fn check_sum(path: &Path, sum: &str) -> Result<()> {
    if sum_of(path)? != sum {
        bail!(
            "{}: damaged: its content is not what {FACTS} says; remove its folder to have the data prepared again",
            path.display()
        );
    }
    Ok(())
}

/// A 64-bit hash that stays the same across machines and versions; against accidents, not against an adversary.
#[derive(Default)]
pub(crate) struct Fingerprint {
    state: u64,
}

impl Fingerprint {
    /// Adds one field. The length goes in first, so that bytes cannot move between fields unnoticed.
    pub(crate) fn add(&mut self, field: &[u8]) {
        self.word(field.len() as u64);
        self.words(field);
    }

    fn words(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn word(&mut self, word: u64) {
        // Both steps are bijections of the state, so a change in one word always changes the result.
        let state = (self.state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.state = state ^ (state >> 32);
    }

    pub(crate) fn hex(&self) -> String {
        let mut last = Fingerprint { state: self.state };
        last.word(0);
        last.word(0);
        format!("{:016x}", last.state)
    }
}

fn token_counts(data: &Dataset) -> String {
    format!("{} training tokens, {} held out", grouped(data.train.len()), grouped(data.valid.len()))
}

/// `3160000` as `3,160,000`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
