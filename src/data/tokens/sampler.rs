//! Cuts tokens into batches: random windows for training, consecutive ones for validation.
//!
//! A batch is `ids` and `labels`, both `[batch, context]` row-major. `labels` is `ids` shifted by one token; a position
//! with nothing to predict has label -100. There is no state: a batch is a function of its number (and the seed, rank
//! and world size), so a resumed run sees the same data as an uninterrupted one.
//!
//! The tokens are a sequence of shards ([`Tokens`](super::Tokens)); no window spans two of them.

use super::shard::Shard;
use crate::bail;
use crate::data::random::{Random, hash, scale};
use crate::error::Result;

/// The label of a position that is not scored.
pub const IGNORED: i32 = -100;

/// Draws training windows uniformly, with replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// Seed of everything drawn for a row: window positions, masking. The same for all ranks.
    pub seed: u64,
    /// The rank of this process, in `0..world`.
    pub rank: usize,
    /// The number of processes that train together, each with its own windows.
    pub world: usize,
}

impl Sampler {
    /// Returns where row `row` of this rank's batch at `step` starts in a shard of `tokens` tokens.
    ///
    /// The start is uniform in `0..=tokens - context - 1`, so that `context` tokens and the label of the last one fit.
    /// It is 0 if no window fits ([`check_length`] checks that). The same arguments give the same start on any machine.
    pub fn start(&self, step: u64, row: usize, batch: usize, tokens: usize, context: usize) -> usize {
        scale(hash(self.seed, self.numbers(step, row, batch)), tokens.saturating_sub(context))
    }

    /// Returns the numbers that identify a row among those of all steps and ranks.
    fn numbers(&self, step: u64, row: usize, batch: usize) -> [u64; 3] {
        let row = (self.rank as u64).wrapping_mul(batch as u64).wrapping_add(row as u64);
        [step, row, self.world as u64]
    }

    /// Returns the random numbers of row `row` of this rank's batch at `step`.
    pub(in crate::data) fn random(&self, step: u64, row: usize, batch: usize) -> Random {
        Random::new(self.seed, self.numbers(step, row, batch))
    }

    /// Checks that the rank is below the number of processes.
    pub(in crate::data) fn check(&self) -> Result<()> {
        if self.rank >= self.world {
            bail!("rank {} is not below the number of processes {}; count ranks from zero", self.rank, self.world);
        }
        Ok(())
    }

    /// Fills the training batch of `step`: `ids` and `labels` are `[batch, context]`. Allocates nothing.
    ///
    /// # Errors
    /// Fails if a buffer has the wrong size, `rank` is not below `world`, every shard is too short for one window, or a
    /// token is damaged.
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
        // The length of a single shard with the same number of windows.
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

/// Fills the `index`-th validation batch and returns how many of its labels are scored, 0 past the end.
///
/// Window `w` of a shard covers its tokens `w * context .. (w + 1) * context`; the windows of the next shard follow.
/// Batch `index` has windows `index * batch ..`, one per row. So all batches together score each token except the first
/// of each shard exactly once. Positions without a next token have label -100, those without a token have id 0.
///
/// # Errors
/// Fails if a buffer has the wrong size, `context` is 0, or a token is damaged.
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

/// Fills the `index`-th validation batch of one shard like [`validation_batch`], but with overlapping windows.
///
/// Each window starts `stride` tokens after the previous one, and labels that the previous window already has are -100.
/// So each token except the first is scored exactly once. A token beyond the first window is predicted from a position
/// with at least `context - stride` tokens before it. A stride of `context` gives [`validation_batch`].
///
/// # Errors
/// Fails like [`validation_batch`], and if `stride` is 0 or larger than `context`.
pub fn overlapping_batch(
    shard: &Shard,
    index: usize,
    (batch, context, stride): (usize, usize, usize),
    ids: &mut [i32],
    labels: &mut [i32],
) -> Result<usize> {
    if stride == 0 || stride > context {
        bail!("a stride of {stride} is not in 1..={context} (the context); a larger one would skip tokens");
    }
    scoring_batch(index, (batch, context), ids, labels, |window| {
        let start = window.checked_mul(stride)?;
        let done = if window == 0 { 0 } else { context - stride };
        (start.checked_add(done)? < shard.len()).then_some((shard, start, done))
    })
}

/// Fills a batch with windows. `window` maps the number of a window to a shard, the position of its first token, and
/// the number of labels at its start that are not scored; it returns `None` past the end.
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

/// Returns the shard and the position where validation window `window` starts, or `None` past the end.
fn validation_window(shards: &[Shard], mut window: usize, context: usize) -> Option<(&Shard, usize)> {
    for (number, shard) in shards.iter().enumerate() {
        // In all shards but the last, leave out a final window of one token, which predicts nothing: a batch of only
        // such windows would look like the end.
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

/// Checks that `tokens` contain at least one window: `context` tokens and the token after them in one shard.
///
/// # Errors
/// Fails if they do not, or if `context` is 0.
pub fn check_length(tokens: &(impl AsRef<[Shard]> + ?Sized), context: usize) -> Result<()> {
    if context == 0 {
        bail!("context is 0; set it to 1 or more");
    }
    match tokens.as_ref().iter().max_by_key(|shard| shard.len()) {
        Some(longest) if longest.len() > context => Ok(()),
        Some(longest) if longest.len() < 2 => bail!(
            "{}: {} tokens are too few for any window, which needs a token and the token after it; give more text",
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
            "a batch of {batch} x {context} does not match buffers of {} ids and {} labels; size both as batch x \
             context",
            ids.len(),
            labels.len()
        );
    }
    Ok(())
}
