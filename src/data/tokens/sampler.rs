//! Which tokens go into which batch: random windows to train on, consecutive ones to validate on.
//!
//! A batch is `ids` and `labels`, both `[batch, context]` row-major; `labels` is `ids` shifted by one token, and a
//! position with nothing to predict has label -100. Nothing here keeps state: a batch follows from its numbers alone,
//! so a run that is resumed sees the same data as one that was not stopped.
//!
//! The tokens are one shard or several in a row ([`Tokens`](super::Tokens)); no window spans two of them.

use super::shard::Shard;
use crate::bail;
use crate::data::random::{Random, hash, scale};
use crate::error::Result;

/// The label of a position that is not scored.
pub const IGNORED: i32 = -100;

/// Draws training windows, uniformly and with replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    pub seed: u64,
    /// This process among `world`, from zero.
    pub rank: usize,
    /// Processes that train together, each with its own windows.
    pub world: usize,
}

impl Sampler {
    /// Where row `row` of this rank's batch at `step` starts in a shard of `tokens` tokens.
    ///
    /// Uniform in `0..=tokens - context - 1`, so that `context` tokens and the label of the last one fit; 0 when not
    /// even one window fits ([`check_length`] tells). The same arguments give the same start on any machine.
    pub fn start(&self, step: u64, row: usize, batch: usize, tokens: usize, context: usize) -> usize {
        scale(hash(self.seed, self.numbers(step, row, batch)), tokens.saturating_sub(context))
    }

    /// What a row is known by.
    fn numbers(&self, step: u64, row: usize, batch: usize) -> [u64; 3] {
        let row = (self.rank as u64).wrapping_mul(batch as u64).wrapping_add(row as u64);
        [step, row, self.world as u64]
    }

    /// The random numbers of row `row` of this rank's batch at `step`.
    pub(in crate::data) fn random(&self, step: u64, row: usize, batch: usize) -> Random {
        Random::new(self.seed, self.numbers(step, row, batch))
    }

    pub(in crate::data) fn check(&self) -> Result<()> {
        if self.rank >= self.world {
            bail!("rank {} is not below the number of processes {}; count ranks from zero", self.rank, self.world);
        }
        Ok(())
    }

    /// Fills the training batch of `step`: `ids` and `labels` are `[batch, context]`. Allocates nothing.
    ///
    /// # Errors
    /// When a buffer has another size, `rank` is not below `world`, every shard is too short for one window, or a token
    /// is damaged.
    pub fn training_batch(
        &self,
        tokens: &(impl AsRef<[Shard]> + ?Sized),
        step: u64,
        batch: usize,
        context: usize,
        ids: &mut [i32],
        labels: &mut [i32],
    ) -> Result<()> {
        self.check()?;
        check_length(tokens, context)?;
        check_buffers(batch, context, ids, labels)?;
        let shards = tokens.as_ref();
        let windows = |shard: &Shard| shard.len().saturating_sub(context);
        // As many as a single shard would need for so many windows.
        let all = shards.iter().map(windows).sum::<usize>() + context;
        let rows = ids.chunks_exact_mut(context).zip(labels.chunks_exact_mut(context));
        for (row, (ids, labels)) in rows.enumerate() {
            let mut start = self.start(step, row, batch, all, context);
            let mut found = &shards[0];
            for shard in shards {
                found = shard;
                if start < windows(shard) {
                    break;
                }
                start -= windows(shard);
            }
            let shard = found;
            shard.read(start, ids)?;
            shard.read(start + 1, labels)?;
        }
        Ok(())
    }
}

/// Fills the `index`-th validation batch and returns how many of its labels are scored, 0 when it is past the end.
///
/// Window `w` of a shard covers its tokens `w * context .. (w + 1) * context`, and the windows of the next shard follow;
/// batch `index` has windows `index * batch ..`, one a row. So all batches together score each token but the first of
/// each shard exactly once. Positions with no next token have label -100, those with no token id 0.
///
/// # Errors
/// When a buffer has another size, `context` is 0, or a token is damaged.
pub fn validation_batch(
    tokens: &(impl AsRef<[Shard]> + ?Sized),
    index: usize,
    batch: usize,
    context: usize,
    ids: &mut [i32],
    labels: &mut [i32],
) -> Result<usize> {
    scoring_batch(index, (batch, context), ids, labels, |window| {
        validation_window(tokens.as_ref(), window, context).map(|(shard, start)| (shard, start, 0))
    })
}

