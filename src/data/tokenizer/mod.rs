//! Converts text to token ids and back. Tokenizers are in the Hugging Face `tokenizer.json` form; older forms are
//! converted to it.

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

/// The largest `tokenizer.json` that is read, in bytes: ten times the largest published one.
pub const TOKENIZER_BYTES: u64 = 512 << 20;
/// The accepted tokenizer specifications, for error messages.
const FORMS: &str = "give `char`, `byte`, `bpe:N` (N tokens, e.g. bpe:1024), or the path of a tokenizer.json, a \
                     vocab.txt, a vocab.json, or a folder with one of them";
/// The size of a byte-level vocabulary without merges: one token per byte value.
const BYTES: usize = 256;
/// The largest vocabulary that is trained. It is far larger than any published one, and the trainer's tables still fit
/// in memory.
const MAX_BPE: usize = 1 << 20;
/// The token of `char` for characters that the training text does not have. It is longer than one character, so it
/// cannot collide with one.
const UNKNOWN: &str = "<unk>";

/// A tokenizer. It encodes without special tokens, truncation or padding.
pub struct Tokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    vocab_size: usize,
    cut: Cut,
    notes: Vec<String>,
    /// Additional entries for the `tokenizer_config.json` that is written beside it.
    kept: Map<String, Value>,
}

impl Tokenizer {
    /// Trains or loads the tokenizer that `spec` names:
    ///
    /// - `char`: the distinct characters of `training_text` in code-point order, then one token for any other
    ///   character;
    /// - `byte`: the 256 byte values; any text round-trips;
    /// - `bpe:N`: byte-level byte-pair encoding as in GPT-2, trained on `training_text` to at most N tokens (257 or
    ///   more), with no special tokens; any text round-trips;
    /// - the path of any `tokenizer.json`, of a `vocab.json` with its `merges.txt` (GPT-2; also `encoder.json` with
    ///   `vocab.bpe`), of a `vocab.txt` (BERT), or of a folder with one of them, in each case with the added tokens
    ///   that the files beside it name. For a `vocab.txt` or its folder, the prefix `uncased:` or `cased:` says whether
    ///   to convert text to lower case; without a prefix, the `tokenizer_config.json` beside it must say so.
    ///
    /// # Errors
    /// Fails if `spec` is none of these, N is out of range, or the file cannot be read or used.
    pub fn from_spec(spec: &str, training_text: &str) -> Result<Tokenizer> {
        Self::from_pieces(spec, pieces(training_text, TRAINING_CUT, PIECE_BYTES))
    }

    /// Trains or loads the tokenizer that `spec` names, like [`Tokenizer::from_spec`], from a training text in pieces.
    /// No piece should end within a word, because each is processed separately; see [`TRAINING_CUT`].
    ///
    /// # Errors
    /// See [`Tokenizer::from_spec`].
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

    /// Reads a `tokenizer.json` or one of the other files that [`Tokenizer::from_spec`] accepts. Truncation and padding
    /// are disabled.
    ///
    /// # Errors
    /// Fails if the file is missing, unreadable, not a tokenizer, or has no tokens.
    pub fn load(path: &Path) -> Result<Tokenizer> {
        Self::load_as(path, None)
    }

    /// Returns whether a folder contains a tokenizer in any form.
    pub fn is_in(folder: &Path) -> bool {
        folder.is_dir() && Files::find(folder).is_ok()
    }

    /// Returns the `vocab.txt` of a folder if that is its tokenizer and no file says whether its text is in lower case.
    /// Such a tokenizer can only be loaded with the prefix `uncased:` or `cased:`.
    ///
    /// # Errors
    /// Fails if the folder has no tokenizer, or if its `tokenizer_config.json` cannot be read.
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

    /// Returns additional entries for the `tokenizer_config.json` of this tokenizer.
    pub(super) fn kept(&self) -> &Map<String, Value> {
        &self.kept
    }

    /// Returns notes for the user about this tokenizer.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns the tokenizer of another `tokenizer.json`, with the notes and settings of this one.
    pub(super) fn replaced(&self, json: &Value) -> Result<Tokenizer> {
        let tokenizer = Self::from_json(json.to_string().as_bytes())?;
        Ok(Tokenizer { notes: self.notes.clone(), kept: self.kept.clone(), ..tokenizer })
    }

    /// Returns the tokenizer of the content of a `tokenizer.json`.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Tokenizer> {
        let unusable = |e: &dyn std::fmt::Display| {
            Error::new(format!("not a usable tokenizer.json: {e}; save it again with the tokenizers library"))
        };
        let bytes = files::strip_bom(bytes);
        let mut json: Value = serde_json::from_slice(bytes).map_err(|e| unusable(&e))?;
        untrusted::check(&json)?;
        let (mut notes, mut without) = (Vec::new(), Vec::new());
        if let Some(rate) = json["model"]["dropout"].as_f64().filter(|&rate| rate != 0.0) {
            notes.push(format!(
                "disabled its BPE dropout ({rate}), which skips merges at random, so that a text always gives the same \
                 tokens"
            ));
            json["model"]["dropout"] = Value::Null;
            without = json.to_string().into_bytes();
        }
        let bytes = if without.is_empty() { bytes } else { &without };
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(|e| unusable(&e))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        // Ids may have gaps; the embedding needs a row for each id up to the largest.
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

