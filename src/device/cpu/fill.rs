use super::{CHUNK, Cpu, rows_of};
use crate::device::ops::Fill;
use crate::error::Result;

impl Cpu {
    pub(super) fn fill(&self, op: &Fill) -> Result<()> {
        let (out, value) = (self.f(&op.out)?, op.value as f32);
        self.for_chunks(
            out.rows(),
            rows_of(out.width(), CHUNK),
            #[inline(always)]
            |range| {
                // SAFETY: only this chunk writes these rows.
                range.for_each(|r| unsafe { out.row_mut(r) }.fill(value));
            },
        );
        Ok(())
    }
}
