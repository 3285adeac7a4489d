//! Batches for masked models: masked text, and the tokens that were masked (Devlin et al. 2019, section 3.1).
//!
//! A row is `[CLS] text [SEP]`, or `[CLS] text [SEP] text [SEP]` for next-sentence prediction, padded to the context.
//! Some of its tokens, never special ones, are chosen without replacement, and most of these are replaced. The choice
//! is drawn anew for every row of every step, as in RoBERTa. As in [`sampler`](super::sampler), a batch is a function
//! of its number.

use serde::{Deserialize, Serialize};

use super::sampler::{IGNORED, Sampler};
use super::shard::Shard;
use super::windows::{Pack, Window, Windows};
use crate::bail;
use crate::data::random::Random;
use crate::data::tokenizer::Tokenizer;
use crate::data::tokenizer::vocabulary::{SpecialTokens, TokenKind};
use crate::error::Result;

/// The seed of the masks of held-out text. It does not depend on the seed of a run, so the held-out losses of all runs
/// are comparable.
const HELD_OUT_SEED: u64 = 0x6d61_736b;

/// How text is masked. The defaults are those of BERT, except that next-sentence prediction is off.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaskingConfig {
    /// The fraction of the tokens of a row, including special ones, that are predicted.
    pub rate: f64,
    /// The fraction of the predicted tokens that are replaced by `[MASK]`.
    pub mask: f64,
    /// The fraction of the predicted tokens that are replaced by a random token. The others are left unchanged.
    pub random: f64,
    /// Whether to choose whole words rather than single tokens.
    pub whole_words: bool,
    /// Where the windows of text begin and end.
    pub pack: Pack,
    /// Whether to train next-sentence prediction: rows have two segments, half of the time from different places, and
    /// the model predicts which.
    pub next_sentence: bool,
}

impl Default for MaskingConfig {
    fn default() -> Self {
        let (whole_words, pack, next_sentence) = (false, Pack::Stream, false);
        MaskingConfig { rate: 0.15, mask: 0.8, random: 0.1, whole_words, pack, next_sentence }
    }
}

impl MaskingConfig {
    /// Checks that all fractions are in range.
    ///
    /// # Errors
    /// Fails if one is not; the message names its key.
    pub fn check(&self) -> Result<()> {
        if !(self.rate > 0.0 && self.rate < 1.0) {
            bail!("masking.rate: {} is not between 0 and 1; BERT's is 0.15", self.rate);
        }
        for (key, share, usual) in [("mask", self.mask, 0.8), ("random", self.random, 0.1)] {
            if !(0.0..=1.0).contains(&share) {
                bail!("masking.{key}: {share} is not in 0..=1; BERT's is {usual}");
            }
        }
        if self.mask + self.random > 1.0 {
            bail!(
                "masking.mask and masking.random: {} and {} add up to more than 1; lower one of them",
                self.mask,
                self.random
            );
        }
        Ok(())
    }

    /// Returns how many tokens of a row of `length` are predicted, provided that it has that many that are not special.
    pub fn slots(&self, length: usize) -> usize {
        ((self.rate * length as f64).round() as usize).max(1)
    }

    /// Returns the number of tokens of text in a full row of `context`.
    fn width(&self, context: usize) -> usize {
        context.saturating_sub(if self.next_sentence { 3 } else { 2 })
    }
}

/// A batch `B` of rows of context `T`, with `S` [`Masking::slots`] each; all row-major.
#[derive(Debug)]
pub struct MaskedBatch<'a> {
    /// `[B, T]`.
    pub ids: &'a mut [i32],
    /// `[B, T]`: 1 in the second segment, else 0.
    pub types: &'a mut [i32],
    /// `[B, T]`: 1 for a token, 0 for padding.
    pub mask: &'a mut [i32],
    /// `[B, S]`: the scored tokens, as indices into the `micro * T` tokens of the micro-batch, ascending in each row.
    /// Unused slots point to the first token of the row.
    pub positions: &'a mut [i32],
    /// `[B, S]`: the original tokens; -100 in unused slots.
    pub labels: &'a mut [i32],
    /// `[B]` with next-sentence prediction, else empty: 0 if the second segment continues the first, 1 if it is from
    /// elsewhere; -100 for a row without text.
    pub next: &'a mut [i32],
}

