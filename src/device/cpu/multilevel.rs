use super::{CHUNK, Cpu, rows_of};
use crate::device::host::View;
use crate::device::ops::{IDENTITY, Item, Multilevel};
use crate::error::Result;
use std::collections::HashMap;
use std::ops::Range;

/// The maps of an operation, on the host.
#[derive(Clone, Copy)]
struct Maps<'a> {
    index: &'a [u32],
    weight: &'a [f32],
}

impl Maps<'_> {
    /// Entries of unit `i` of the map at `start`.
    fn group(&self, start: u32, i: usize) -> Range<usize> {
        let at = start as usize + i;
        self.index[at] as usize..self.index[at + 1] as usize
    }
}

/// Units side by side whose groups advance together: unit `u + i` sums the source units `sources[m] + i`.
struct Run {
    units: Range<usize>,
    /// Where in [`Columns::sources`].
    sources: Range<usize>,
    /// Where in [`Columns::weights`], those of the first members of all groups before those of the second.
    weights: Range<usize>,
}

/// A column map as runs, so that rows are summed with vector instructions: heads are mapped whole, and 64 units of a head or
/// several heads in order make a run.
#[derive(Default)]
struct Columns {
    runs: Vec<Run>,
    sources: Vec<usize>,
    weights: Vec<f32>,
}

impl Columns {
    fn new(maps: Maps, start: u32, cols: usize) -> Self {
        let mut columns = Columns::default();
        let mut from = 0;
        while from < cols {
            let first = &maps.index[maps.group(start, from)];
            let follows = |unit: &usize| {
                let group = &maps.index[maps.group(start, *unit)];
                let along = |(a, b): (&u32, &u32)| *a as usize + (unit - from) == *b as usize;
                group.len() == first.len() && first.iter().zip(group).all(along)
            };
            let units = from..(from + 1..cols).find(|unit| !follows(unit)).unwrap_or(cols);
            let (sources, weights) = (columns.sources.len(), columns.weights.len());
            columns.sources.extend(first.iter().map(|&unit| unit as usize));
            for member in 0..first.len() {
                columns.weights.extend(units.clone().map(|unit| maps.weight[maps.group(start, unit).start + member]));
            }
            from = units.end;
            columns.runs.push(Run {
                units,
                sources: sources..columns.sources.len(),
                weights: weights..columns.weights.len(),
            });
        }
        columns
    }

    /// `acc += factor * row` through the map: each unit sums its group.
    #[inline(always)]
    fn add_row(&self, acc: &mut [f32], row: &[f32], factor: f32) {
        for run in &self.runs {
            let acc = &mut acc[run.units.clone()];
            let n = acc.len();
            let weights = &self.weights[run.weights.clone()];
            match self.sources[run.sources.clone()] {
                [] => {}
                [a] => {
                    for ((acc, x), w) in acc.iter_mut().zip(&row[a..a + n]).zip(weights) {
                        *acc += factor * (w * x);
                    }
                }
                [a, b] => {
                    let (of_a, of_b) = weights.split_at(n);
                    let members = row[a..a + n].iter().zip(of_a).zip(row[b..b + n].iter().zip(of_b));
                    for (acc, ((x, w), (y, v))) in acc.iter_mut().zip(members) {
                        *acc += factor * (w * x + v * y);
                    }
                }
                ref many => add_many(acc, row, many, weights, factor),
            }
        }
    }
}

/// [`Columns::add_row`] for groups of three and more.
#[inline(always)]
fn add_many(acc: &mut [f32], row: &[f32], sources: &[usize], weights: &[f32], factor: f32) {
    const BLOCK: usize = 64;
    let n = acc.len();
    for (block, acc) in acc.chunks_mut(BLOCK).enumerate() {
        let at = block * BLOCK;
        let mut sum = [0.0; BLOCK];
        for (member, source) in sources.iter().enumerate() {
            let (x, w) = (&row[source + at..][..acc.len()], &weights[member * n + at..][..acc.len()]);
            for ((sum, x), w) in sum.iter_mut().zip(x).zip(w) {
                *sum += w * x;
            }
        }
        for (acc, sum) in acc.iter_mut().zip(&sum) {
            *acc += factor * sum;
        }
    }
}

