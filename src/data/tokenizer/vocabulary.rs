//! Classifies the ids of a tokenizer: special tokens, starts of words, and continuations of words.

use serde_json::{Map, Value, json};
use tokenizers::models::ModelWrapper;

use super::added_tokens::{KEYS, content};
use super::{Tokenizer, failed};
use crate::bail;
use crate::data::prepared::cache::grouped;
use crate::error::{Error, Result};

/// The special tokens of a masked model, in the order of BERT's vocabulary: BERT's name, and the names in published
/// tokenizers.
const FORMS: [(&str, &[&str]); 5] = [
    ("[PAD]", &["[PAD]", "<pad>"]),
    ("[UNK]", &["[UNK]", "<unk>"]),
    ("[CLS]", &["[CLS]", "<cls>", "<s>"]),
    ("[SEP]", &["[SEP]", "<sep>", "</s>"]),
    ("[MASK]", &["[MASK]", "<mask>"]),
];
/// The token that ends a text of GPT-2.
pub(in crate::data) const END_OF_TEXT: &str = "<|endoftext|>";
/// The one special token that is optional: byte-level tokenizers can encode any text.
const UNKNOWN: &str = "[UNK]";
/// The first characters, besides whitespace, of tokens that start a word: GPT-2's forms of space, line feed, tab and
/// carriage return.
const BYTE_MARKS: [char; 4] = ['\u{120}', '\u{10a}', '\u{109}', '\u{10d}'];
/// SentencePiece's form of a space.
const SENTENCE_MARK: char = '\u{2581}';

/// The ids of the special tokens of a masked model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `[PAD]` or `<pad>`: fills a row after its text.
    pub pad: u32,
    /// `[CLS]`, `<cls>` or `<s>`: begins a row.
    pub cls: u32,
    /// `[SEP]`, `<sep>` or `</s>`: ends each segment of a row.
    pub sep: u32,
    /// `[MASK]` or `<mask>`: replaces tokens that the model has to predict.
    pub mask: u32,
    /// `[UNK]` or `<unk>`: stands for text that is not in the vocabulary. `None` if the tokenizer has no such token.
    pub unk: Option<u32>,
}

impl SpecialTokens {
    /// Writes everything of a row except the text: special tokens, padding, token types and attention mask. `first` and
    /// `second` are the lengths of the segments. The first segment begins at position 1, the second one after the
    /// `[SEP]` that follows the first. Returns the length of the row without padding.
    pub(in crate::data) fn frame(
        &self,
        first: usize,
        second: Option<usize>,
        ids: &mut [i32],
        types: &mut [i32],
        mask: &mut [i32],
    ) -> usize {
        let middle = first + 2;
        let length = second.map_or(middle, |second| middle + second + 1);
        ids[length..].fill(self.pad as i32);
        ids[0] = self.cls as i32;
        for end in [middle, length] {
            ids[end - 1] = self.sep as i32;
        }
        types.fill(0);
        types[middle..length].fill(1);
        mask[..length].fill(1);
        mask[length..].fill(0);
        length
    }
}

/// The kind of a token id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// No token has this id.
    Absent,
    /// A special token, which stands for no text.
    Special,
    /// A word, or the first piece of one.
    Begins,
    /// A further piece of the preceding word.
    Continues,
}

impl Tokenizer {
    /// Returns the special tokens of a masked model, which are found by name (`[MASK]` or `<mask>`, for example).
    ///
    /// # Errors
    /// Fails if one of them other than `[UNK]` is missing.
    pub fn special_tokens(&self) -> Result<SpecialTokens> {
        let ids = FORMS.map(|(_, forms)| forms.iter().find_map(|form| self.inner.token_to_id(form)));
        match ids {
            [Some(pad), unk, Some(cls), Some(sep), Some(mask)] => Ok(SpecialTokens { pad, cls, sep, mask, unk }),
            _ => {
                let missing = FORMS.iter().zip(ids).filter(|((name, _), id)| id.is_none() && *name != UNKNOWN);
                let missing: Vec<&str> = missing.map(|((name, _), _)| *name).collect();
                bail!(
                    "the tokenizer has no {}, which a masked model needs; use that of a masked model (BERT, RoBERTa), \
                     or one that is built from the text: bpe:N, byte or char",
                    missing.join(", ")
                )
            }
        }
    }

    /// Returns the id of the unknown token, if there is one.
    pub fn unknown(&self) -> Option<u32> {
        FORMS
            .iter()
            .filter(|(name, _)| *name == UNKNOWN)
            .flat_map(|(_, forms)| *forms)
            .find_map(|f| self.inner.token_to_id(f))
    }

    /// Returns a note for the user if `unknown` of `all` tokens are the unknown token, or `None` if `unknown` is 0.
    pub fn unknown_note(&self, unknown: u64, all: u64) -> Option<String> {
        let share = 100.0 * unknown as f64 / all.max(1) as f64;
        (unknown > 0).then(|| {
            format!(
                "{}{} of {} tokens ({share:.2} %) stand for text that the tokenizer does not know; is it the right \
                 one?",
                if share < 1.0 { "" } else { "warning: " },
                grouped(unknown),
                grouped(all)
            )
        })
    }

