use super::{CHUNK, Cpu, rows_of};
use crate::device::ops::{IDENTITY, Item, Multilevel};
use crate::error::Result;
use std::ops::Range;

/// The maps of an operation, on the host.
struct Maps<'a> {
    index: &'a [u32],
    weight: &'a [f32],
}

impl Maps<'_> {
    /// Entries of unit `i` of the map at `start`.
    #[inline(always)]
    fn group(&self, start: u32, i: usize) -> Range<usize> {
        let at = start as usize + i;
        self.index[at] as usize..self.index[at + 1] as usize
    }

    /// `acc += factor * row` through a column map: each unit sums its group.
    #[inline(always)]
    fn add_row(&self, acc: &mut [f32], row: &[f32], col_map: u32, factor: f32) {
        if col_map == IDENTITY {
            acc.iter_mut().zip(row).for_each(|(a, x)| *a += factor * x);
            return;
        }
        for (j, a) in acc.iter_mut().enumerate() {
            let group = self.group(col_map, j);
            *a += factor * group.map(|e| self.weight[e] * row[self.index[e] as usize]).sum::<f32>();
        }
    }
}

impl Cpu {
    pub(super) fn multilevel(&self, op: &Multilevel) -> Result<()> {
        let (src, dst) = (self.slice::<f32>(&op.src)?, self.f(&op.dst)?);
        let base = self.maybe(&op.base)?;
        let in_place = base.is_some_and(|b| b.pointer() == dst.pointer());
        let maps = Maps { index: self.slice(&op.index)?, weight: self.slice(&op.weight)? };
        let items: &[Item] = bytemuck::cast_slice(self.slice::<u32>(&op.items)?);
        let alpha = op.alpha as f32;
        for (number, item) in items.iter().enumerate() {
            item.check(maps.index, src.len(), dst.width).map_err(|e| e.at(format_args!("item {number}")))?;
        }
        for item in items {
            let (rows, cols) = (item.rows as usize, item.cols as usize);
            let layers = item.layer_start as usize..(item.layer_start + item.layers) as usize;
            self.for_chunks(
                rows,
                rows_of(cols, CHUNK),
                #[inline(always)]
                |range| {
                    for i in range {
                        let start = item.dst_offset as usize + i * item.dst_pitch as usize;
                        // SAFETY: rows of parameters do not overlap, and this chunk alone writes row i.
                        let out = unsafe { dst.span_mut(0, start..start + cols) };
                        // What is there already counts (1 - alpha) where the base is the destination.
                        match &base {
                            Some(_) if in_place => {
                                out.iter_mut().for_each(|o| *o = (1.0 - alpha).mul_add(*o, alpha * item.fill))
                            }
                            Some(base) => {
                                // SAFETY: the base is only read.
                                let base = unsafe { base.span(0, start..start + cols) };
                                out.iter_mut()
                                    .zip(base)
                                    .for_each(|(o, b)| *o = (1.0 - alpha).mul_add(*b, alpha * item.fill));
                            }
                            None => out.fill(item.fill),
                        }
                        for l in layers.clone() {
                            let from = maps.index[l] as usize;
                            let mut add = |a: usize, factor: f32| {
                                let at = from + a * item.src_pitch as usize;
                                let row = &src[at..at + item.src_cols as usize];
                                maps.add_row(out, row, item.col_map, alpha * maps.weight[l] * factor);
                            };
                            match item.row_map {
                                IDENTITY => add(i, 1.0),
                                map => maps.group(map, i).for_each(|e| add(maps.index[e] as usize, maps.weight[e])),
                            }
                        }
                    }
                },
            );
        }
        Ok(())
    }
}