/// What the destination is interpolated with.
enum Base<'a> {
    None,
    /// The destination itself, as it was.
    InPlace,
    Apart(View<'a, f32>),
}

/// All that chunks read.
struct Mapping<'a> {
    maps: Maps<'a>,
    src: &'a [f32],
    base: Base<'a>,
    alpha: f32,
}

impl Mapping<'_> {
    /// Row `i` of a parameter. `start`: where it begins in the destination.
    #[inline(always)]
    fn row(&self, item: &Item, columns: Option<&Columns>, i: usize, start: usize, out: &mut [f32]) {
        let (alpha, maps) = (self.alpha, self.maps);
        // What is there already counts (1 - alpha).
        match &self.base {
            Base::None => out.fill(item.fill),
            Base::InPlace => out.iter_mut().for_each(|o| *o = (1.0 - alpha).mul_add(*o, alpha * item.fill)),
            Base::Apart(base) => {
                // SAFETY: the base is only read.
                let base = unsafe { base.span(0, start..start + out.len()) };
                out.iter_mut().zip(base).for_each(|(o, b)| *o = (1.0 - alpha).mul_add(*b, alpha * item.fill));
            }
        }
        for l in item.layer_start as usize..(item.layer_start + item.layers) as usize {
            let (from, factor) = (maps.index[l] as usize, alpha * maps.weight[l]);
            match item.row_map {
                IDENTITY => self.add(item, columns, from + i * item.src_pitch as usize, factor, out),
                map => {
                    for e in maps.group(map, i) {
                        let from = from + maps.index[e] as usize * item.src_pitch as usize;
                        self.add(item, columns, from, factor * maps.weight[e], out);
                    }
                }
            }
        }
    }

    /// One row of the source, which begins at `from`. No closure: it would be compiled apart, without the vector instructions
    /// that were chosen at run time.
    #[inline(always)]
    fn add(&self, item: &Item, columns: Option<&Columns>, from: usize, factor: f32, out: &mut [f32]) {
        let row = &self.src[from..from + item.src_cols as usize];
        match columns {
            Some(columns) => columns.add_row(out, row, factor),
            None => out.iter_mut().zip(row).for_each(|(o, x)| *o += factor * x),
        }
    }
}

impl Cpu {
    pub(super) fn multilevel(&self, op: &Multilevel) -> Result<()> {
        let (src, dst) = (self.slice::<f32>(&op.src)?, self.f(&op.dst)?);
        let maps = Maps { index: self.slice(&op.index)?, weight: self.slice(&op.weight)? };
        let items: &[Item] = bytemuck::cast_slice(self.slice::<u32>(&op.items)?);
        Item::check_all(items, maps.index, src.len(), dst.width)?;
        let base = match self.maybe(&op.base)? {
            None => Base::None,
            Some(base) if base.pointer() == dst.pointer() => Base::InPlace,
            Some(base) => Base::Apart(base),
        };
        let mapping = Mapping { maps, src, base, alpha: op.alpha as f32 };
        let mut columns: HashMap<(u32, u32), Columns> = HashMap::new();
        for item in items.iter().filter(|item| item.col_map != IDENTITY) {
            let key = (item.col_map, item.cols);
            columns.entry(key).or_insert_with(|| Columns::new(maps, item.col_map, item.cols as usize));
        }
        // One job for all parameters: most are vectors, too short for one of their own.
        let chunks: Vec<(&Item, Range<usize>)> = items
            .iter()
            .flat_map(|item| {
                let (rows, step) = (item.rows as usize, rows_of(item.cols as usize, CHUNK));
                (0..rows).step_by(step).map(move |first| (item, first..(first + step).min(rows)))
            })
            .collect();
        self.for_chunks(
            chunks.len(),
            1,
            #[inline(always)]
            |range| {
                for (item, rows) in &chunks[range] {
                    let columns = columns.get(&(item.col_map, item.cols));
                    for i in rows.clone() {
                        let start = item.dst_offset as usize + i * item.dst_pitch as usize;
                        // SAFETY: parameters and their rows do not overlap (`check_all`), and this chunk alone has row i.
                        let out = unsafe { dst.span_mut(0, start..start + item.cols as usize) };
                        mapping.row(item, columns, i, start, out);
                    }
                }
            },
        );
        Ok(())
    }
}
