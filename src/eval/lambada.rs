//! Whether a model knows the last word of a passage from all that comes before it, as LAMBADA asks (Paperno et al. 2016).

use std::path::Path;

use crate::bail;
use crate::data::text::documents::{Division, Documents, is_json_lines};
use crate::data::text::{FIELD, read_text};
use crate::data::tokenizer::Tokenizer;
use crate::error::{At, Result};

/// How well last words are known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastWords {
    /// Passages, each with one word to know.
    pub words: usize,
    /// Words of which every token is the likeliest, given the text before it.
    pub correct: usize,
    /// Tokens of all those words.
    pub tokens: usize,
    /// Nats per word: the sum over its tokens.
    pub loss: f64,
}

impl LastWords {
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.words.max(1) as f64
    }

    /// Per word, not per token.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Reads passages: the lines of a text that are not blank, or the texts of JSON lines (key `text`).
///
/// # Errors
/// What [`read_text`] and [`Documents`] refuse; a file without passages.
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
        bail!("{}: has no passage; give a text with one on each line", path.display());
    }
    Ok(passages)
}

/// Scores the last word, up to white space, of every passage. `logits` gives those `[T, V]` of a causal model for T tokens,
/// at most `context` of them: what does not fit is cut off at the begin.
///
/// A word's tokens are those that the passage has beyond what it has in common with the passage without the word; white
/// space before the word belongs to it where the tokenizer says so.
///
/// # Errors
/// By its number, a passage of one word only, or with a word that fills the context; a token that the model does not have;
/// errors of the tokenizer and of `logits`.
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

/// The loss of the last word, its tokens, and whether all of them are the likeliest.
fn last_word(
    passage: &str,
    tokenizer: &Tokenizer,
    context: usize,
    logits: &mut dyn FnMut(&[i32]) -> Result<Vec<f32>>,
) -> Result<(f64, usize, bool)> {
    let Some((before, _)) = passage.rsplit_once(char::is_whitespace) else {
        bail!("{passage:?} is one word, and nothing tells what it is; remove the line");
    };
    let (before, whole) = (tokenizer.encode(before.trim_end())?, tokenizer.encode(passage)?);
    let word = before.iter().zip(&whole).take_while(|(a, b)| a == b).count();
    let word = word.min(whole.len().saturating_sub(1));
    // The last token is predicted and not read.
    let end = whole.len().saturating_sub(1);
    let begin = end.saturating_sub(context);
    if word <= begin {
        let tokens = whole.len() - word;
        bail!(
            "its last word takes {tokens} tokens, which leaves none before it in a context of {context}; remove the line, or \
             use another tokenizer"
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
            bail!("token {id} is beyond the model's {vocabulary}; use the tokenizer it was trained with");
        }
        loss += negative_log_likelihood(row, id);
        known &= likeliest(row) == id;
    }
    Ok((loss, whole.len() - word, known))
}

/// In nats, summed in f64.
fn negative_log_likelihood(logits: &[f32], id: usize) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    largest + sum.ln() - f64::from(logits[id])
}

/// The first of the largest, as [`generate`](super::generate) at temperature 0 takes it.
fn likeliest(logits: &[f32]) -> usize {
    let best = (0..logits.len()).min_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    best.unwrap_or_default()
}
