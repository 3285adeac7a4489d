use super::{CHUNK, Cpu, rows_of};
use crate::device::ops::Accumulate;
use crate::error::Result;

impl Cpu {
    pub(super) fn accumulate(&self, op: &Accumulate) -> Result<()> {
        let width = op.out.shape().last();
        let rows = [op.out.numel() / width.max(1), width];
        let as_rows = |t: &crate::tensor::Tensor| if t.is_contiguous() { t.reshape(&rows) } else { *t };
        let (x, out) = (self.f(&as_rows(&op.x))?, self.f(&as_rows(&op.out))?);
        self.for_chunks(
            out.rows(),
            rows_of(width, CHUNK),
            #[inline(always)]
            |range| {
                for r in range {
                    // SAFETY: only this chunk writes row r of out, and x is only read.
                    let (x, out) = unsafe { (x.row(r), out.row_mut(r)) };
                    if op.add { out.iter_mut().zip(x).for_each(|(o, x)| *o += x) } else { out.copy_from_slice(x) }
                }
            },
        );
        Ok(())
    }
}
