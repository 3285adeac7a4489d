//! Text to token ids and back, always in the Hugging Face `tokenizer.json` form, to which others are brought.

pub(crate) mod added_tokens;
pub mod encoder;
pub(crate) mod untrusted;
pub(crate) mod vocab_files;
pub mod vocabulary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::fingerprint::Fingerprint;
use crate::bail;
use crate::error::{At, Error, Result};
use crate::files;
use added_tokens::SETTINGS;
use encoder::{Cut, Encoder, PIECE_BYTES, TRAINING_CUT, pieces};
use untrusted::guarded;
use vocab_files::{Files, Source, TOKENIZER};

/// The longest `tokenizer.json` that is read: ten times the largest published one.
pub const TOKENIZER_BYTES: u64 = 512 << 20;
/// What a tokenizer specification may be, for error messages.
const FORMS: &str = "give `char`, `byte`, `bpe:N` (N tokens, for instance bpe:1024), or the path of a tokenizer.json, a vocab.txt, \
                     a vocab.json, or their folder";
/// A byte-level vocabulary: one token per byte value.
const BYTES: usize = 256;
/// Far above any published vocabulary, and small enough that the trainer's tables fit in memory.
const MAX_BPE: usize = 1 << 20;
/// The token of `char` for a character the training text does not have. More than one character, so it is none itself.
const UNKNOWN: &str = "<unk>";

/// A tokenizer that works without special tokens, truncation or padding.
pub struct Tokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    vocab_size: usize,
    cut: Cut,
    notes: Vec<String>,
    /// What a `tokenizer_config.json` beside it should say.
    kept: Map<String, Value>,
}

impl Tokenizer {
    /// Makes the tokenizer that `spec` names:
    ///
    /// - `char`: the distinct characters of `training_text` in code-point order, then one token for any other
    ///   character;
    /// - `byte`: the 256 byte values; any text round-trips;
    /// - `bpe:N`: byte-level byte-pair encoding as in GPT-2, trained on `training_text` to at most N tokens (257 or
    ///   more), with no special tokens; any text round-trips;
    /// - the path of any `tokenizer.json`, of a `vocab.json` with its `merges.txt` (GPT-2; also `encoder.json` with `vocab.bpe`), of
    ///   a `vocab.txt` (BERT), or of a folder with one of them, in each case with the added tokens that the files beside it
    ///   name. Before a `vocab.txt` or its folder, `uncased:` or `cased:` says whether text becomes
    ///   lower case; else the `tokenizer_config.json` beside it must.
    ///
    /// # Errors
    /// When `spec` is none of these, N is out of range, or the file cannot be read or used.
    pub fn from_spec(spec: &str, training_text: &str) -> Result<Tokenizer> {
        Self::from_pieces(spec, pieces(training_text, TRAINING_CUT, PIECE_BYTES))
    }

    /// As [`Tokenizer::from_spec`], from a training text that comes in pieces. They are looked at one by one, so none
    /// should end within a word; see [`TRAINING_CUT`].
    ///
    /// # Errors
    /// As [`Tokenizer::from_spec`].
    pub fn from_pieces<S>(spec: &str, training: impl Iterator<Item = S> + Send) -> Result<Tokenizer>
    where
        S: AsRef<str> + Send,
    {
        match spec {
            "char" => Self::from_json(char_json(training).to_string().as_bytes()),
            "byte" => Self::from_json(byte_json().to_string().as_bytes()),
            _ => match spec.strip_prefix("bpe:") {
                Some(size) => train_bpe(size, training),
                None => match spec_path(spec) {
                    Some((path, lower)) => Self::load_as(path, lower),
                    None => bail!("unknown tokenizer `{spec}`; {FORMS}"),
                },
            },
        }
        .at("tokenizer")
    }

    /// Reads a `tokenizer.json`, or one of the other forms of [`Tokenizer::from_spec`]; truncation and padding are switched
    /// off.
    ///
    /// # Errors
    /// When the file is missing, unreadable, not a tokenizer, or has no tokens.
    pub fn load(path: &Path) -> Result<Tokenizer> {
        Self::load_as(path, None)
    }