impl MaskedBatch<'_> {
    /// Returns the slices of a single row.
    fn row(&mut self, row: usize, context: usize, slots: usize) -> MaskedBatch<'_> {
        fn part(all: &mut [i32], row: usize, size: usize) -> &mut [i32] {
            &mut all[row * size..(row + 1) * size]
        }
        let next_size = usize::from(!self.next.is_empty());
        MaskedBatch {
            ids: part(self.ids, row, context),
            types: part(self.types, row, context),
            mask: part(self.mask, row, context),
            positions: part(self.positions, row, slots),
            labels: part(self.labels, row, slots),
            next: part(self.next, row, next_size),
        }
    }
}

/// Builds masked batches for a context size and a tokenizer.
#[derive(Clone, Debug)]
pub struct Masking {
    config: MaskingConfig,
    context: usize,
    special: SpecialTokens,
    /// The kind of each token id.
    kinds: Vec<TokenKind>,
    /// The ids that may replace a token at random: all that stand for text.
    replacements: Vec<i32>,
    /// The start and end positions of the words of the current row.
    words: Vec<(u32, u32)>,
}

impl Masking {
    /// Prepares masking with a tokenizer.
    ///
    /// # Errors
    /// Fails if a setting is out of range, if the context is too small for text, if the tokenizer lacks special tokens
    /// or has only those, or if whole words are requested and its tokens do not show where words begin.
    pub fn new(config: MaskingConfig, tokenizer: &Tokenizer, context: usize) -> Result<Masking> {
        config.check()?;
        let least = if config.next_sentence { 5 } else { 3 };
        if !(least..=i32::MAX as usize).contains(&context) {
            bail!("a context of {context} is not in {least}..={}; it must hold special tokens and text", i32::MAX);
        }
        let special = tokenizer.special_tokens()?;
        let kinds = tokenizer.kinds();
        let text = |kind: &TokenKind| matches!(kind, TokenKind::Begins | TokenKind::Continues);
        let replacements: Vec<i32> = (0..).zip(&kinds).filter(|(_, kind)| text(kind)).map(|(id, _)| id).collect();
        if replacements.is_empty() {
            bail!("the tokenizer has only special tokens; give one that was trained");
        }
        if config.whole_words && !kinds.contains(&TokenKind::Begins) {
            bail!(
                "masking.whole_words: the tokens of this tokenizer do not show where a word begins; leave it out, or \
                 use another tokenizer"
            );
        }
        Ok(Masking { config, context, special, kinds, replacements, words: Vec::with_capacity(context) })
    }

    /// Returns the number of tokens that are scored in a full row, which is the maximum for any row.
    pub fn slots(&self) -> usize {
        self.config.slots(self.context)
    }

    fn windows(&self) -> Windows {
        Windows { pack: self.config.pack, width: self.config.width(self.context) }
    }

    /// Fills the training batch of `step`, which has `batch` rows. The micro-batch size `micro` only affects what
    /// [`MaskedBatch::positions`] refer to. Allocates nothing after the first call.
    ///
    /// # Errors
    /// Fails if a buffer has the wrong size, `rank` is not below `world`, the text is too short, document boundaries
    /// are needed and missing, or a token is damaged.
    pub fn training_batch(
        &mut self,
        sampler: &Sampler,
        tokens: &(impl AsRef<[Shard]> + ?Sized),
        step: u64,
        (batch, micro): (usize, usize),
        out: &mut MaskedBatch<'_>,
    ) -> Result<()> {
        let shards = tokens.as_ref();
        sampler.check()?;
        self.check_buffers((batch, micro), out)?;
        self.windows().check(shards, self.config.next_sentence)?;
        for row in 0..batch {
            let mut random = sampler.random(step, row, batch);
            let window = self.windows().draw(shards, &mut random)?;
            let mut out = out.row(row, self.context, self.slots());
            self.fill(shards, window, &mut random, row % micro, &mut out)?;
        }
        Ok(())
    }

