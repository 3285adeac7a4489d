use super::{CHUNK, Cpu, rows_of};
use crate::device::ops::philox::{keeps, philox, word};
use crate::device::ops::{Dropout, Mask, StepState};
use crate::error::Result;
use std::ops::Range;

/// Calls `each(i, scale)` for `n` consecutive elements of the mask from `first` on, where `scale` is 0 for dropped
/// elements and `1 / (1 - p)` for kept ones.
#[inline(always)]
pub(super) fn for_mask(state: &StepState, mask: &Mask, first: u64, n: usize, mut each: impl FnMut(usize, f32)) {
    let scale = 1.0 / (1.0 - mask.p);
    let mut words = [0; 4];
    for i in 0..n {
        let index = first + i as u64;
        if i == 0 || index.is_multiple_of(4) {
            let block = index / 4;
            words = philox(state.seed, [block as u32, (block >> 32) as u32, mask.site, state.step]);
        }
        each(i, if keeps(words[(index % 4) as usize], mask.p) { scale } else { 0.0 });
    }
}

/// Like [`for_mask`] for groups of `unit` elements that share one index of the mask. Calls `each` with the range of
/// elements of each group that lies within the `n` elements.
#[inline(always)]
fn for_units(
    state: &StepState,
    mask: &Mask,
    unit: usize,
    first: usize,
    n: usize,
    mut each: impl FnMut(Range<usize>, f32),
) {
    let scale = 1.0 / (1.0 - mask.p);
    let mut begin = 0;
    while begin < n {
        let number = (first + begin) / unit;
        let end = n.min((number + 1).saturating_mul(unit) - first);
        let kept = keeps(word(state.seed, state.step, mask.site, number as u64), mask.p);
        each(begin..end, if kept { scale } else { 0.0 });
        begin = end;
    }
}

impl Cpu {
    pub(super) fn dropout(&self, op: &Dropout) -> Result<()> {
        let state = self.step_state(&op.mask.state)?;
        let (x, residual, out) = (self.f(&op.x)?, self.maybe(&op.residual)?, self.f(&op.out)?);
        let in_place = x.pointer() == out.pointer();
        self.for_chunks(
            x.rows(),
            rows_of(x.width(), CHUNK / 4),
            #[inline(always)]
            |range| {
                for r in range {
                    // SAFETY: only this chunk writes row r of out; no slice of x is created when it is the same memory.
                    let target = unsafe { out.row_mut(r) };
                    if !in_place {
                        // SAFETY: as above.
                        target.copy_from_slice(unsafe { x.row(r) });
                    }
                    let first = r * x.width();
                    if op.unit == 1 {
                        for_mask(&state, &op.mask, first as u64, x.width(), |c, scale| target[c] *= scale);
                    } else {
                        for_units(&state, &op.mask, op.unit, first, x.width(), |part, scale| {
                            target[part].iter_mut().for_each(|t| *t *= scale);
                        });
                    }
                    if let Some(residual) = &residual {
                        // SAFETY: the residual is only read.
                        target.iter_mut().zip(unsafe { residual.row(r) }).for_each(|(t, x)| *t += x);
                    }
                }
            },
        );
        Ok(())
    }
}