    /// Whether a folder has a tokenizer, in any form.
    pub fn is_in(folder: &Path) -> bool {
        folder.is_dir() && Files::find(folder).is_ok()
    }

    /// The `vocab.txt` that is a folder's tokenizer, where nothing says whether its text is in lower case: it can be named
    /// with `uncased:` or `cased:`, and not be loaded as it is.
    ///
    /// # Errors
    /// A folder without a tokenizer; settings beside it that cannot be read.
    pub fn of_unknown_case(folder: &Path) -> Result<Option<PathBuf>> {
        Ok(Files::find(folder)?.of_unknown_case()?.map(Path::to_path_buf))
    }

    fn load_as(path: &Path, lower: Option<bool>) -> Result<Tokenizer> {
        Self::of(path, Files::find(path)?.source(lower)?)
    }

    fn of(path: &Path, Source { json, notes, kept }: Source) -> Result<Tokenizer> {
        let mut tokenizer = Self::from_json(&json).at(path.display())?;
        let own = tokenizer.notes.drain(..).map(|note| format!("{}: {note}", path.display()));
        tokenizer.notes = notes.into_iter().chain(own.collect::<Vec<_>>()).collect();
        tokenizer.kept = kept;
        Ok(tokenizer)
    }

    pub(super) fn kept(&self) -> &Map<String, Value> {
        &self.kept
    }

    /// What a person should know about it, each in a sentence.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The same with other contents.
    pub(super) fn replaced(&self, json: &Value) -> Result<Tokenizer> {
        let tokenizer = Self::from_json(json.to_string().as_bytes())?;
        Ok(Tokenizer { notes: self.notes.clone(), kept: self.kept.clone(), ..tokenizer })
    }

    pub(super) fn from_json(bytes: &[u8]) -> Result<Tokenizer> {
        let unusable = |e: &dyn std::fmt::Display| {
            Error::new(format!("not a usable tokenizer.json: {e}; save it again from the tokenizers library"))
        };
        let bytes = files::without_mark(bytes);
        let mut json: Value = serde_json::from_slice(bytes).map_err(|e| unusable(&e))?;
        untrusted::check(&json)?;
        let (mut notes, mut without) = (Vec::new(), Vec::new());
        if let Some(rate) = json["model"]["dropout"].as_f64().filter(|&rate| rate != 0.0) {
            notes.push(format!(
                "it passes over merges at random (dropout {rate}), which is switched off: a text always gives the same tokens"
            ));
            json["model"]["dropout"] = Value::Null;
            without = json.to_string().into_bytes();
        }
        let bytes = if without.is_empty() { bytes } else { &without };
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(|e| unusable(&e))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        // Ids may have gaps, and an embedding needs a row for the largest.
        let vocab = inner.get_vocab(true);
        untrusted::check_distinct(&vocab)?;
        let Some(&largest) = vocab.values().max() else {
            bail!("the tokenizer has no tokens; give one that was trained");
        };
        let vocab_size = untrusted::check_ids(largest, vocab.len())?;
        let mut tokenizer = Tokenizer { inner, vocab_size, cut: Cut::Rarely, notes, kept: Map::new() };
        tokenizer.cut = tokenizer.find_cut()?;
        Ok(tokenizer)
    }

    /// The first kind of cut that leaves the tokens of a text with every kind of line end as they are.
    fn find_cut(&self) -> Result<Cut> {
        let sample =
            "Some words.\nAnd more\nof them, 12\n\nA paragraph!\n\n\nanother \n  indented\r\n\r\nlast? \n\tx\ny";
        let whole = guarded(|| self.inner.encode_fast(sample, false))?;
        let added = self.inner.get_added_tokens_decoder();
        // Added tokens may take white space with them, or have line ends within.
        let parted = |cut| {
            added.values().any(|token| match cut {
                _ if token.content.contains('\n') => true,
                Cut::BeforeNewline => token.rstrip,
                Cut::AfterNewline | Cut::Rarely => token.lstrip,
            })
        };
        for cut in [Cut::BeforeNewline, Cut::AfterNewline].into_iter().filter(|&cut| !parted(cut)) {
            let mut ids = Vec::new();
            for piece in pieces(sample, cut, 1) {
                let encoding = guarded(|| self.inner.encode_fast(piece, false))?;
                ids.extend_from_slice(encoding.get_ids());
            }
            if ids == whole.get_ids() {
                return Ok(cut);
            }
        }
        Ok(Cut::Rarely)
    }