    /// Returns the windows of held-out text for [`Masking::held_out_batch`], which cover each token exactly once.
    ///
    /// # Errors
    /// Fails if the text is too short, or if document boundaries are needed and missing.
    pub fn held_out(&self, tokens: &(impl AsRef<[Shard]> + ?Sized)) -> Result<Vec<Window>> {
        self.windows().check_all(tokens.as_ref(), self.config.next_sentence)?;
        self.windows().all(tokens.as_ref())
    }

    /// Fills batch `index` of held-out text: `batch` of the `windows` that [`Masking::held_out`] returned for the same
    /// tokens, from number `index * batch` on. Masks depend only on the number of a window. A row past the last window
    /// is `[CLS] [SEP]`, without labels. `micro` has the meaning it has in [`Masking::training_batch`].
    ///
    /// Returns how many labels are scored. That is 0 past the last window, and for windows that consist of special
    /// tokens.
    ///
    /// # Errors
    /// Fails if a buffer has the wrong size, the windows are not those of these tokens, or a token is damaged.
    pub fn held_out_batch(
        &mut self,
        tokens: &(impl AsRef<[Shard]> + ?Sized),
        windows: &[Window],
        index: usize,
        (batch, micro): (usize, usize),
        out: &mut MaskedBatch<'_>,
    ) -> Result<usize> {
        let shards = tokens.as_ref();
        self.check_buffers((batch, micro), out)?;
        let mut scored = 0;
        for row in 0..batch {
            let number = index.saturating_mul(batch).saturating_add(row);
            let mut out = out.row(row, self.context, self.slots());
            scored += match windows.get(number) {
                Some(&window) => {
                    if window.shard >= shards.len() || window.len > self.windows().width {
                        bail!("held-out window {number} is not one of these tokens; request the windows of this text");
                    }
                    let mut random = Random::new(HELD_OUT_SEED, [number as u64]);
                    self.fill(shards, window, &mut random, row % micro, &mut out)?
                }
                None => {
                    let length = self.frame(0, None, &mut out);
                    out.next.fill(IGNORED);
                    self.hide(length, &mut Random::new(0, []), row % micro, &mut out)
                }
            };
        }
        Ok(scored)
    }

    /// Fills a row, which is number `row` of its micro-batch, from a window. Returns how many labels are scored.
    fn fill(
        &mut self,
        shards: &[Shard],
        window: Window,
        random: &mut Random,
        row: usize,
        out: &mut MaskedBatch<'_>,
    ) -> Result<usize> {
        let (first, second) = if self.config.next_sentence {
            let split = 1 + random.below(window.len - 1);
            let follows = random.bits() & 1 == 0;
            let first = Window { len: split, ..window };
            let rest = window.len - split;
            // A window of one token has no continuation.
            let follows = follows && rest > 0;
            out.next[0] = i32::from(!follows);
            let second = match follows {
                true => Window { start: window.start + split, len: rest, ..window },
                // At most as long as the continuation, so that the length does not give the answer away.
                false => self.windows().elsewhere(shards, window, rest.max(1), random)?,
            };
            (first, Some(second))
        } else {
            (window, None)
        };
        let length = self.frame(first.len, second.map(|second| second.len), out);
        shards[first.shard].read(first.start, &mut out.ids[1..=first.len])?;
        if let Some(second) = second {
            shards[second.shard].read(second.start, &mut out.ids[2 + first.len..length - 1])?;
        }
        Ok(self.hide(length, random, row, out))
    }

    fn frame(&self, first: usize, second: Option<usize>, out: &mut MaskedBatch<'_>) -> usize {
        self.special.frame(first, second, out.ids, out.types, out.mask)
    }

