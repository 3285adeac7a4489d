use super::{CHUNK, Cpu, rows_of};
use crate::device::ops::philox::{keeps, philox};
use crate::device::ops::{Dropout, Mask, StepState};
use crate::error::Result;

/// Calls `each(i, scale)` for `n` consecutive elements from `first` on: 0 where dropped, 1 / (1 - p) where kept.
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

impl Cpu {
    pub(super) fn dropout(&self, op: &Dropout) -> Result<()> {
        let state = self.step_state(&op.mask.state)?;
        let (x, residual, out) = (self.f(&op.x)?, self.maybe(&op.residual)?, self.f(&op.out)?);
        let in_place = x.pointer() == out.pointer();
        self.for_chunks(
            x.rows,
            rows_of(x.width, CHUNK / 4),
            #[inline(always)]
            |range| {
                for r in range {
                    // SAFETY: this chunk alone writes row r of out; x is not taken as a slice when it is the same memory.
                    let target = unsafe { out.row_mut(r) };
                    if !in_place {
                        // SAFETY: as above.
                        target.copy_from_slice(unsafe { x.row(r) });
                    }
                    for_mask(&state, &op.mask, (r * x.width) as u64, x.width, |c, scale| target[c] *= scale);
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
