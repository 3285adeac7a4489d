//! Tokenizers from before `tokenizer.json`: `vocab.json` with `merges.txt` of GPT-2, and `vocab.txt` of BERT.
//!
//! Each becomes a `tokenizer.json`, with the parts that `GPT2Tokenizer` and `BertTokenizer` of `transformers` give it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::tokenizer::TOKENIZER_BYTES;
use crate::bail;
use crate::error::{At, Error, Result};
use crate::files;

const TOKENIZER: &str = "tokenizer.json";
const VOCAB_JSON: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const VOCAB_TXT: &str = "vocab.txt";
const SETTINGS: &str = "tokenizer_config.json";
const SETTINGS_BYTES: u64 = 16 << 20;
/// What ends a text of GPT-2.
const END_OF_TEXT: &str = "<|endoftext|>";
/// Longer words are unknown, as in BERT.
const LONGEST_WORD: usize = 100;

/// The files of a tokenizer.
#[derive(Debug, PartialEq)]
pub(super) enum Files {
    Json(PathBuf),
    BytePairs { vocab: PathBuf, merges: PathBuf },
    WordPieces { vocab: PathBuf },
}

impl Files {
    /// What a path names: a folder of them, or one.
    ///
    /// # Errors
    /// A folder without any.
    pub fn find(path: &Path) -> Result<Files> {
        if path.is_dir() {
            return match [TOKENIZER, VOCAB_JSON, VOCAB_TXT].map(|name| path.join(name)) {
                [json, ..] if json.exists() => Ok(Files::Json(json)),
                [_, vocab, _] if vocab.exists() => Ok(Files::byte_pairs(path)),
                [.., vocab] if vocab.exists() => Ok(Files::WordPieces { vocab }),
                _ => bail!(
                    "cannot read {}: no tokenizer in the folder; it should have {TOKENIZER}, {VOCAB_JSON} and {MERGES}, or \
                     {VOCAB_TXT}",
                    path.display()
                ),
            };
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or_default();
        Ok(if name == VOCAB_JSON || name == MERGES {
            Files::byte_pairs(folder)
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            Files::WordPieces { vocab: path.to_owned() }
        } else {
            Files::Json(path.to_owned())
        })
    }

    fn byte_pairs(folder: &Path) -> Files {
        Files::BytePairs { vocab: folder.join(VOCAB_JSON), merges: folder.join(MERGES) }
    }

    /// All files that are read, which must be there.
    pub fn paths(&self) -> Vec<PathBuf> {
        let (mut paths, settings) = match self {
            Files::Json(path) => (vec![path.clone()], None),
            Files::BytePairs { vocab, merges } => (vec![vocab.clone(), merges.clone()], Some(beside(vocab))),
            Files::WordPieces { vocab } => (vec![vocab.clone()], Some(beside(vocab))),
        };
        paths.extend(settings.filter(|path| path.exists()));
        paths
    }

    /// The `vocab.txt`, where nothing beside it says whether its text is in lower case.
    ///
    /// # Errors
    /// Settings that cannot be read.
    pub fn of_unknown_case(&self) -> Result<Option<&Path>> {
        match self {
            Files::WordPieces { vocab } => {
                let said = Settings::read(beside(vocab))?.flag("do_lower_case")?;
                Ok(said.is_none().then_some(vocab.as_path()))
            }
            Files::Json(_) | Files::BytePairs { .. } => Ok(None),
        }
    }

    /// The `tokenizer.json`. `lower`: whether word pieces are of text in lower case, where somebody asked.
    ///
    /// # Errors
    /// Files that cannot be read or are no vocabulary; a `vocab.txt` when neither `lower` nor the settings beside it say
    /// whether text becomes lower case; `lower` for any other tokenizer.
    pub fn json(&self, lower: Option<bool>) -> Result<Vec<u8>> {
        match (self, lower) {
            (Files::WordPieces { vocab }, _) => word_pieces(vocab, lower).map(|json| json.to_string().into_bytes()),
            (_, Some(_)) => bail!("only a {VOCAB_TXT} can be cased or uncased; give the path of the tokenizer alone"),
            (Files::Json(path), None) => files::read(path, TOKENIZER_BYTES),
            (Files::BytePairs { vocab, merges }, None) => {
                byte_pairs(vocab, merges).map(|json| json.to_string().into_bytes())
            }
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    path.with_file_name(SETTINGS)
}

/// The settings beside a vocabulary; none where there is no such file.
struct Settings {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Settings {
    fn read(path: PathBuf) -> Result<Self> {
        if !path.exists() {
            return Ok(Settings { path, map: Map::new() });
        }
        let bytes = files::read(&path, SETTINGS_BYTES)?;
        let map = serde_json::from_slice(&bytes)
            .map_err(|e| Error::new(format!("not a JSON object: {e}; correct or remove it")))
            .at(path.display())?;
        Ok(Settings { path, map })
    }

    /// `None` where the key is absent or null.
    fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => bail!("{}: {key} is {other}; give true or false", self.path.display()),
        }
    }

    /// A special token, as text or as an object with its content.
    fn token(&self, key: &str, default: &str) -> Result<String> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(default.to_owned()),
            Some(value) => match value.as_str().or_else(|| value["content"].as_str()) {
                Some(token) => Ok(token.to_owned()),
                None => bail!("{}: {key} is {value}; give the token in quotes", self.path.display()),
            },
        }
    }
}

