//! Tokenizes the text of a configuration (`data.text`) once and caches the result, in a folder whose name contains a
//! hash of everything that it depends on.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::manifest::{CacheManifest, FACTS, Manifest, SHARDS, TOKENIZER};
use crate::bail;
use crate::data::fingerprint::{Fingerprint, sum_of};
use crate::data::text::documents::{Division, is_json_lines};
use crate::data::text::reader::{Compression, TextReader};
use crate::data::text::{CONFIG, HeldOut, Marks, Survey, TextSource};
use crate::data::tokenizer::{Tokenizer, spec_file, spec_files};
use crate::data::tokens::shard::Shard;
use crate::data::tokens::shard_writer::{Boundaries, ShardWriter};
use crate::error::{At, Result};
use crate::files::write_dir_atomic;

/// A version number that enters the hash for texts with a byte order mark and for tokenizers from files. Earlier
/// versions of this program read these differently; the number keeps their cached results from being used.
const READING: u32 = 3;
/// The byte order mark in UTF-8.
const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
const TRAIN: &str = SHARDS[0];
const VALID: &str = SHARDS[1];

/// What to prepare.
#[derive(Debug, Clone)]
pub struct DataSpec {
    /// A UTF-8 text or JSON lines file, optionally compressed (Zstandard or gzip).
    pub text: PathBuf,
    /// The tokenizer specification, see [`Tokenizer::from_spec`].
    pub tokenizer: String,
    /// Which part of the text is held out.
    pub held_out: HeldOut,
    /// The key of the text in JSON lines.
    pub field: String,
}

impl DataSpec {
    fn source(&self) -> TextSource {
        TextSource {
            inputs: vec![self.text.clone()],
            marks: self.held_out.prefix.clone().map_or(Marks::None, Marks::Prefix),
            field: self.field.clone(),
            every: self.held_out.every,
            keys: &CONFIG,
        }
    }

    /// Returns whether each split is encoded as one text. JSON lines are not, because nothing separates the words of
    /// two documents.
    fn joined(&self) -> bool {
        !is_json_lines(&self.text)
    }
}

/// A prepared text.
pub struct Dataset {
    /// The training split.
    pub train: Shard,
    /// The held-out split.
    pub valid: Shard,
    /// The tokenizer, trained on the training split or loaded.
    pub tokenizer: Tokenizer,
    /// The folder that holds `train.bin`, `valid.bin`, `tokenizer.json` and `data.json`.
    pub dir: PathBuf,
    /// The number of UTF-8 bytes of the training text.
    pub train_bytes: u64,
    /// The number of UTF-8 bytes of the held-out text.
    pub valid_bytes: u64,
}

/// Opens the prepared data of `spec` under `cache`. If it is missing or damaged, prepares it first.
///
/// The tokenizer is trained only on the training split. `note` gets a progress message at each stage. Several processes
/// may prepare the same data at once: each uses a folder of its own, and the first one to finish renames it into place.
///
/// # Errors
/// Fails if the text or the tokenizer cannot be read or used, if a split would be empty, or if `cache` cannot be
/// written.
pub fn prepare(spec: &DataSpec, cache: &Path, note: &mut dyn FnMut(&str)) -> Result<Dataset> {
    let dir = cache.join(folder_name(spec)?);
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
    let source = spec.source();
    let (division, survey) = source.survey()?;

    if dir.exists() {
        remove_prepared(&dir);
    }
    let written = write_dir_atomic(&dir, |work| fill(work, spec, (&division, &survey), note));
    // If another process was first, use its folder.
    let data = open(&dir).or_else(|damage| written.and(Err(damage)))?;
    note(&token_counts(&data));
    Ok(data)
}

/// Writes the four files into `dir`, `data.json` last.
fn fill(dir: &Path, spec: &DataSpec, read: (&Division, &Survey), note: &mut dyn FnMut(&str)) -> Result<()> {
    let (source, joined, [train_bytes, valid_bytes]) = (spec.source(), spec.joined(), read.1.bytes);
    let trained = spec_file(&spec.tokenizer).is_none();
    note(&format!(
        "{} {}{}",
        if trained { "training" } else { "loading" },
        spec.tokenizer,
        if trained { format!(" on {:.1} MB", train_bytes as f64 / 1e6) } else { String::new() },
    ));
    let tokenizer = source.tokenizer(&spec.tokenizer, read, joined, u64::MAX)?;
    tokenizer.notes().iter().for_each(|text| note(text));
    tokenizer.save(&dir.join(TOKENIZER))?;

    note(&format!("encoding {:.1} MB", (train_bytes + valid_bytes) as f64 / 1e6));
    let boundaries = if joined { Boundaries::Unknown } else { Boundaries::Known { continues: false } };
    let vocab_size = tokenizer.vocab_size();
    let shard = |name: &str| ShardWriter::create(&dir.join(name), vocab_size, boundaries);
    let mut shards = [shard(TRAIN)?, shard(VALID)?];
    let mut begins = [false; 2];
    let mut sink = |ids: &[u32], first: bool, side: usize| {
        begins[side] |= first;
        // A document without tokens is not recorded.
        if !ids.is_empty() && std::mem::take(&mut begins[side]) && !joined {
            shards[side].begin_document();
        }
        shards[side].push(ids)
    };
    source.encode(&tokenizer, read, joined, note, &mut sink).at(spec.text.display())?;
    let counts = [shards[0].len(), shards[1].len()];
    for (shard, name) in shards.into_iter().zip([TRAIN, VALID]) {
        if shard.is_empty() {
            bail!(
                "{}: tokenizer {} gives no tokens for the text of {name}; use another tokenizer",
                spec.text.display(),
                spec.tokenizer
            );
        }
        shard.commit()?;
    }

    let facts = CacheManifest {
        format: CacheManifest::FORMAT,
        text: spec.text.display().to_string(),
        tokenizer: spec.tokenizer.clone(),
        prefix: spec.held_out.prefix.clone(),
        every: spec.held_out.every,
        vocab_size,
        train_tokens: counts[0] as usize,
        valid_tokens: counts[1] as usize,
        train_bytes,
        valid_bytes,
        train_sum: sum_of(&dir.join(TRAIN))?,
        valid_sum: sum_of(&dir.join(VALID))?,
        tokenizer_sum: sum_of(&dir.join(TOKENIZER))?,
    };
    Manifest::Cache(facts).write(dir)
}

