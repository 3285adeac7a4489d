use super::{CHUNK, Cpu, rows_of};
use crate::device::ops::ColumnSum;
use crate::error::Result;

/// Largest number of chunks. Each chunk leaves a row of partial sums.
const PARTS: usize = 64;

impl Cpu {
    pub(super) fn column_sum(&self, op: &ColumnSum) -> Result<()> {
        let (x, out) = (self.f(&op.x)?, self.f(&op.out)?);
        if x.width() == 0 {
            return Ok(());
        }
        // Chunks are blocks of rows. Their number, and so the order of additions, depends only on the shape.
        let rows = rows_of(x.width(), CHUNK).max(x.rows().div_ceil(PARTS));
        let parts = x.rows().div_ceil(rows);
        self.partials.reserve(1, parts * x.width() + 16);
        let mut lent = self.partials.take();
        let partials = Partials(lent.aligned(parts * x.width()).as_mut_ptr());
        let partial = |p: usize| {
            let partials = &partials;
            // SAFETY: each chunk writes its own row of the partial sums, and the rows are read after all chunks are
            // done.
            unsafe { std::slice::from_raw_parts_mut(partials.0.add(p * x.width()), x.width()) }
        };
        self.for_chunks(
            x.rows(),
            rows,
            #[inline(always)]
            |range| {
                let sums = partial(range.start / rows);
                sums.fill(0.0);
                for r in range {
                    // SAFETY: x is only read.
                    sums.iter_mut().zip(unsafe { x.row(r) }).for_each(|(s, x)| *s += x);
                }
            },
        );
        // SAFETY: no other thread is running.
        let out = unsafe { out.row_mut(0) };
        if !op.accumulate {
            out.fill(0.0);
        }
        for p in 0..parts {
            out.iter_mut().zip(&*partial(p)).for_each(|(o, s)| *o += *s);
        }
        Ok(())
    }
}

/// Address of the partial sums.
struct Partials(*mut f32);

// SAFETY: chunks write different rows.
unsafe impl Sync for Partials {}
