//! Reads the tokens that were added to a vocabulary from the files that `transformers` writes beside it.
//!
//! `added_tokens.json` maps tokens to ids. `added_tokens_decoder` in `tokenizer_config.json` maps ids to tokens.
//! `special_tokens_map.json` and keys such as `pad_token` say which tokens are special.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::bail;
use crate::error::{At, Error, Result};
use crate::files;

pub(in crate::data) const SETTINGS: &str = "tokenizer_config.json";
const IDS: &str = "added_tokens.json";
const SPECIAL: &str = "special_tokens_map.json";
/// The largest of these files that is read, in bytes.
const BYTES: u64 = 16 << 20;
/// The keys of special tokens.
pub(in crate::data) const KEYS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Other keys of `tokenizer_config.json` that hold for a tokenizer in any form.
const KEPT: [&str; 2] = ["chat_template", "model_max_length"];
/// The keys of lists of special tokens.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// The JSON object in a file beside a vocabulary; empty if there is no such file.
pub(in crate::data) struct Settings {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Settings {
    /// Reads the `tokenizer_config.json` beside a vocabulary.
    ///
    /// # Errors
    /// Fails if the file is there and cannot be read as a JSON object.
    pub fn beside(vocab: &Path) -> Result<Self> {
        Self::read(vocab.with_file_name(SETTINGS))
    }

    fn read(path: PathBuf) -> Result<Self> {
        if !path.exists() {
            return Ok(Settings { path, map: Map::new() });
        }
        let bytes = files::read(&path, BYTES)?;
        let map = serde_json::from_slice(files::strip_bom(&bytes))
            .map_err(|e| Error::new(format!("not a JSON object: {e}; correct or remove it")))
            .at(path.display())?;
        Ok(Settings { path, map })
    }

    /// Returns the boolean under a key, or `None` if the key is absent or null.
    ///
    /// # Errors
    /// Fails if the value is anything else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => bail!("{}: {key} is {other}; set it to true or false", self.path.display()),
        }
    }

    /// Returns the special token under a key, which may be a string or an object with its content, or `default` if the
    /// key is absent or null.
    ///
    /// # Errors
    /// Fails if the value is anything else.
    pub fn token(&self, key: &str, default: &str) -> Result<String> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(default.to_owned()),
            Some(value) => match content(value) {
                Some(token) => Ok(token.to_owned()),
                None => bail!("{}: {key} is {value}; set it to the token in quotes", self.path.display()),
            },
        }
    }

    /// Returns the value of `tokenizer_class`.
    pub fn class(&self) -> Option<&str> {
        self.map.get("tokenizer_class").and_then(Value::as_str)
    }

    /// Returns the settings that a `tokenizer.json` cannot express (the roles of special tokens, the chat template,
    /// ...), from the files beside `vocab`.
    ///
    /// # Errors
    /// Fails if one of the files cannot be read.
    pub fn kept(vocab: &Path) -> Result<Map<String, Value>> {
        let map = Self::read(vocab.with_file_name(SPECIAL))?.map;
        let settings = Self::beside(vocab)?.map;
        let is_kept = |key: &String| KEYS.contains(&key.as_str()) || KEPT.contains(&key.as_str());
        Ok(map.into_iter().chain(settings).filter(|(key, value)| is_kept(key) && !value.is_null()).collect())
    }

    /// Returns all special tokens, as strings or objects.
    fn special(&self) -> impl Iterator<Item = &Value> {
        let one = KEYS.iter().filter_map(|key| self.map.get(*key));
        let lists = LISTS.iter().filter_map(|key| self.map.get(*key));
        one.chain(lists.flat_map(|list| match list {
            Value::Array(tokens) => tokens.iter().collect::<Vec<_>>(),
            Value::Object(tokens) => tokens.values().collect(),
            _ => Vec::new(),
        }))
    }
}

/// Returns the text of a token, which is a string or an object with its content.
pub(in crate::data) fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// Returns the existing files beside a vocabulary that are read with it.
pub(in crate::data) fn files_beside(vocab: &Path) -> impl Iterator<Item = PathBuf> {
    [SETTINGS, IDS, SPECIAL].map(|name| vocab.with_file_name(name)).into_iter().filter(|path| path.exists())
}

/// Returns an entry for `added_tokens` of a `tokenizer.json`. Added tokens are found in a text before it is tokenized.
/// `flags` is an object that may set its other options.
pub(in crate::data) fn token(text: &str, id: u32, special: bool, flags: &Value) -> Value {
    let flag = |key: &str, default: bool| flags[key].as_bool().unwrap_or(default);
    json!({
        "id": id,
        "content": text,
        "single_word": flag("single_word", false),
        "lstrip": flag("lstrip", false),
        "rstrip": flag("rstrip", false),
        "normalized": flag("normalized", !special),
        "special": special,
    })
}