/// Opens a complete folder and checks every file in it against `data.json`.
///
/// # Errors
/// Fails if a file is missing or is not the one that `data.json` describes.
pub(in crate::data) fn open(dir: &Path) -> Result<Dataset> {
    let Manifest::Cache(facts) = Manifest::read(dir)? else {
        bail!("{}: not of this cache; remove its folder to have the data prepared again", dir.join(FACTS).display())
    };
    // Compare the hashes last: opening the files checks their lengths, so a file of the wrong length is not read in
    // full.
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
        data.train.len(),
        data.valid.len(),
        [data.train.vocab_size(), data.valid.vocab_size(), data.tokenizer.vocab_size()],
    );
    let expected = (facts.train_tokens, facts.valid_tokens, [facts.vocab_size; 3]);
    if found != expected {
        bail!("{}: damaged: its numbers do not match the files beside it", dir.join(FACTS).display());
    }
    Ok(data)
}

/// Removes the files of this cache, and then the folder unless it contains anything else.
fn remove_prepared(dir: &Path) {
    for name in [FACTS, TRAIN, VALID, TOKENIZER] {
        // A file that cannot be removed only takes space.
        let _ = fs::remove_file(dir.join(name));
    }
    let _ = fs::remove_dir(dir);
}

/// Returns the name of the folder: `<stem>-<16 hexadecimal digits>`, where the digits are a hash of everything the
/// prepared files depend on.
fn folder_name(spec: &DataSpec) -> Result<String> {
    // Reports errors in the path before the whole file is read.
    TextReader::open(&spec.text)?;
    let mut print = Fingerprint::default();
    print.add(&CacheManifest::FORMAT.to_le_bytes());
    print.add_file(&spec.text)?;
    // The content, or else the name, decides how the bytes are read.
    let json = is_json_lines(&spec.text);
    let mut begin = [0; 4];
    let read = fs::File::open(&spec.text).and_then(|mut file| file.read(&mut begin)).unwrap_or_default();
    let compression = match Compression::of(&spec.text, &begin[..read]) {
        Compression::None => 0,
        Compression::Zstd => 1,
        Compression::Gzip => 2,
    };
    print.add(&[compression | u8::from(json) << 2]);
    print.add(spec.tokenizer.as_bytes());
    if begin[..read].starts_with(&MARK) || spec_file(&spec.tokenizer).is_some() {
        print.add(&READING.to_le_bytes());
    }
    for path in spec_files(&spec.tokenizer).at("tokenizer")? {
        print.add_file(&path).at("tokenizer")?;
    }
    print.add(&(spec.held_out.every as u64).to_le_bytes());
    if let Some(prefix) = &spec.held_out.prefix {
        print.add(prefix.as_bytes());
    }
    if json {
        print.add(spec.field.as_bytes());
    }
    let name = spec.text.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
    let name = name.strip_suffix(".zst").or_else(|| name.strip_suffix(".gz")).unwrap_or(&name);
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

/// Opens a token file. A file in a folder of prepared data must have the hash that is recorded in its `data.json`,
/// because damage that leaves all tokens below the vocabulary size cannot be detected otherwise.
///
/// # Errors
/// Fails on errors of [`Shard::open_any`], if `data.json` is damaged, or if the hash differs.
pub fn open_shard(path: &Path, vocab: Option<usize>) -> Result<Shard> {
    let shard = Shard::open_any(path, vocab)?;
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.join(FACTS).exists() {
        return Ok(shard);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let manifest = Manifest::read(dir)?;
    manifest.sum(name).map_or(Ok(()), |sum| check_sum(path, sum))?;
    Ok(shard)
}

fn check_sum(path: &Path, sum: &str) -> Result<()> {
    if sum_of(path)? != sum {
        bail!(
            "{}: damaged: its content does not match {FACTS}; remove its folder to have the data prepared again",
            path.display()
        );
    }
    Ok(())
}

fn token_counts(data: &Dataset) -> String {
    format!("{} training tokens, {} held out", grouped(data.train.len() as u64), grouped(data.valid.len() as u64))
}

/// Formats a number with thousands separators: `3160000` as `3,160,000`.
pub(crate) fn grouped(number: u64) -> String {
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
