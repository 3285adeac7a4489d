//! Last-word prediction, as in LAMBADA (Paperno et al. 2016): can a model predict the last word of a passage from the
//! text before it?

use std::path::Path;

use crate::bail;
use crate::data::text::documents::{Division, Documents, is_json_lines};
use crate::data::text::{FIELD, read_text};
use crate::data::tokenizer::Tokenizer;
use crate::error::{At, Result};

/// The results of last-word prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastWords {
    /// Number of passages, each with one word to predict.
    pub words: usize,
    /// Number of words whose every token is the most likely one, given the text before it.
    pub correct: usize,
    /// Number of tokens in all last words.
    pub tokens: usize,
    /// Mean loss in nats per word. The loss of a word is the sum over its tokens.
    pub loss: f64,
}

impl LastWords {
    /// Returns the share of words that are predicted correctly.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.words.max(1) as f64
    }

    /// Returns the perplexity per word (not per token).
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Reads passages: the non-blank lines of a text, or the texts of JSON lines (key `text`).
///
/// # Errors
/// Those of [`read_text`] and [`Documents`]; the file contains no passages.
pub fn read_passages(path: &Path) -> Result<Vec<String>> {
    let mut passages = Vec::new();
    if is_json_lines(path) {
        let mut documents = Documents::new(&[path.to_owned()], Division::Pieces { total: 0, words: false }, FIELD);
        while let Some(part) = documents.next_part()? {
            passages.push(part.text.to_owned());
        }
    } else {
        passages.extend(read_text(path)?.lines().map(str::to_owned));
    }
    passages.retain(|passage| !passage.trim().is_empty());
    if passages.is_empty() {
        bail!("{}: contains no passages; give a text with one passage per line", path.display());
    }
    Ok(passages)
}

/// Scores the last word of every passage, where words are separated by white space. `logits` returns the logits
/// `[T, V]` of a causal model for T tokens, at most `context` of them: longer passages are cut off at the beginning.
///
/// The tokens of the last word are those after the longest common prefix of the tokenized passage and the tokenized
/// passage without the word. White space before the word is part of it if the tokenizer treats it so.
///
/// # Errors
/// A passage has only one word, or its last word fills the context; a token is not in the model's vocabulary; errors of
/// the tokenizer and of `logits`. The message has the number of the passage.
pub fn last_words(
    passages: &[String],
    tokenizer: &Tokenizer,
    context: usize,
    logits: &mut dyn FnMut(&[i32]) -> Result<Vec<f32>>,
) -> Result<LastWords> {
    let mut all = LastWords { words: 0, correct: 0, tokens: 0, loss: 0.0 };
    for (number, passage) in passages.iter().enumerate() {
        let (loss, tokens, known) =
            last_word(passage.trim(), tokenizer, context, logits).at(format_args!("passage {}", number + 1))?;
        all.words += 1;
        all.correct += usize::from(known);
        all.tokens += tokens;
        all.loss += loss;
    }
    all.loss /= all.words.max(1) as f64;
    Ok(all)
}

/// Returns the loss of the last word, its number of tokens, and whether all of them are the most likely ones.
fn last_word(
    passage: &str,
    tokenizer: &Tokenizer,
    context: usize,
    logits: &mut dyn FnMut(&[i32]) -> Result<Vec<f32>>,
) -> Result<(f64, usize, bool)> {
    let Some((before, _)) = passage.rsplit_once(char::is_whitespace) else {
        bail!("{passage:?} is a single word, with no text to predict it from; remove the line");
    };
    let (before, whole) = (tokenizer.encode(before.trim_end())?, tokenizer.encode(passage)?);
    let word = before.iter().zip(&whole).take_while(|(a, b)| a == b).count();
    let word = word.min(whole.len().saturating_sub(1));
    // The last token is only predicted, so it is not an input.
    let end = whole.len().saturating_sub(1);
    let begin = end.saturating_sub(context);
    if word <= begin {
        let tokens = whole.len() - word;
        bail!(
            "its last word has {tokens} tokens, which leaves no token before it in a context of {context}; remove the \
             line, or use another tokenizer"
        );
    }
    let ids: Vec<i32> = whole[begin..end].iter().map(|&id| id as i32).collect();
    let scores = logits(&ids)?;
    let vocabulary = scores.len() / ids.len();
    let (mut loss, mut known) = (0.0, true);
    let rows = scores.chunks_exact(vocabulary.max(1)).skip(word - 1 - begin);
    for (row, &id) in rows.zip(&whole[word..]) {
        let id = id as usize;
        if id >= vocabulary {
            bail!(
                "token {id} is outside the model's vocabulary of {vocabulary}; use the tokenizer it was trained with"
            );
        }
        loss += negative_log_likelihood(row, id);
        known &= likeliest(row) == id;
    }
    Ok((loss, whole.len() - word, known))
}

/// Returns the negative log-likelihood of a token in nats, summed in f64.
fn negative_log_likelihood(logits: &[f32], id: usize) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    largest + sum.ln() - f64::from(logits[id])
}

/// Returns the first token with the largest logit, like [`generate`](super::generate) at temperature 0.
fn likeliest(logits: &[f32]) -> usize {
    let best = (0..logits.len()).min_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    best.unwrap_or_default()
}