    /// One more than the largest token id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The tokens of `text`, without special tokens around it; the same text always gives the same tokens.
    ///
    /// The text is encoded on several threads in pieces of a few kilobytes, cut where that changes no token. Only for a
    /// tokenizer that knows no such place (SentencePiece) do the pieces, of about 1 MiB, show.
    ///
    /// # Errors
    /// When the tokenizer has no token for a part of the text and none for the unknown.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut encoder = Encoder::new(self);
        let mut keep = |part: &[u32], _| {
            ids.extend_from_slice(part);
            Ok(())
        };
        encoder.push(text, &mut keep)?;
        encoder.finish(&mut keep)?;
        Ok(ids)
    }

    /// The tokens of each piece, computed on several threads.
    pub(super) fn encode_pieces(&self, pieces: Vec<&str>) -> Result<Vec<tokenizers::Encoding>> {
        guarded(|| self.inner.encode_batch_fast(pieces, false))
    }

    /// Where texts may be cut for this tokenizer.
    pub(super) fn cut(&self) -> Cut {
        self.cut
    }

    /// Whether an id is that of a token.
    pub fn has(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
    }

    /// The text of `ids`. Bytes that are not UTF-8, as when `ids` cut a character in two, become U+FFFD.
    ///
    /// # Errors
    /// When an id is not below [`Tokenizer::vocab_size`], or is one the vocabulary skips.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        for (at, &id) in ids.iter().enumerate() {
            if id as usize >= self.vocab_size || self.inner.id_to_token(id).is_none() {
                bail!(
                    "cannot decode token {id} at position {at}: the tokenizer has no such token (vocabulary size {}); \
                     use the tokenizer the ids were made with",
                    self.vocab_size
                );
            }
        }
        guarded(|| self.inner.decode(ids, false))
    }

    /// A sum that another vocabulary, or one in another order, would not have.
    pub fn sum(&self) -> String {
        let mut tokens: Vec<_> = self.inner.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        tokens.sort_unstable();
        let mut print = Fingerprint::default();
        for (id, token) in tokens {
            print.add(&id.to_le_bytes());
            print.add(token.as_bytes());
        }
        print.hex()
    }

    /// Writes `tokenizer.json` into the folder of a model, and a `tokenizer_config.json` by which `transformers` takes it as it is: on
    /// its own, a class of the model's family would bring its own rules and tokens to it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_in(&self, folder: &Path) -> Result<()> {
        self.save(&folder.join(TOKENIZER))?;
        self.save_settings(folder)
    }

    /// The `tokenizer.json` of a folder, as it is or made of other forms.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn file_of(folder: &Path) -> Result<Vec<u8>> {
        let files = Files::find(folder)?;
        let source = files.source(None)?;
        if let Files::Json(_) = files {
            return Ok(source.json);
        }
        let tokenizer = Self::of(folder, source)?;
        tokenizer.inner.to_string(false).map(String::into_bytes).map_err(failed)
    }

    /// Brings the tokenizer of a folder, in any form, to another one, as [`Tokenizer::save_in`] writes it; a `tokenizer.json` stays
    /// as it is. Gives its notes.
    ///
    /// # Errors
    /// As [`Tokenizer::load`] and [`Tokenizer::save_in`].
    pub fn copy(from: &Path, to: &Path) -> Result<Vec<String>> {
        let files = Files::find(from)?;
        let source = files.source(None)?;
        let json = source.json.clone();
        let tokenizer = Self::of(from, source)?;
        match files {
            Files::Json(_) => files::write_atomic(&to.join(TOKENIZER), |out| out.write_all(&json))?,
            Files::BytePairs { .. } | Files::WordPieces { .. } => tokenizer.save(&to.join(TOKENIZER))?,
        }
        tokenizer.save_settings(to)?;
        Ok(tokenizer.notes)
    }

    fn save_settings(&self, folder: &Path) -> Result<()> {
        let settings = Value::Object(self.settings());
        files::write_atomic(&folder.join(SETTINGS), |out| out.write_all(format!("{settings:#}\n").as_bytes()))
    }

    /// Writes `tokenizer.json` to `path`, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = self.inner.to_string(false).map_err(failed)?;
        files::write_atomic(path, |out| out.write_all(json.as_bytes()))
    }
}

