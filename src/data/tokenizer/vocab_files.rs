//! Reads the files of a tokenizer: a `tokenizer.json` or one of the older forms, which are `vocab.json` with
//! `merges.txt` of GPT-2 (originally named `encoder.json` and `vocab.bpe`) and `vocab.txt` of BERT, with the tokens
//! that were added to them ([`added_tokens`]).
//!
//! The older forms are converted to a `tokenizer.json` with the normalizer, pre-tokenizer, post-processor and decoder
//! of `GPT2Tokenizer` and `BertTokenizer` in `transformers`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::TOKENIZER_BYTES;
use super::added_tokens;
use super::added_tokens::Settings;
use super::vocabulary::END_OF_TEXT;
use crate::bail;
use crate::error::{At, Error, Result};
use crate::files;

pub(in crate::data) const TOKENIZER: &str = "tokenizer.json";
const VOCAB_JSON: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const VOCAB_TXT: &str = "vocab.txt";
/// OpenAI's name of GPT-2's `vocab.json`.
const ENCODER: &str = "encoder.json";
/// OpenAI's name of GPT-2's `merges.txt`.
const BPE: &str = "vocab.bpe";
/// The tokenizer classes of transformers, without the suffix `Tokenizer`, whose files follow the rules of
/// `GPT2Tokenizer`.
const BYTE_PAIRS: [&str; 9] =
    ["GPT2", "Roberta", "Bart", "BlenderbotSmall", "Longformer", "LED", "MVP", "CodeGen", "Deberta"];
/// The tokenizer classes whose files follow the rules of `BertTokenizer`.
const WORD_PIECES: [&str; 14] = [
    "Bert",
    "DistilBert",
    "Electra",
    "MobileBert",
    "ConvBert",
    "SqueezeBert",
    "LayoutLM",
    "LayoutLMv2",
    "Lxmert",
    "MPNet",
    "RetriBert",
    "DPRContextEncoder",
    "DPRQuestionEncoder",
    "Splinter",
];
/// The tokenizer classes that use any `tokenizer.json` unchanged.
const ANY_CLASS: [&str; 2] = ["PreTrainedTokenizerFast", "TokenizersBackend"];
/// A word of more characters than this is an unknown token, as in BERT.
const LONGEST_WORD: usize = 100;

/// The files of a tokenizer.
#[derive(Debug, PartialEq)]
pub(in crate::data) enum Files {
    /// A `tokenizer.json`.
    Json(PathBuf),
    /// A byte-level BPE vocabulary of GPT-2 and its merges.
    BytePairs { vocab: PathBuf, merges: PathBuf },
    /// A `vocab.txt` of BERT.
    WordPieces { vocab: PathBuf },
}

impl Files {
    /// Finds the files of a tokenizer. `path` is a folder or one of the files.
    ///
    /// # Errors
    /// Fails if `path` is a folder without a tokenizer.
    pub fn find(path: &Path) -> Result<Files> {
        if path.is_dir() {
            return match [TOKENIZER, VOCAB_JSON, ENCODER, VOCAB_TXT].map(|name| path.join(name)) {
                [json, ..] if json.exists() => Ok(Files::Json(json)),
                [_, vocab, ..] if vocab.exists() => Ok(Files::byte_pairs(path, [VOCAB_JSON, MERGES])),
                [_, _, vocab, _] if vocab.exists() => Ok(Files::byte_pairs(path, [ENCODER, BPE])),
                [.., vocab] if vocab.exists() => Ok(Files::WordPieces { vocab }),
                _ => bail!(
                    "cannot read {}: no tokenizer in the folder; it must contain {TOKENIZER}, {VOCAB_JSON} and \
                     {MERGES}, {ENCODER} and {BPE}, or {VOCAB_TXT}",
                    path.display()
                ),
            };
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let name = path.file_name().unwrap_or_default();
        Ok(if name == VOCAB_JSON || name == MERGES {
            Files::byte_pairs(folder, [VOCAB_JSON, MERGES])
        } else if name == ENCODER || name == BPE {
            Files::byte_pairs(folder, [ENCODER, BPE])
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            Files::WordPieces { vocab: path.to_owned() }
        } else {
            Files::Json(path.to_owned())
        })
    }

    fn byte_pairs(folder: &Path, names: [&str; 2]) -> Files {
        let [vocab, merges] = names.map(|name| folder.join(name));
        Files::BytePairs { vocab, merges }
    }

    /// Returns all files that are read: the required ones, and the optional ones that exist.
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut paths = match self {
            Files::Json(path) if !has_settings(path) => return vec![path.clone()],
            Files::Json(path) | Files::WordPieces { vocab: path } => vec![path.clone()],
            Files::BytePairs { vocab, merges } => vec![vocab.clone(), merges.clone()],
        };
        let beside: Vec<PathBuf> = added_tokens::files_beside(&paths[0]).collect();
        paths.extend(beside);
        paths
    }

