use super::Cpu;
use crate::device::ops::ColumnSum;
use crate::error::Result;

/// Columns of a chunk.
const COLUMNS: usize = 32;

impl Cpu {
    pub(super) fn column_sum(&self, op: &ColumnSum) -> Result<()> {
        let (x, out) = (self.f(&op.x)?, self.f(&op.out)?);
        // A chunk owns 32 columns and walks down all rows: two cache lines a row, one order of additions.
        self.for_chunks(
            x.width,
            COLUMNS,
            #[inline(always)]
            |columns| {
                let mut sums = [0.0f32; COLUMNS];
                let sums = &mut sums[..columns.len()];
                for r in 0..x.rows {
                    // SAFETY: x is only read.
                    let row = unsafe { &x.row(r)[columns.clone()] };
                    sums.iter_mut().zip(row).for_each(|(s, x)| *s += x);
                }
                for (c, sum) in columns.zip(sums) {
                    out.set(0, c, if op.accumulate { out.get(0, c) + *sum } else { *sum });
                }
            },
        );
        Ok(())
    }
}