/// As [`validation_batch`] of one shard, in windows that overlap: each starts `stride` tokens after the one before, and
/// labels that the one before has are -100. So each token but the first is scored exactly once, those beyond the first
/// window with at least `context - stride` tokens before the one that predicts them. With a stride of `context` it is
/// [`validation_batch`].
///
/// # Errors
/// As [`validation_batch`]; a stride of 0, or beyond the context, which would pass over tokens.
pub fn overlapping_batch(
    shard: &Shard,
    index: usize,
    (batch, context, stride): (usize, usize, usize),
    ids: &mut [i32],
    labels: &mut [i32],
) -> Result<usize> {
    if stride == 0 || stride > context {
        bail!("a stride of {stride} is not in 1..={context}, the context; a larger one would pass over tokens");
    }
    scoring_batch(index, (batch, context), ids, labels, |window| {
        let start = window.checked_mul(stride)?;
        let done = if window == 0 { 0 } else { context - stride };
        (start.checked_add(done)? < shard.len()).then_some((shard, start, done))
    })
}

/// Fills a batch with windows by their numbers: `window` gives a shard, the first token, and how many labels at the begin
/// are not scored; `None` past the end.
fn scoring_batch<'a>(
    index: usize,
    (batch, context): (usize, usize),
    ids: &mut [i32],
    labels: &mut [i32],
    window: impl Fn(usize) -> Option<(&'a Shard, usize, usize)>,
) -> Result<usize> {
    if context == 0 {
        bail!("context is 0; set it to 1 or more");
    }
    check_buffers(batch, context, ids, labels)?;
    ids.fill(0);
    labels.fill(IGNORED);
    let mut scored = 0;
    let rows = ids.chunks_exact_mut(context).zip(labels.chunks_exact_mut(context));
    for (row, (ids, labels)) in rows.enumerate() {
        let Some((shard, start, done)) = window(index.saturating_mul(batch).saturating_add(row)) else { break };
        let present = context.min(shard.len() - start);
        shard.read(start, &mut ids[..present])?;
        let predicted = context.min(shard.len() - start - 1);
        shard.read(start + 1 + done, &mut labels[done..predicted])?;
        scored += predicted - done;
    }
    Ok(scored)
}

/// Where validation window `window` starts. `None`: past the end.
fn validation_window(shards: &[Shard], mut window: usize, context: usize) -> Option<(&Shard, usize)> {
    for (number, shard) in shards.iter().enumerate() {
        // Before another shard, a last window of one token, which predicts nothing, is left out: a batch of such windows
        // alone would look like the end.
        let windows = match number + 1 < shards.len() {
            true => shard.len().saturating_sub(1).div_ceil(context),
            false => shard.len().div_ceil(context),
        };
        if window < windows {
            return Some((shard, window * context));
        }
        window -= windows;
    }
    None
}

/// Checks that `tokens` have at least one window: `context` tokens and the one after, in one shard.
///
/// # Errors
/// When they have not, or `context` is 0.
pub fn check_length(tokens: &(impl AsRef<[Shard]> + ?Sized), context: usize) -> Result<()> {
    if context == 0 {
        bail!("context is 0; set it to 1 or more");
    }
    match tokens.as_ref().iter().max_by_key(|shard| shard.len()) {
        Some(longest) if longest.len() > context => Ok(()),
        Some(longest) if longest.len() < 2 => bail!(
            "{}: {} tokens are too few for any window, which needs one token and the one after it; give more text",
            longest.path().display(),
            longest.len()
        ),
        Some(longest) => bail!(
            "{}: {} tokens are too few for one window of context {context} and the token after it; set context to at \
             most {}, or give more text",
            longest.path().display(),
            longest.len(),
            longest.len() - 1
        ),
        None => bail!("no token file is given; name at least one"),
    }
}

fn check_buffers(batch: usize, context: usize, ids: &[i32], labels: &[i32]) -> Result<()> {
    let needed = batch.checked_mul(context);
    if needed != Some(ids.len()) || needed != Some(labels.len()) {
        bail!(
            "a batch of {batch} x {context} does not fit buffers of {} ids and {} labels; size both as batch x context",
            ids.len(),
            labels.len()
        );
    }
    Ok(())
}