    /// Returns the `vocab.txt`, if this is one and no file beside it says whether its text is in lower case.
    ///
    /// # Errors
    /// Fails if the `tokenizer_config.json` beside it cannot be read.
    pub fn of_unknown_case(&self) -> Result<Option<&Path>> {
        match self {
            Files::WordPieces { vocab } => {
                let said = Settings::beside(vocab)?.flag("do_lower_case")?;
                Ok(said.is_none().then_some(vocab.as_path()))
            }
            Files::Json(_) | Files::BytePairs { .. } => Ok(None),
        }
    }

    /// Reads the tokenizer as a `tokenizer.json`. `lower` says whether to convert text to lower case, which is only for
    /// a `vocab.txt`; with `None`, the settings beside it decide.
    ///
    /// # Errors
    /// Fails if a file cannot be read or is not a vocabulary, if neither `lower` nor the settings of a `vocab.txt` say
    /// whether to convert text to lower case, if `lower` is given for another form, or if the settings name a tokenizer
    /// class with other rules.
    pub fn source(&self, lower: Option<bool>) -> Result<Source> {
        let mut notes = Vec::new();
        let (json, kept) = match (self, lower) {
            (Files::WordPieces { vocab }, _) => {
                check_class(vocab, VOCAB_TXT, &WORD_PIECES)?;
                (word_pieces(vocab, lower, &mut notes)?.to_string().into_bytes(), Settings::kept(vocab)?)
            }
            (_, Some(_)) => bail!("only a {VOCAB_TXT} can be cased or uncased; give the path of the tokenizer alone"),
            (Files::Json(path), None) if has_settings(path) => {
                (with_settings(path, &mut notes)?, Settings::kept(path)?)
            }
            (Files::Json(path), None) => (files::strip_bom(&files::read(path, TOKENIZER_BYTES)?).to_vec(), Map::new()),
            (Files::BytePairs { vocab, merges }, None) => {
                check_class(vocab, "vocab.json with merges.txt", &BYTE_PAIRS)?;
                (byte_pairs(vocab, merges, &mut notes)?.to_string().into_bytes(), Settings::kept(vocab)?)
            }
        };
        Ok(Source { json, notes, kept })
    }
}

/// A tokenizer as read from its files.
pub(in crate::data) struct Source {
    /// The content of a `tokenizer.json`.
    pub json: Vec<u8>,
    /// Notes for the user.
    pub notes: Vec<String>,
    /// Entries for the `tokenizer_config.json` that is written beside it.
    pub kept: Map<String, Value>,
}

/// Rejects a vocabulary of a tokenizer class that has other rules than `known`, the classes for this kind of file: it
/// would silently give other tokens.
fn check_class(vocab: &Path, kind: &str, known: &[&str]) -> Result<()> {
    let settings = Settings::beside(vocab)?;
    let model = vocab.with_file_name("config.json");
    // Older folders have the class in config.json, if anywhere.
    let config: Value = match settings.class() {
        None if model.exists() => files::read(&model, TOKENIZER_BYTES)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default(),
        _ => Value::Null,
    };
    let Some(class) = settings.class().or_else(|| config["tokenizer_class"].as_str()) else { return Ok(()) };
    let bare = class.strip_suffix("Fast").unwrap_or(class).strip_suffix("Tokenizer");
    if ANY_CLASS.contains(&class) || bare.is_some_and(|bare| known.contains(&bare)) {
        return Ok(());
    }
    bail!(
        "{}: the tokenizer is a {class}, whose rules differ from those of a {kind}; save it as {TOKENIZER} \
         (AutoTokenizer.from_pretrained, save_pretrained), or correct tokenizer_class",
        vocab.display()
    )
}

/// Applies the settings in `tokenizer_config.json` to a `tokenizer.json`, as `BertTokenizer`, `GPT2Tokenizer` and
/// similar classes do. The classes in [`ANY_CLASS`] use it unchanged.
fn apply(json: &mut Value, settings: &Settings, path: &Path, notes: &mut Vec<String>) -> Result<()> {
    if settings.class().is_some_and(|class| ANY_CLASS.contains(&class)) {
        return Ok(());
    }
    let keys = [
        ("normalizer", "BertNormalizer", "do_lower_case", "lowercase"),
        ("normalizer", "BertNormalizer", "strip_accents", "strip_accents"),
        ("normalizer", "BertNormalizer", "tokenize_chinese_chars", "handle_chinese_chars"),
        ("pre_tokenizer", "ByteLevel", "add_prefix_space", "add_prefix_space"),
    ];
    for (part, kind, key, here) in keys {
        let Some(said) = settings.flag(key)? else { continue };
        if json[part]["type"] == kind && json[part][here] != said {
            notes.push(format!(
                "{}: {here} of its {part} is {}, but {key} in tokenizer_config.json is {said}, which takes precedence, \
                 as in transformers",
                path.display(),
                json[part][here]
            ));
            json[part][here] = said.into();
        }
    }
    Ok(())
}