    /// Returns the same tokenizer with all special tokens of a masked model. Missing ones get the ids after the last.
    /// If any was missing, the saved `tokenizer.json` also puts `[CLS]` and `[SEP]` around each text.
    ///
    /// # Errors
    /// Fails if some are missing and the tokenizer already has added tokens or gaps in its ids: it then comes from a
    /// published model, whose embedding has no rows for more tokens.
    pub fn with_special_tokens(self) -> Result<Tokenizer> {
        let missing = self.special_tokens();
        if missing.is_ok() {
            return Ok(self);
        }
        let own = !self.inner.get_added_tokens_decoder().is_empty();
        if own || self.inner.get_vocab_size(true) != self.vocab_size() {
            return missing.map(|_| self);
        }
        let text = self.inner.to_string(false).map_err(failed)?;
        let mut file: Value = serde_json::from_str(&text)
            .map_err(|e| Error::new(format!("cannot extend the tokenizer: {e}; use one of a masked model")))?;
        let absent = |forms: &[&str]| forms.iter().all(|form| self.inner.token_to_id(form).is_none());
        let missing = FORMS.iter().filter(|(_, forms)| absent(forms)).map(|(name, _)| *name);
        let added = missing.zip(self.vocab_size()..).map(|(name, id)| {
            json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        });
        file["added_tokens"] = added.collect();
        let extended = self.replaced(&file)?;
        let special = extended.special_tokens()?;
        file["post_processor"] = template_processing(special);
        self.replaced(&file)
    }

    /// Returns the content of the `tokenizer_config.json` of a model with this tokenizer.
    pub(in crate::data) fn settings(&self) -> Map<String, Value> {
        let mut all = Map::new();
        let mut put = |key: &str, value: Value| drop(all.insert(key.to_owned(), value));
        put("tokenizer_class", "PreTrainedTokenizerFast".into());
        put("clean_up_tokenization_spaces", false.into());
        // transformers 4 assumes false if it is not set.
        let before = serde_json::to_value(self.inner.get_pre_tokenizer()).unwrap_or_default();
        if let Some(prefix) = before["add_prefix_space"].as_bool() {
            put("add_prefix_space", prefix.into());
        }
        if self.special_tokens().is_ok() {
            let keys = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"];
            for (key, (_, forms)) in keys.into_iter().zip(FORMS) {
                if let Some(form) = forms.iter().find(|form| self.inner.token_to_id(form).is_some()) {
                    put(key, (*form).into());
                }
            }
        } else if self.inner.token_to_id(END_OF_TEXT).is_some() {
            ["bos_token", "eos_token", "unk_token"].into_iter().for_each(|key| put(key, END_OF_TEXT.into()));
        }
        // transformers would add a special token that the vocabulary lacks, so leave it out.
        let has = |key: &str, value: &Value| {
            !KEYS.contains(&key) || content(value).is_some_and(|text| self.inner.token_to_id(text).is_some())
        };
        for (key, value) in self.kept().iter().filter(|(key, value)| has(key, value)) {
            put(key, value.clone());
        }
        all
    }

    /// Returns the kind of each id below [`Tokenizer::vocab_size`].
    pub fn kinds(&self) -> Vec<TokenKind> {
        let prefix = match self.inner.get_model() {
            ModelWrapper::WordPiece(model) => Some(model.continuing_subword_prefix.as_str()),
            ModelWrapper::BPE(model) => model.continuing_subword_prefix.as_deref(),
            ModelWrapper::WordLevel(_) | ModelWrapper::Unigram(_) => None,
        }
        .filter(|prefix| !prefix.is_empty());
        let whole = matches!(self.inner.get_model(), ModelWrapper::WordLevel(_));
        let decoder = serde_json::to_string(&self.inner.get_decoder()).unwrap_or_default();
        let (byte_level, sentence) = (decoder.contains("\"ByteLevel\""), decoder.contains(SENTENCE_MARK));
        let marked =
            |c: char| c.is_whitespace() || byte_level && BYTE_MARKS.contains(&c) || sentence && c == SENTENCE_MARK;
        let continues = |token: &str| match prefix {
            Some(prefix) => token.starts_with(prefix),
            None => !whole && !token.starts_with(marked),
        };
        let mut kinds = vec![TokenKind::Absent; self.vocab_size()];
        for (token, id) in self.inner.get_vocab(true) {
            kinds[id as usize] = if continues(&token) { TokenKind::Continues } else { TokenKind::Begins };
        }
        let added = self.inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id);
        let named = FORMS.iter().flat_map(|(_, forms)| forms.iter().filter_map(|form| self.inner.token_to_id(form)));
        for id in special.chain(named) {
            kinds[id as usize] = TokenKind::Special;
        }
        kinds
    }
}

/// Returns the post-processor of the tokenizers library for `[CLS] text [SEP]` and `[CLS] text [SEP] text [SEP]`.
fn template_processing(special: SpecialTokens) -> Value {
    let token = |name: &str, segment: u32| json!({"SpecialToken": {"id": name, "type_id": segment}});
    let text = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
    let known = |name: &str, id: u32| json!({"id": name, "ids": [id], "tokens": [name]});
    json!({
        "type": "TemplateProcessing",
        "single": [token("[CLS]", 0), text("A", 0), token("[SEP]", 0)],
        "pair": [token("[CLS]", 0), text("A", 0), token("[SEP]", 0), text("B", 1), token("[SEP]", 1)],
        "special_tokens": {"[CLS]": known("[CLS]", special.cls), "[SEP]": known("[SEP]", special.sep)},
    })
}