/// Returns the tokens that the files beside `vocab` add, sorted by id. `id` looks up a token in the vocabulary, which
/// has `size` ids. `known` are the special tokens of this kind of vocabulary.
///
/// As in `transformers`, `added_tokens.json` is ignored if `tokenizer_config.json` lists the added tokens, a token of
/// the vocabulary keeps its id, and the others are numbered consecutively from the end of the vocabulary, in the order
/// of the ids in the files. Deviations from what the files say are reported in `notes`.
///
/// # Errors
/// Fails if a file cannot be read, if an id is invalid, or if two tokens share an id.
pub(in crate::data) fn read(
    vocab: &Path,
    known: &[&str],
    size: usize,
    id: impl Fn(&str) -> Option<u32>,
    notes: &mut Vec<String>,
) -> Result<Vec<Value>> {
    let [settings, map] = [SETTINGS, SPECIAL].map(|name| Settings::read(vocab.with_file_name(name)));
    let (settings, map, ids) = (settings?, map?, Settings::read(vocab.with_file_name(IDS))?);
    let special: BTreeMap<&str, &Value> =
        map.special().chain(settings.special()).filter_map(|token| Some((content(token)?, token))).collect();
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    let mut add = |text: &str, number: u32, special: bool, flags: &Value| {
        all.insert(text.to_owned(), token(text, number, special, flags));
    };
    let of_vocabulary = |text: &str| id(text).map(|number| (text.to_owned(), number));
    known
        .iter()
        .filter_map(|text| of_vocabulary(text))
        .for_each(|(text, number)| add(&text, number, true, &Value::Null));
    for (text, flags) in &special {
        if let Some(number) = id(text) {
            add(text, number, true, flags);
        }
    }
    let decoder = settings.map.get("added_tokens_decoder").and_then(Value::as_object);
    let path = if decoder.is_some() { &settings.path } else { &ids.path };
    let by_ids = listed_ids(&ids)?;
    let mut listed: Vec<(u32, &str, &Value)> = match decoder {
        Some(tokens) => listed_tokens(&settings.path, tokens)?,
        None => {
            by_ids.iter().map(|&(number, text)| (number, text, *special.get(text).unwrap_or(&&Value::Null))).collect()
        }
    };
    listed.sort_by_key(|&(number, ..)| number);
    let counted: HashSet<(u32, &str)> = listed.iter().map(|&(number, text, _)| (number, text)).collect();
    if let Some((_, text)) = by_ids.iter().find(|token| !counted.contains(*token)) {
        notes.push(format!(
            "{}: ignored (including {text:?}) because {SETTINGS} lists the added tokens, as in transformers",
            ids.path.display()
        ));
    }
    let (mut next, mut numbers, mut other) = (size as u64, BTreeMap::new(), Vec::new());
    for (said, text, flags) in listed {
        let number = *numbers.entry(text).or_insert_with(|| {
            id(text).unwrap_or_else(|| {
                next += 1;
                // A vocabulary with more than 2^32 ids is rejected later.
                u32::try_from(next - 1).unwrap_or(u32::MAX)
            })
        });
        if number != said {
            other.push((said, text, number));
        }
        let is_special = flags["special"].as_bool().unwrap_or(special.contains_key(text));
        add(text, number, is_special, flags);
    }
    if let Some((said, text, number)) = other.first() {
        let why = if id(text).is_some() { "its id in the vocabulary" } else { "the first free id" };
        let more = match other.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        notes.push(format!(
            "{}: the token {text:?} is listed with id {said} but gets {number}, {why}, as in transformers{more}",
            path.display()
        ));
    }
    let mut all: Vec<Value> = all.into_values().collect();
    all.sort_by_key(|token| token["id"].as_u64());
    Ok(all)
}

/// Returns the ids and tokens of an `added_tokens.json`.
fn listed_ids(ids: &Settings) -> Result<Vec<(u32, &str)>> {
    let mut by_id: BTreeMap<u32, &str> = BTreeMap::new();
    for (text, number) in &ids.map {
        let Some(number) = number.as_u64().and_then(|number| u32::try_from(number).ok()) else {
            bail!("{}: the id of {text:?} is {number}; set it to a whole number below 2^32", ids.path.display());
        };
        if let Some(other) = by_id.insert(number, text) {
            bail!(
                "{}: the tokens {other:?} and {text:?} both have id {number}; correct one of them",
                ids.path.display()
            );
        }
    }
    Ok(by_id.into_iter().collect())
}

/// Returns the ids, tokens and options of an `added_tokens_decoder`.
fn listed_tokens<'a>(path: &Path, tokens: &'a Map<String, Value>) -> Result<Vec<(u32, &'a str, &'a Value)>> {
    let listed = tokens.iter().map(|(number, flags)| match (number.parse::<u32>(), content(flags)) {
        (Ok(number), Some(text)) => Ok((number, text, flags)),
        _ => bail!(
            "{}: added_tokens_decoder has {number:?}: {flags}; expected an id and an object with the content of the \
             token",
            path.display()
        ),
    });
    listed.collect()
}
