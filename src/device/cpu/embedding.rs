use super::{CHUNK, Cpu, rows_of};
use crate::bail;
use crate::device::ops::{Embedding, EmbeddingBackward};
use crate::error::Result;

/// Columns in a chunk of the backward pass. A chunk owns these columns in all rows of the table, so that the order of
/// additions is fixed.
const COLUMNS: usize = 32;

/// Checks that all ids are rows of a table of `rows` rows.
fn check_ids(ids: &[i32], rows: usize) -> Result<()> {
    match ids.iter().position(|&id| usize::try_from(id).map_or(true, |id| id >= rows)) {
        Some(i) => bail!("id {} at position {i} is out of range for a table of {rows} rows", ids[i]),
        None => Ok(()),
    }
}

impl Cpu {
    pub(super) fn embedding(&self, op: &Embedding) -> Result<()> {
        let ids = self.slice::<i32>(&op.ids)?;
        let (table, positions, out) = (self.f(&op.table)?, self.maybe(&op.positions)?, self.f(&op.out)?);
        check_ids(ids, table.rows())?;
        let time = op.ids.dims()[1];
        self.for_chunks(
            out.rows(),
            rows_of(out.width(), CHUNK),
            #[inline(always)]
            |range| {
                for r in range {
                    // SAFETY: only this chunk writes row r of out; the tables are only read.
                    let (row, out) = unsafe { (table.row(ids[r] as usize), out.row_mut(r)) };
                    if op.accumulate {
                        out.iter_mut().zip(row).for_each(|(o, x)| *o += x);
                    } else {
                        out.copy_from_slice(row);
                    }
                    if let Some(positions) = &positions {
                        // SAFETY: as above.
                        let row = unsafe { positions.row(r % time) };
                        out.iter_mut().zip(row).for_each(|(o, x)| *o += x);
                    }
                }
            },
        );
        Ok(())
    }

    pub(super) fn embedding_backward(&self, op: &EmbeddingBackward) -> Result<()> {
        let ids = self.slice::<i32>(&op.ids)?;
        let (dout, table, positions) = (self.f(&op.dout)?, self.maybe(&op.dtable)?, self.maybe(&op.dpositions)?);
        if let Some(table) = &table {
            check_ids(ids, table.rows())?;
        }
        let time = op.ids.dims()[1];
        let skip = op.padding.map_or(-1, i64::from);
        self.for_chunks(
            dout.width(),
            COLUMNS,
            #[inline(always)]
            |columns| {
                let targets = [(&table, op.accumulate_table), (&positions, op.accumulate_positions)];
                for (target, _) in targets.iter().filter(|(_, accumulate)| !accumulate) {
                    for t in target.iter() {
                        // SAFETY: this chunk owns these columns of every row.
                        (0..t.rows()).for_each(|r| unsafe { t.span_mut(r, columns.clone()) }.fill(0.0));
                    }
                }
                for (r, &id) in ids.iter().enumerate() {
                    // SAFETY: as above; dout is only read.
                    let d = unsafe { dout.span(r, columns.clone()) };
                    let rows = [
                        table.filter(|_| i64::from(id) != skip).map(|t| (t, id as usize)),
                        positions.map(|t| (t, r % time)),
                    ];
                    for (target, row) in rows.into_iter().flatten() {
                        // SAFETY: as above.
                        let target = unsafe { target.span_mut(row, columns.clone()) };
                        target.iter_mut().zip(d).for_each(|(t, d)| *t += d);
                    }
                }
            },
        );
        Ok(())
    }
}
