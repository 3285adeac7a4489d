//! Tokens that were added to a vocabulary: what lies beside it says which, in the files that `transformers` writes.
//!
//! `added_tokens.json` has ids by text; `added_tokens_decoder` in `tokenizer_config.json` has tokens by id;
//! `special_tokens_map.json` and keys as `pad_token` say which of all tokens are special.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::bail;
use crate::error::{At, Error, Result};
use crate::files;

const SETTINGS: &str = "tokenizer_config.json";
const IDS: &str = "added_tokens.json";
const SPECIAL: &str = "special_tokens_map.json";
const BYTES: u64 = 16 << 20;
/// Keys of special tokens, and of lists of them.
const KEYS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// A JSON object beside a vocabulary; empty where there is no such file.
pub(super) struct Settings {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Settings {
    /// The `tokenizer_config.json` beside a file.
    pub fn beside(vocab: &Path) -> Result<Self> {
        Self::read(vocab.with_file_name(SETTINGS))
    }

    fn read(path: PathBuf) -> Result<Self> {
        if !path.exists() {
            return Ok(Settings { path, map: Map::new() });
        }
        let bytes = files::read(&path, BYTES)?;
        let map = serde_json::from_slice(files::without_mark(&bytes))
            .map_err(|e| Error::new(format!("not a JSON object: {e}; correct or remove it")))
            .at(path.display())?;
        Ok(Settings { path, map })
    }

    /// `None` where the key is absent or null.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => bail!("{}: {key} is {other}; give true or false", self.path.display()),
        }
    }

    /// A special token, as text or as an object with its content.
    pub fn token(&self, key: &str, default: &str) -> Result<String> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(default.to_owned()),
            Some(value) => match content(value) {
                Some(token) => Ok(token.to_owned()),
                None => bail!("{}: {key} is {value}; give the token in quotes", self.path.display()),
            },
        }
    }

    /// All special tokens that it names, as text or as objects.
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

fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// The files beside a vocabulary that are read with it, as far as they are there.
pub(super) fn files_beside(vocab: &Path) -> impl Iterator<Item = PathBuf> {
    [SETTINGS, IDS, SPECIAL].map(|name| vocab.with_file_name(name)).into_iter().filter(|path| path.exists())
}

/// A token as a `tokenizer.json` has it, found in a text before anything else is done with that. `flags`: an object that may say
/// more about it.
pub(super) fn token(text: &str, id: u32, special: bool, flags: &Value) -> Value {
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

/// The tokens that the files beside `vocab` add, in the order of their ids. `id` looks up a token in the vocabulary, which has
/// `size` ids; `known` are special tokens of this kind of vocabulary.
///
/// # Errors
/// Files that cannot be read; ids that are none, differ from those of the vocabulary, or leave a gap behind it.
pub(super) fn read(vocab: &Path, known: &[&str], size: usize, id: impl Fn(&str) -> Option<u32>) -> Result<Vec<Value>> {
    let [settings, map] = [SETTINGS, SPECIAL].map(|name| Settings::read(vocab.with_file_name(name)));
    let (settings, map, ids) = (settings?, map?, Settings::read(vocab.with_file_name(IDS))?);
    let special: BTreeMap<&str, &Value> =
        map.special().chain(settings.special()).filter_map(|token| Some((content(token)?, token))).collect();
    let mut all: BTreeMap<u32, Value> = BTreeMap::new();
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    let mut add = |path: &Path, text: &str, number: u32, token: Value| match (id(text), all.get(&number)) {
        (Some(there), _) if there != number => bail!(
            "{}: the token {text:?} has id {number}, and in the vocabulary {there}; correct one of them",
            path.display()
        ),
        (_, Some(other)) if other["content"] != text => bail!(
            "{}: the tokens {text:?} and {} have one id, {number}; correct one of them",
            path.display(),
            other["content"]
        ),
        _ => match numbers.insert(text.to_owned(), number) {
            Some(other) if other != number => bail!(
                "{}: the token {text:?} has id {number}, and elsewhere {other}; correct one of them",
                path.display()
            ),
            _ => {
                all.insert(number, token);
                Ok(())
            }
        },
    };
    for text in known {
        if let Some(number) = id(text) {
            add(vocab, text, number, token(text, number, true, &Value::Null))?;
        }
    }
    for (text, flags) in &special {
        if let Some(number) = id(text) {
            add(&map.path, text, number, token(text, number, true, flags))?;
        }
    }
    for (text, number) in &ids.map {
        let Some(number) = number.as_u64().and_then(|number| u32::try_from(number).ok()) else {
            bail!("{}: {text:?} has {number}; give the id of the token", ids.path.display());
        };
        let flags = special.get(text.as_str());
        add(&ids.path, text, number, token(text, number, flags.is_some(), flags.unwrap_or(&&Value::Null)))?;
    }
    if let Some(Value::Object(tokens)) = settings.map.get("added_tokens_decoder") {
        for (number, flags) in tokens {
            let (Ok(number), Some(text)) = (number.parse::<u32>(), content(flags)) else {
                bail!(
                    "{}: added_tokens_decoder has {number:?}: {flags}; give the token under its id",
                    settings.path.display()
                );
            };
            let is_special = flags["special"].as_bool().unwrap_or(special.contains_key(text));
            add(&settings.path, text, number, token(text, number, is_special, flags))?;
        }
    }
    // The tokenizers library numbers on from the vocabulary's end, whatever an id says.
    let mut next = size;
    for (number, token) in &all {
        let text = token["content"].as_str().unwrap_or_default();
        if id(text).is_some() {
            continue;
        }
        if *number as usize != next {
            bail!(
                "{}: the added token {text:?} has id {number}, but {next} is the first one that is free; add the tokens of \
                 the ids between, or save the tokenizer as tokenizer.json",
                vocab.display()
            );
        }
        next += 1;
    }
    Ok(all.into_values().collect())
}
