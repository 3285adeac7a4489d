//! Tokenizers from before `tokenizer.json`: `vocab.json` with `merges.txt` of GPT-2 (first called `encoder.json` and `vocab.bpe`),
//! and `vocab.txt` of BERT, with the tokens that were added to them ([`added_tokens`]).
//!
//! Each becomes a `tokenizer.json`, with the parts that `GPT2Tokenizer` and `BertTokenizer` of `transformers` give it.

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
/// What OpenAI called the same two files of GPT-2.
const ENCODER: &str = "encoder.json";
const BPE: &str = "vocab.bpe";
/// Classes of transformers, without what all of them end in, whose files are read by the rules of `GPT2Tokenizer`, ...
const BYTE_PAIRS: [&str; 9] =
    ["GPT2", "Roberta", "Bart", "BlenderbotSmall", "Longformer", "LED", "MVP", "CodeGen", "Deberta"];
/// ... and of `BertTokenizer`.
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
/// Classes for any tokenizer.json.
const ANY_CLASS: [&str; 2] = ["PreTrainedTokenizerFast", "TokenizersBackend"];
/// Longer words are unknown, as in BERT.
const LONGEST_WORD: usize = 100;

/// The files of a tokenizer.
#[derive(Debug, PartialEq)]
pub(in crate::data) enum Files {
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
            return match [TOKENIZER, VOCAB_JSON, ENCODER, VOCAB_TXT].map(|name| path.join(name)) {
                [json, ..] if json.exists() => Ok(Files::Json(json)),
                [_, vocab, ..] if vocab.exists() => Ok(Files::byte_pairs(path, [VOCAB_JSON, MERGES])),
                [_, _, vocab, _] if vocab.exists() => Ok(Files::byte_pairs(path, [ENCODER, BPE])),
                [.., vocab] if vocab.exists() => Ok(Files::WordPieces { vocab }),
                _ => bail!(
                    "cannot read {}: no tokenizer in the folder; it should have {TOKENIZER}, {VOCAB_JSON} and {MERGES}, \
                     {ENCODER} and {BPE}, or {VOCAB_TXT}",
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

    /// All files that are read, which must be there.
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

    /// The `vocab.txt`, where nothing beside it says whether its text is in lower case.
    ///
    /// # Errors
    /// Settings that cannot be read.
    pub fn of_unknown_case(&self) -> Result<Option<&Path>> {
        match self {
            Files::WordPieces { vocab } => {
                let said = Settings::beside(vocab)?.flag("do_lower_case")?;
                Ok(said.is_none().then_some(vocab.as_path()))
            }
            Files::Json(_) | Files::BytePairs { .. } => Ok(None),
        }
    }

    /// The tokenizer, as a `tokenizer.json`. `lower`: whether word pieces are of text in lower case, where somebody asked.
    ///
    /// # Errors
    /// Files that cannot be read or are no vocabulary; a `vocab.txt` when neither `lower` nor the settings beside it say
    /// whether text becomes lower case; `lower` for any other tokenizer; settings of a tokenizer with other rules.
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
            (Files::Json(path), None) => {
                (files::without_mark(&files::read(path, TOKENIZER_BYTES)?).to_vec(), Map::new())
            }
            (Files::BytePairs { vocab, merges }, None) => {
                check_class(vocab, "vocab.json with merges.txt", &BYTE_PAIRS)?;
                (byte_pairs(vocab, merges, &mut notes)?.to_string().into_bytes(), Settings::kept(vocab)?)
            }
        };
        Ok(Source { json, notes, kept })
    }
}

/// What the files of a tokenizer say.
pub(in crate::data) struct Source {
    /// A `tokenizer.json`.
    pub json: Vec<u8>,
    /// What a person should know, each in a sentence.
    pub notes: Vec<String>,
    /// What a `tokenizer_config.json` beside it should say.
    pub kept: Map<String, Value>,
}

/// Refuses a vocabulary for whose tokenizer other rules hold than those of this kind of files: it would give other tokens without a
/// word.
fn check_class(vocab: &Path, kind: &str, known: &[&str]) -> Result<()> {
    let settings = Settings::beside(vocab)?;
    let model = vocab.with_file_name("config.json");
    // Older folders say it there, if anywhere.
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
        "{}: the tokenizer is a {class}, which has other rules than those by which a {kind} is read; save it as {TOKENIZER} \
         (AutoTokenizer.from_pretrained, save_pretrained), or correct tokenizer_class",
        vocab.display()
    )
}

/// Brings what `tokenizer_config.json` says to a `tokenizer.json`, as `BertTokenizer`, `GPT2Tokenizer` and those like them do when
/// they load it. The classes for any `tokenizer.json` take it as it is.
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
                "{}: {here} of its {part} is {}, but {key} in tokenizer_config.json is {said}, which holds, as in transformers",
                path.display(),
                json[part][here]
            ));
            json[part][here] = said.into();
        }
    }
    Ok(())
}

/// Whether what lies beside a file says more about it: a file of another name need not be of that folder's model.
fn has_settings(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == TOKENIZER)
}

/// A `tokenizer.json`, with what only the files beside it say: settings, and tokens that were added later.
fn with_settings(path: &Path, notes: &mut Vec<String>) -> Result<Vec<u8>> {
    let bytes = files::read(path, TOKENIZER_BYTES)?;
    let bytes = files::without_mark(&bytes).to_vec();
    if added_tokens::files_beside(path).next().is_none() {
        return Ok(bytes);
    }
    // What cannot be read is told where the tokenizer is made of it.
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
    // What has neither a vocabulary nor a list of added tokens is refused later.
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

fn byte_pairs(vocab: &Path, merges: &Path, notes: &mut Vec<String>) -> Result<Value> {
    let bytes = files::read(vocab, TOKENIZER_BYTES)?;
    let tokens: Map<String, Value> = serde_json::from_slice(files::without_mark(&bytes))
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
