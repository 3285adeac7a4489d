//! Which stretch of the tokens a row of a masked batch shows: any one of the stream, or a piece of one document.
//!
//! No window spans two shards. Documents are cut into pieces of a window's width from their first token on, the last one
//! shorter; the piece of a row is the one that a token lies in which is drawn uniformly, so that every token is shown
//! equally often. What of a document lies in a shard counts as a document.

use serde::{Deserialize, Serialize};

use super::shard::Shard;
use crate::bail;
use crate::data::random::Random;
use crate::error::Result;

/// Where windows begin and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pack {
    /// Anywhere: rows are full, and documents run on.
    #[default]
    Stream,
    /// At documents' begins and ends: rows may be shorter, and are padded.
    Documents,
}

/// Consecutive tokens of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The shard's number in the list.
    pub(in crate::data) shard: usize,
    /// The position of the first token in it.
    pub(in crate::data) start: usize,
    /// At least 1.
    pub(in crate::data) len: usize,
}

/// Windows of at most `width` tokens.
#[derive(Clone, Copy, Debug)]
pub(in crate::data) struct Windows {
    pub pack: Pack,
    pub width: usize,
}

impl Windows {
    /// Checks that [`Windows::draw`] finds a window, and with `pairs` also [`Windows::elsewhere`].
    ///
    /// # Errors
    /// When it does not: the text is too short, or documents are wanted and a shard does not say where they begin.
    pub fn check(self, shards: &[Shard], pairs: bool) -> Result<()> {
        match self.pack {
            // `elsewhere` passes over the begins of at most two windows, so that some of three are left.
            Pack::Stream => self.check_longest(shards, if pairs { 3 * self.width } else { self.width }),
            Pack::Documents => {
                let documents = count_documents(shards)?;
                let needed = if pairs { 2 } else { 1 };
                if documents < needed {
                    let s = if documents == 1 { "" } else { "s" };
                    bail!(
                        "the text has {documents} document{s}, and masking takes {needed} or more; give more text{}",
                        if pairs { ", or leave masking.next_sentence out" } else { "" }
                    );
                }
                Ok(())
            }
        }
    }

    /// As [`Windows::check`], for [`Windows::all`], to which a short text is one short window.
    ///
    /// # Errors
    /// As [`Windows::check`].
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
                "{}: {} tokens are too few: masked rows of {} tokens take {needed}; set model.context lower, or give more \
                 text",
                longest.path().display(),
                longest.len(),
                self.width
            ),
            None => bail!("no token file is given; name at least one"),
        }
    }

    /// A window to train on.
    pub fn draw(self, shards: &[Shard], random: &mut Random) -> Result<Window> {
        let weight = |shard: &Shard| self.choices(shard, self.width);
        let pick = random.below(shards.iter().map(weight).sum());
        self.window(shards, locate(shards, weight, pick))
    }

    /// At most `len` tokens that have nothing to do with those of the window `not`: in a stream they neither overlap nor
    /// follow it; else they begin a piece of another document.
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
                "{}: the text is too short for a second segment from elsewhere; give more, or leave \
                 masking.next_sentence out",
                shard.path().display()
            );
        };
        let pick = random.below(left);
        let pick = if pick < begin { pick } else { pick + passed_over.len() };
        let window = self.window(shards, locate(shards, weight, pick))?;
        Ok(Window { len: window.len.min(len), ..window })
    }

    /// All tokens, each in one window, in their order.
    ///
    /// # Errors
    /// Documents are wanted, and a shard does not say where they begin or its table is damaged.
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

    /// Of how many positions of a shard one is drawn.
    fn choices(self, shard: &Shard, len: usize) -> usize {
        match self.pack {
            Pack::Stream => (shard.len() + 1).saturating_sub(len),
            Pack::Documents => shard.len(),
        }
    }

    /// The window of a position that was drawn.
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
                "{}: does not say where documents begin, which masking.pack = \"documents\" needs; prepare the text with \
                 `vcycle data prepare`, or use \"stream\"",
                shard.path().display()
            );
        };
        documents += begin + usize::from(shard.continues());
    }
    Ok(documents)
}

/// The shard, and the place in it, of number `pick` of all that `weight` counts.
fn locate(shards: &[Shard], weight: impl Fn(&Shard) -> usize, mut pick: usize) -> (usize, usize) {
    for (number, shard) in shards.iter().enumerate() {
        if pick < weight(shard) {
            return (number, pick);
        }
        pick -= weight(shard);
    }
    unreachable!("a number below the sum of all weights")
}