/// The file or folder a specification names, if it names one.
pub(crate) fn spec_file(spec: &str) -> Option<&Path> {
    spec_path(spec).map(|(path, _)| path)
}

/// All files that are read for a specification: none where it names none.
///
/// # Errors
/// A folder without a tokenizer.
pub(super) fn spec_files(spec: &str) -> Result<Vec<PathBuf>> {
    spec_file(spec).map_or(Ok(Vec::new()), |path| Ok(Files::find(path)?.paths()))
}

/// The path in a specification, and whether text shall become lower case, where it says so.
fn spec_path(spec: &str) -> Option<(&Path, Option<bool>)> {
    if spec == "char" || spec == "byte" || spec.starts_with("bpe:") {
        return None;
    }
    for (prefix, lower) in [("uncased:", true), ("cased:", false)] {
        if let Some(path) = spec.strip_prefix(prefix) {
            return Some((Path::new(path), Some(lower)));
        }
    }
    let path = Path::new(spec);
    let named = path.extension().is_some_and(|e| e == "json" || e == "txt");
    (named || path.exists()).then_some((path, None))
}

pub(super) fn failed(error: tokenizers::Error) -> Error {
    Error::new(format!("the tokenizers library failed: {error}; check the tokenizer, or use another"))
}

/// A `tokenizer.json` whose model has these tokens and no merges.
fn json_without_merges(vocab: Map<String, Value>, unknown: Option<&str>, coding: [Value; 2]) -> Value {
    let [pre_tokenizer, decoder] = coding;
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": decoder,
        "model": {"type": "BPE", "unk_token": unknown, "fuse_unk": false, "vocab": vocab, "merges": []},
    })
}

fn char_json<S: AsRef<str>>(training: impl Iterator<Item = S>) -> Value {
    let mut characters = BTreeSet::new();
    training.for_each(|piece| characters.extend(piece.as_ref().chars()));
    let tokens = characters.into_iter().map(String::from).chain([UNKNOWN.to_owned()]);
    json_without_merges(number(tokens), Some(UNKNOWN), [Value::Null, json!({"type": "Fuse"})])
}

fn byte_json() -> Value {
    let stage = |use_regex: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": false,
            "trim_offsets": false,
            "use_regex": use_regex,
        })
    };
    json_without_merges(number(byte_tokens()), None, [stage(false), stage(false)])
}

/// The tokens of the byte values 0 to 255, in GPT-2's printable form: printable bytes stand for themselves, the others
/// for the code points from 256 on.
fn byte_tokens() -> impl Iterator<Item = String> {
    let mut next = 256u32;
    (0..=255u8).map(move |byte| {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).map(String::from).unwrap_or_default()
    })
}

fn number(tokens: impl Iterator<Item = String>) -> Map<String, Value> {
    tokens.enumerate().map(|(id, token)| (token, Value::from(id))).collect()
}

fn train_bpe<S: AsRef<str> + Send>(size: &str, training: impl Iterator<Item = S> + Send) -> Result<Tokenizer> {
    let size = match size.parse::<usize>() {
        Ok(size) if (BYTES + 1..=MAX_BPE).contains(&size) => size,
        _ => bail!(
            "`bpe:{size}` is no size of a vocabulary; give a whole number from {} (256 bytes and a merge) to {MAX_BPE}",
            BYTES + 1
        ),
    };
    let model = tokenizers::models::bpe::BPE::default();
    let mut trained = tokenizers::Tokenizer::new(model);
    let byte_level = ByteLevel::new(false, false, true);
    trained.with_pre_tokenizer(Some(byte_level));
    trained.with_decoder(Some(byte_level));
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    trained.train(&mut trainer, training).map_err(failed)?;
    // Through the file's form, so that a fresh tokenizer and a loaded one cannot differ.
    let json = trained.to_string(false).map_err(failed)?;
    Tokenizer::from_json(json.as_bytes())
}