    /// Chooses tokens of a row of `length`, replaces them, and writes their positions and labels. Returns how many.
    fn hide(&mut self, length: usize, random: &mut Random, row: usize, out: &mut MaskedBatch<'_>) -> usize {
        let wanted = self.config.slots(length).min(self.slots());
        let ids = &mut out.ids[..length];
        let chosen = match self.config.whole_words {
            true => self.choose_words(ids, wanted, random, out.positions),
            false => self.choose_tokens(ids, wanted, random, out.positions),
        };
        let base = (row * self.context) as i32;
        for slot in 0..chosen {
            let at = out.positions[slot] as usize;
            out.labels[slot] = ids[at];
            out.positions[slot] += base;
            let share = random.unit();
            if share < self.config.mask {
                ids[at] = self.special.mask as i32;
            } else if share < self.config.mask + self.config.random {
                ids[at] = self.replacements[random.below(self.replacements.len())];
            }
        }
        out.positions[chosen..].fill(base);
        out.labels[chosen..].fill(IGNORED);
        chosen
    }

    fn kind(&self, id: i32) -> TokenKind {
        // Token files may have a larger vocabulary than the tokenizer.
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Begins)
    }

    /// Chooses `wanted` tokens uniformly and writes their positions in ascending order. Returns how many.
    fn choose_tokens(&self, ids: &[i32], wanted: usize, random: &mut Random, positions: &mut [i32]) -> usize {
        let text = |id: i32| self.kind(id) != TokenKind::Special;
        let mut left = ids.iter().filter(|&&id| text(id)).count();
        let wanted = wanted.min(left);
        let mut chosen = 0;
        for (at, _) in ids.iter().enumerate().filter(|(_, id)| text(**id)) {
            if random.below(left) < wanted - chosen {
                positions[chosen] = at as i32;
                chosen += 1;
            }
            left -= 1;
        }
        chosen
    }

    /// Chooses words in random order, skipping those that would exceed `wanted` tokens in all. If every word is longer,
    /// chooses the first `wanted` tokens of one. Writes the positions in ascending order and returns how many there
    /// are.
    fn choose_words(&mut self, ids: &[i32], wanted: usize, random: &mut Random, positions: &mut [i32]) -> usize {
        self.words.clear();
        let mut inside = false;
        for (at, &id) in (0..).zip(ids) {
            let kind = self.kind(id);
            match self.words.last_mut() {
                Some((_, end)) if inside && kind == TokenKind::Continues => *end = at + 1,
                _ if kind == TokenKind::Special => {}
                _ => self.words.push((at, at + 1)),
            }
            inside = kind != TokenKind::Special;
        }
        let mut chosen = 0;
        let mut choose = |begin: u32, end: u32| {
            for at in begin..end {
                positions[chosen] = at as i32;
                chosen += 1;
            }
            chosen
        };
        let (mut taken, count) = (0, self.words.len());
        for number in 0..count {
            if taken == wanted {
                break;
            }
            self.words.swap(number, number + random.below(count - number));
            let (begin, end) = self.words[number];
            if taken + (end - begin) as usize <= wanted {
                taken = choose(begin, end);
            }
        }
        if let (0, Some(&(begin, _))) = (taken, self.words.first()) {
            taken = choose(begin, begin + wanted as u32);
        }
        positions[..taken].sort_unstable();
        taken
    }

    fn check_buffers(&self, (batch, micro): (usize, usize), out: &MaskedBatch<'_>) -> Result<()> {
        let (context, slots) = (self.context, self.slots());
        if micro == 0 || micro.saturating_mul(context) > i32::MAX as usize {
            bail!(
                "micro-batches of {micro} x {context} tokens are not possible; use at least 1 row, or a shorter context"
            );
        }
        let tokens = [out.ids.len(), out.types.len(), out.mask.len()];
        let scored = [out.positions.len(), out.labels.len()];
        let next = if self.config.next_sentence { batch } else { 0 };
        let fits = tokens.iter().all(|&size| batch.checked_mul(context) == Some(size))
            && scored.iter().all(|&size| batch.checked_mul(slots) == Some(size))
            && out.next.len() == next;
        if !fits {
            bail!(
                "a batch of {batch} x {context} with {slots} scored tokens per row does not match buffers of \
                 {tokens:?}, {scored:?} and {}; size them as batch x context, batch x slots and {next}",
                out.next.len()
            );
        }
        Ok(())
    }
}