    /// Returns the first kind of cut that does not change the tokens of a sample text with all kinds of line ends.
    fn find_cut(&self) -> Result<Cut> {
        let sample =
            "Some words.\nAnd more\nof them, 12\n\nA paragraph!\n\n\nanother \n  indented\r\n\r\nlast? \n\tx\ny";
        let whole = guarded(|| self.inner.encode_fast(sample, false))?;
        let added = self.inner.get_added_tokens_decoder();
        // Added tokens may include the whitespace around them, or contain line ends.
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

    /// Returns the vocabulary size: one more than the largest token id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Returns the tokens of `text`, without special tokens around it. The same text always gives the same tokens.
    ///
    /// The text is encoded on several threads in pieces of a few kilobytes, cut at places where a cut changes no token.
    /// Some tokenizers (SentencePiece) have no such places; for these the pieces have about 1 MiB, and the cuts affect
    /// the tokens.
    ///
    /// # Errors
    /// Fails if the tokenizer has neither tokens for a part of the text nor an unknown token.
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

    /// Encodes each piece, on several threads.
    pub(super) fn encode_pieces(&self, pieces: Vec<&str>) -> Result<Vec<tokenizers::Encoding>> {
        guarded(|| self.inner.encode_batch_fast(pieces, false))
    }

    /// Returns where texts may be cut for this tokenizer.
    pub(super) fn cut(&self) -> Cut {
        self.cut
    }

    /// Returns whether a token has this id.
    pub fn has(&self, id: u32) -> bool {
        self.inner.id_to_token(id).is_some()
    }

    /// Returns the text of `ids`. Bytes that are not UTF-8, for example if `ids` end within a character, become U+FFFD.
    ///
    /// # Errors
    /// Fails if an id is not below [`Tokenizer::vocab_size`], or if no token has it.
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

    /// Returns a hash of all tokens and their ids, in hexadecimal.
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

    /// Writes `tokenizer.json` into the folder of a model, and a `tokenizer_config.json` that makes `transformers` use
    /// it unchanged. Without it, the tokenizer class of the model family would apply its own rules and add its own
    /// tokens.
    ///
    /// # Errors
    /// Fails if a file cannot be written.
    pub fn save_in(&self, folder: &Path) -> Result<()> {
        self.save(&folder.join(TOKENIZER))?;
        self.save_settings(folder)
    }

    /// Returns the content of the `tokenizer.json` of a folder, or the one built from the older forms if there is none.
    ///
    /// # Errors
    /// See [`Tokenizer::load`].
    pub fn file_of(folder: &Path) -> Result<Vec<u8>> {
        let files = Files::find(folder)?;
        let source = files.source(None)?;
        if let Files::Json(_) = files {
            return Ok(source.json);
        }
        let tokenizer = Self::of(folder, source)?;
        tokenizer.inner.to_string(false).map(String::into_bytes).map_err(failed)
    }

    /// Copies the tokenizer of a folder, in any form, to another folder, with the files that [`Tokenizer::save_in`]
    /// writes. A `tokenizer.json` is copied as it is read by [`Tokenizer::load`], without being rewritten by the
    /// tokenizers library. Returns the notes about the tokenizer.
    ///
    /// # Errors
    /// See [`Tokenizer::load`] and [`Tokenizer::save_in`].
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

    /// Writes the `tokenizer.json` to `path`, atomically.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = self.inner.to_string(false).map_err(failed)?;
        files::write_atomic(path, |out| out.write_all(json.as_bytes()))
    }
}

/// Returns the file or folder that a specification names, if any.
pub(crate) fn spec_file(spec: &str) -> Option<&Path> {
    spec_path(spec).map(|(path, _)| path)
}

/// Returns all files that are read for a specification; none for `char`, `byte` and `bpe:N`.
///
/// # Errors
/// Fails if the specification names a folder without a tokenizer.
pub(super) fn spec_files(spec: &str) -> Result<Vec<PathBuf>> {
    spec_file(spec).map_or(Ok(Vec::new()), |path| Ok(Files::find(path)?.paths()))
}

/// Returns the path in a specification, and whether to convert text to lower case if it has a prefix that says so.
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

/// Converts an error of the tokenizers library.
pub(super) fn failed(error: tokenizers::Error) -> Error {
    Error::new(format!("the tokenizers library failed: {error}; check the tokenizer, or use another one"))
}

/// Returns a `tokenizer.json` with this vocabulary and no merges. `coding` is its pre-tokenizer and its decoder.
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

/// Returns the tokens of the byte values 0 to 255 in GPT-2's printable form: a printable byte is its own code point,
/// the others are mapped to the code points from 256 on.
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

/// Numbers tokens from zero.
fn number(tokens: impl Iterator<Item = String>) -> Map<String, Value> {
    tokens.enumerate().map(|(id, token)| (token, Value::from(id))).collect()
}

fn train_bpe<S: AsRef<str> + Send>(size: &str, training: impl Iterator<Item = S> + Send) -> Result<Tokenizer> {
    let size = match size.parse::<usize>() {
        Ok(size) if (BYTES + 1..=MAX_BPE).contains(&size) => size,
        _ => bail!(
            "`bpe:{size}` is not a vocabulary size; give a whole number from {} (256 bytes and a merge) to {MAX_BPE}",
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
    // Go through the file format, so that a newly trained tokenizer and a loaded one cannot differ.
    let json = trained.to_string(false).map_err(failed)?;
    Tokenizer::from_json(json.as_bytes())
}
