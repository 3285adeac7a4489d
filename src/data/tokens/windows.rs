//! Chooses the tokens of the rows of masked batches: windows anywhere in the stream, or pieces of single documents.
//!
//! No window spans two shards. A document is cut into pieces of the width of a window, starting at its first token; the
//! last piece may be shorter. A row is the piece that contains a uniformly drawn token, so that every token is shown
//! equally often. The part of a document in one shard counts as a document.

use serde::{Deserialize, Serialize};

use super::shard::Shard;
use crate::bail;
use crate::data::random::Random;
use crate::error::Result;

/// Where windows begin and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pack {
    /// Anywhere. Rows are full, and may span several documents.
    #[default]
    Stream,
    /// Within a document. Rows may be shorter, and are then padded.
    Documents,
}

/// Consecutive tokens of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The index of the shard.
    pub(in crate::data) shard: usize,
    /// The position of the first token in the shard.
    pub(in crate::data) start: usize,
    /// The number of tokens, at least 1.
    pub(in crate::data) len: usize,
}

/// Chooses windows of at most `width` tokens.
#[derive(Clone, Copy, Debug)]
pub(in crate::data) struct Windows {
    pub pack: Pack,
    pub width: usize,
}

impl Windows {
    /// Checks that [`Windows::draw`] can find a window and, with `pairs`, that [`Windows::elsewhere`] can.
    ///
    /// # Errors
    /// Fails if the text is too short, or if document boundaries are needed and a shard does not have them.
    pub fn check(self, shards: &[Shard], pairs: bool) -> Result<()> {
        match self.pack {
            // `elsewhere` excludes at most 2 * width starts, so a shard of three windows leaves some.
            Pack::Stream => self.check_longest(shards, if pairs { 3 * self.width } else { self.width }),
            Pack::Documents => {
                let documents = count_documents(shards)?;
                let needed = if pairs { 2 } else { 1 };
                if documents < needed {
                    let s = if documents == 1 { "" } else { "s" };
                    bail!(
                        "the text has {documents} document{s}, but masking needs {needed} or more; give more text{}",
                        if pairs { ", or leave masking.next_sentence out" } else { "" }
                    );
                }
                Ok(())
            }
        }
    }

    /// Checks the same as [`Windows::check`] for [`Windows::all`], which turns a short text into one short window.
    ///
    /// # Errors
    /// See [`Windows::check`].
    pub fn check_all(self, shards: &[Shard], pairs: bool) -> Result<()> {
        match (self.pack, pairs) {
            (Pack::Stream, false) => Windows { width: 1, ..self }.check(shards, pairs),
            _ => self.check(shards, pairs),
        }
    }

    fn check_longest(self, shards: &[Shard], needed: usize) -> Result<()> {
        match shards.iter().max_by_key(|shard| shard.len()) {
            Some(longest) if longest.len() >= needed => Ok(()),
            Some(longest) => bail!(
                "{}: {} tokens are too few: masked rows of {} tokens need {needed}; lower model.context, or give more \
                 text",
                longest.path().display(),
                longest.len(),
                self.width
            ),
            None => bail!("no token file is given; name at least one"),
        }
    }

    /// Draws a window to train on.
    ///
    /// # Errors
    /// Fails if the table of documents of a shard is damaged.
    pub fn draw(self, shards: &[Shard], random: &mut Random) -> Result<Window> {
        let weight = |shard: &Shard| self.choices(shard, self.width);
        let pick = random.below(shards.iter().map(weight).sum());
        self.window(shards, locate(shards, weight, pick))
    }

    /// Draws a window of at most `len` tokens that is unrelated to the window `not`. In a stream, it neither overlaps
    /// nor directly follows `not`; otherwise it is the start of a piece of another document.
    ///
    /// # Errors
    /// Fails if the text is too short, or if the table of documents of a shard is damaged.
    pub fn elsewhere(self, shards: &[Shard], not: Window, len: usize, random: &mut Random) -> Result<Window> {
        let weight = |shard: &Shard| self.choices(shard, len);
        let shard = &shards[not.shard];
        let passed_over = match self.pack {
            Pack::Stream => {
                let end = (not.start + not.len + 1).min(weight(shard));
                not.start.saturating_sub(len - 1).min(end)..end
            }
            Pack::Documents => shard.document_around(not.start)?,
        };
        let all: usize = shards.iter().map(weight).sum();
        let begin = shards[..not.shard].iter().map(weight).sum::<usize>() + passed_over.start;
        let Some(left) = all.checked_sub(passed_over.len()).filter(|&left| left > 0) else {
            bail!(
                "{}: the text is too short for a second segment from elsewhere; give more text, or leave \
                 masking.next_sentence out",
                shard.path().display()
            );
        };
        let pick = random.below(left);
        let pick = if pick < begin { pick } else { pick + passed_over.len() };
        let window = self.window(shards, locate(shards, weight, pick))?;
        Ok(Window { len: window.len.min(len), ..window })
    }

    /// Returns consecutive windows that cover every token exactly once.
    ///
    /// # Errors
    /// Fails if document boundaries are needed and a shard does not have them or its table is damaged.
    pub fn all(self, shards: &[Shard]) -> Result<Vec<Window>> {
        let mut windows = Vec::new();
        for (number, shard) in shards.iter().enumerate() {
            let mut begin = 0;
            while begin < shard.len() {
                let end = match self.pack {
                    Pack::Stream => shard.len(),
                    Pack::Documents => shard.document_around(begin)?.end,
                };
                let pieces = (begin..end).step_by(self.width);
                windows.extend(pieces.map(|at| Window { shard: number, start: at, len: self.width.min(end - at) }));
                begin = end;
            }
        }
        Ok(windows)
    }

    /// Returns the number of positions of a shard that one is drawn from.
    fn choices(self, shard: &Shard, len: usize) -> usize {
        match self.pack {
            Pack::Stream => (shard.len() + 1).saturating_sub(len),
            Pack::Documents => shard.len(),
        }
    }

    /// Returns the window for a position that was drawn.
    fn window(self, shards: &[Shard], (shard, at): (usize, usize)) -> Result<Window> {
        match self.pack {
            Pack::Stream => Ok(Window { shard, start: at, len: self.width.min(shards[shard].len() - at) }),
            Pack::Documents => {
                let document = shards[shard].document_around(at)?;
                let start = at - (at - document.start) % self.width;
                Ok(Window { shard, start, len: self.width.min(document.end - start) })
            }
        }
    }
}

fn count_documents(shards: &[Shard]) -> Result<usize> {
    let mut documents = 0;
    for shard in shards {
        let Some(begin) = shard.documents() else {
            bail!(
                "{}: the file does not say where documents begin, which masking.pack = \"documents\" needs; prepare \
                 the text with `vcycle data prepare`, or use \"stream\"",
                shard.path().display()
            );
        };
        documents += begin + usize::from(shard.continues());
    }
    Ok(documents)
}

/// Returns the index of the shard and the position in it of choice number `pick`, where each shard has `weight`
/// choices.
fn locate(shards: &[Shard], weight: impl Fn(&Shard) -> usize, mut pick: usize) -> (usize, usize) {
    for (number, shard) in shards.iter().enumerate() {
        if pick < weight(shard) {
            return (number, pick);
        }
        pick -= weight(shard);
    }
    unreachable!("`pick` is below the sum of all weights")
}