/// A token that is found in a text as it stands, before anything else is done with it.
fn special(token: &str, id: u32) -> Value {
    json!({
        "id": id,
        "content": token,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": true,
    })
}

fn byte_pairs(vocab: &Path, merges: &Path) -> Result<Value> {
    let bytes = files::read(vocab, TOKENIZER_BYTES)?;
    let tokens: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|e| Error::new(format!("not a vocabulary: {e}; give an object with the id of each token")))
        .at(vocab.display())?;
    let text = files::read_text(merges, TOKENIZER_BYTES)?;
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || number == 0 && line.starts_with("#version") {
            continue;
        }
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            [left, right] if !left.is_empty() && !right.is_empty() => pairs.push(json!([left, right])),
            _ => bail!(
                "{}: line {}: {line:?} is no merge; give two tokens with a space between",
                merges.display(),
                number + 1
            ),
        }
    }
    let id = tokens.get(END_OF_TEXT).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let prefix = Settings::read(beside(vocab))?.flag("add_prefix_space")?.unwrap_or(false);
    let bytes = |add_prefix_space: bool, trim_offsets: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": add_prefix_space,
            "trim_offsets": trim_offsets,
            "use_regex": true,
        })
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": id.map(|id| special(END_OF_TEXT, id)).into_iter().collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": bytes(prefix, true),
        "post_processor": bytes(true, false),
        "decoder": bytes(true, true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "byte_fallback": false,
            "vocab": tokens,
            "merges": pairs,
        },
    }))
}

fn word_pieces(vocab: &Path, lower: Option<bool>) -> Result<Value> {
    let settings = Settings::read(beside(vocab))?;
    let Some(lower) = lower.map_or_else(|| settings.flag("do_lower_case"), |lower| Ok(Some(lower)))? else {
        bail!(
            "{} does not say whether its text is in lower case; write uncased: or cased: before the path, or put \
             do_lower_case into {SETTINGS}",
            vocab.display()
        );
    };
    let text = files::read_text(vocab, TOKENIZER_BYTES)?;
    // Lines end as Python takes them; a token that is there twice has the last id.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines = text.strip_suffix('\n').unwrap_or(&text);
    let mut tokens: Map<String, Value> = Map::new();
    for (id, token) in lines.split('\n').enumerate() {
        tokens.insert(token.to_owned(), id.into());
    }
    let id = |token: &str| tokens.get(token).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let unknown = settings.token("unk_token", "[UNK]")?;
    let [class, separator] = [settings.token("cls_token", "[CLS]")?, settings.token("sep_token", "[SEP]")?];
    let others = [settings.token("pad_token", "[PAD]")?, settings.token("mask_token", "[MASK]")?];
    let (Some(_), Some(class_id), Some(separator_id)) = (id(&unknown), id(&class), id(&separator)) else {
        bail!(
            "{}: {unknown}, {class} and {separator} must be among its lines, each of one token; give the vocab.txt of a BERT \
             model",
            vocab.display()
        );
    };
    let mut added: Vec<(u32, &String)> = [&unknown, &class, &separator]
        .into_iter()
        .chain(&others)
        .filter_map(|token| Some((id(token)?, token)))
        .collect();
    added.sort_unstable();
    added.dedup();
    let piece = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let sequence = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let named = |token: &str, id: u32| json!({"id": token, "ids": [id], "tokens": [token]});
    let single = [piece(&class, 0), sequence("A", 0), piece(&separator, 0)];
    let pair: Vec<Value> = single.iter().cloned().chain([sequence("B", 1), piece(&separator, 1)]).collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.iter().map(|(id, token)| special(token, *id)).collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": settings.flag("tokenize_chinese_chars")?.unwrap_or(true),
            "strip_accents": settings.flag("strip_accents")?,
            "lowercase": lower,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": {&class: named(&class, class_id), &separator: named(&separator, separator_id)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": LONGEST_WORD,
            "vocab": tokens,
        },
    }))
}
