//! Which tokens go into which batch: random windows to train on, consecutive ones to validate on.
//!
//! A batch is `ids` and `labels`, both `[batch, context]` row-major; `labels` is `ids` shifted by one token, and a
//! position with nothing to predict has label -100. Nothing here keeps state: a batch follows from its numbers alone,
//! so a run that is resumed sees the same data as one that was not stopped.

use super::shard::Shard;
use crate::bail;
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

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014), a bijection on 64 bits.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Sampler {
    /// Where row `row` of this rank's batch at `step` starts in a shard of `tokens` tokens.
    ///
    /// Uniform in `0..=tokens - context - 1`, so that `context` tokens and the label of the last one fit; 0 when not
    /// even one window fits ([`check_length`] tells). The same arguments give the same start on any machine.
    pub fn start(&self, step: u64, row: usize, batch: usize, tokens: usize, context: usize) -> usize {
        let choices = tokens.saturating_sub(context).max(1) as u128;
        let row = (self.rank as u64).wrapping_mul(batch as u64).wrapping_add(row as u64);
        let hash = [step, row, self.world as u64].into_iter().fold(mix(self.seed), |state, word| mix(state ^ word));
        // The high half of the product maps 64 random bits to the choices with a bias below choices / 2^64.
        ((u128::from(hash) * choices) >> 64) as usize
    }

    /// Fills the training batch of `step`: `ids` and `labels` are `[batch, context]`. Allocates nothing.
    ///
    /// # Errors
    /// When a buffer has another size, `rank` is not below `world`, the shard is too short for one window, or a token
    /// is damaged.
    pub fn training_batch(
        &self,
        shard: &Shard,
        step: u64,
        batch: usize,
        context: usize,
        ids: &mut [i32],
        labels: &mut [i32],
    ) -> Result<()> {
        if self.rank >= self.world {
            bail!("rank {} is not below the number of processes {}; count ranks from zero", self.rank, self.world);
        }
        check_length(shard, context)?;
        check_buffers(batch, context, ids, labels)?;
        let rows = ids.chunks_exact_mut(context).zip(labels.chunks_exact_mut(context));
        for (row, (ids, labels)) in rows.enumerate() {
            let start = self.start(step, row, batch, shard.len(), context);
            shard.read(start, ids)?;
            shard.read(start + 1, labels)?;
        }
        Ok(())
    }
}

/// Fills the `index`-th validation batch and returns how many of its labels are scored, 0 when it is past the end.
///
/// Window `w` covers tokens `w * context .. (w + 1) * context`; batch `index` has windows `index * batch ..`, one a
/// row. So all batches together score each token but the first exactly once. Positions with no next token have label
/// -100, those with no token id 0.
///
/// # Errors
/// When a buffer has another size, `context` is 0, or a token is damaged.
pub fn validation_batch(
    shard: &Shard,
    index: usize,
    batch: usize,
    context: usize,
    ids: &mut [i32],
    labels: &mut [i32],
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
        let start = index.saturating_mul(batch).saturating_add(row).saturating_mul(context);
        if start >= shard.len() {
            break;
        }
        let present = context.min(shard.len() - start);
        shard.read(start, &mut ids[..present])?;
        let predicted = context.min(shard.len() - start - 1);
        shard.read(start + 1, &mut labels[..predicted])?;
        scored += predicted;
    }
    Ok(scored)
}

/// Checks that `shard` has at least one window: `context` tokens and the one after.
///
/// # Errors
/// When it has not, or `context` is 0.
pub fn check_length(shard: &Shard, context: usize) -> Result<()> {
    if context == 0 {
        bail!("context is 0; set it to 1 or more");
    }
    if shard.len() <= context {
        bail!(
            "{}: {} tokens are too few for one window of context {context} and the token after it; set context to at \
             most {}, or give more text",
            shard.path().display(),
            shard.len(),
            shard.len().saturating_sub(1)
        );
    }
    Ok(())
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