/// Returns whether the files beside a tokenizer apply to it. They apply only to a file named `tokenizer.json`, since
/// one of another name may not belong to the model in the folder.
fn has_settings(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == TOKENIZER)
}

/// Reads a `tokenizer.json` and merges what only the files beside it say: settings, and tokens that were added later.
fn with_settings(path: &Path, notes: &mut Vec<String>) -> Result<Vec<u8>> {
    let bytes = files::read(path, TOKENIZER_BYTES)?;
    let bytes = files::strip_bom(&bytes).to_vec();
    if added_tokens::files_beside(path).next().is_none() {
        return Ok(bytes);
    }
    // Invalid JSON is reported later, when the tokenizer is built from it.
    let Ok(mut json) = serde_json::from_slice::<Value>(&bytes) else { return Ok(bytes) };
    let before = notes.len();
    apply(&mut json, &Settings::beside(path)?, path, notes)?;
    let mut is_changed = notes.len() > before;
    let mut ids: HashMap<String, u32> = HashMap::new();
    let number = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    match &json["model"]["vocab"] {
        Value::Object(tokens) => {
            ids.extend(tokens.iter().filter_map(|(token, id)| Some((token.clone(), number(id)?))));
        }
        Value::Array(tokens) => {
            let named = tokens.iter().zip(0..).filter_map(|(token, id)| Some((token[0].as_str()?.to_owned(), id)));
            ids.extend(named);
        }
        _ => {}
    }
    let known = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let added: Vec<(String, u32)> =
        known.iter().filter_map(|token| Some((token["content"].as_str()?.to_owned(), number(&token["id"])?))).collect();
    let known: HashSet<String> = added.iter().map(|(token, _)| token.clone()).collect();
    ids.extend(added);
    // A file with neither a vocabulary nor a list of added tokens is rejected later.
    if let Some(Value::Array(all)) = json.get_mut("added_tokens")
        && !ids.is_empty()
    {
        let tokens = added_tokens::read(path, &[], ids.len(), |token| ids.get(token).copied(), notes)?;
        let missing =
            tokens.into_iter().filter(|token| token["content"].as_str().is_some_and(|text| !known.contains(text)));
        let count = all.len();
        all.extend(missing);
        is_changed |= all.len() > count;
    }
    Ok(if is_changed { json.to_string().into_bytes() } else { bytes })
}

/// Converts GPT-2's `vocab.json` and `merges.txt` to a `tokenizer.json`.
fn byte_pairs(vocab: &Path, merges: &Path, notes: &mut Vec<String>) -> Result<Value> {
    let bytes = files::read(vocab, TOKENIZER_BYTES)?;
    let tokens: Map<String, Value> = serde_json::from_slice(files::strip_bom(&bytes))
        .map_err(|e| Error::new(format!("not a vocabulary: {e}; expected a JSON object that maps tokens to ids")))
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
                "{}: line {}: {line:?} is not a merge; expected two tokens separated by a space",
                merges.display(),
                number + 1
            ),
        }
    }
    let id = |token: &str| tokens.get(token).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let added = added_tokens::read(vocab, &[END_OF_TEXT], tokens.len(), id, notes)?;
    let prefix = Settings::beside(vocab)?.flag("add_prefix_space")?.unwrap_or(false);
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
        "added_tokens": added,
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

/// Converts BERT's `vocab.txt` to a `tokenizer.json`.
fn word_pieces(vocab: &Path, lower: Option<bool>, notes: &mut Vec<String>) -> Result<Value> {
    let settings = Settings::beside(vocab)?;
    let Some(lower) = lower.map_or_else(|| settings.flag("do_lower_case"), |lower| Ok(Some(lower)))? else {
        bail!(
            "{} does not say whether its text is in lower case; write uncased: or cased: before the path, or put \
             do_lower_case into tokenizer_config.json",
            vocab.display()
        );
    };
    let text = files::read_text(vocab, TOKENIZER_BYTES)?;
    // Line ends are those of Python's universal newlines. A token that occurs twice gets its last id.
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
            "{}: {unknown}, {class} and {separator} must be among its lines, one token per line; give the vocab.txt of \
             a BERT model",
            vocab.display()
        );
    };
    let known = [&unknown, &class, &separator, &others[0], &others[1]].map(String::as_str);
    let added = added_tokens::read(vocab, &known, tokens.len(), id, notes)?;
    let piece = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let sequence = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let named = |token: &str, id: u32| json!({"id": token, "ids": [id], "tokens": [token]});
    let single = [piece(&class, 0), sequence("A", 0), piece(&separator, 0)];
    let pair: Vec<Value> = single.iter().cloned().chain([sequence("B", 1), piece(&separator, 1)]).collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
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
