use super::gemm::pack::prefetch_far;
use super::{CHUNK, Cpu, rows_of};
use crate::device::host::View;
use crate::device::ops::{IDENTITY, Item, Multilevel};
use crate::error::Result;
use std::collections::HashMap;
use std::ops::Range;

/// The maps of an operation: its `index` and `weight` operands.
#[derive(Clone, Copy)]
struct Maps<'a> {
    index: &'a [u32],
    weight: &'a [f32],
}

impl Maps<'_> {
    /// Returns the entries of unit `i` of the map that starts at `start`.
    fn group(&self, start: u32, i: usize) -> Range<usize> {
        let at = start as usize + i;
        self.index[at] as usize..self.index[at + 1] as usize
    }
}

/// A run of adjacent destination units whose sources are adjacent as well: unit `units.start + i` is the weighted sum
/// of the source units `sources[m] + i` over all members `m`.
struct Run {
    units: Range<usize>,
    /// Range in [`Columns::sources`]: the first source unit of each member.
    sources: Range<usize>,
    /// Range in [`Columns::weights`]: the weights of the first member for all units, then those of the second member,
    /// and so on.
    weights: Range<usize>,
}

/// A column map as runs, so that rows can be summed with vector instructions. Heads are mapped as a whole, so the 64
/// units of a head, or of several heads in order, form a run.
#[derive(Default)]
struct Columns {
    runs: Vec<Run>,
    sources: Vec<usize>,
    weights: Vec<f32>,
}

impl Columns {
    /// Splits the column map that starts at `start`, for `cols` destination units, into runs.
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

    /// Adds `factor` times the mapped row to `acc`. Members are summed one after another in `sum`, so that the row is
    /// read from left to right as far as the map allows, which lets the hardware prefetcher work.
    #[inline(always)]
    fn add_row(&self, acc: &mut [f32], row: &[f32], factor: f32, sum: &mut Sum) {
        for run in &self.runs {
            let (n, weights) = (run.units.len(), &self.weights[run.weights.clone()]);
            for (block, acc) in acc[run.units.clone()].chunks_mut(BLOCK).enumerate() {
                let at = block * BLOCK;
                let member = |number: usize, source: usize| {
                    (&row[source + at..][..acc.len()], &weights[number * n + at..][..acc.len()])
                };
                match self.sources[run.sources.clone()] {
                    [] => {}
                    [only] => {
                        let (x, w) = member(0, only);
                        for ((acc, x), w) in acc.iter_mut().zip(x).zip(w) {
                            *acc += factor * (w * x);
                        }
                    }
                    [first, ref others @ .., last] => {
                        let sum = &mut sum.0[..acc.len()];
                        let (x, w) = member(0, first);
                        for ((sum, x), w) in sum.iter_mut().zip(x).zip(w) {
                            *sum = w * x;
                        }
                        for (number, source) in others.iter().enumerate() {
                            let (x, w) = member(1 + number, *source);
                            for ((sum, x), w) in sum.iter_mut().zip(x).zip(w) {
                                *sum += w * x;
                            }
                        }
                        let (x, w) = member(1 + others.len(), last);
                        for (((acc, sum), x), w) in acc.iter_mut().zip(sum).zip(x).zip(w) {
                            *acc += factor * (*sum + w * x);
                        }
                    }
                }
            }
        }
    }
}

/// Number of units that are summed at a time, so that they stay in L1.
const BLOCK: usize = 1024;

/// Buffer for sums, aligned to the widest vectors.
#[repr(align(64))]
struct Sum([f32; BLOCK]);

/// What the mapped parameters are interpolated with.
enum Base<'a> {
    /// Nothing.
    None,
    /// The previous contents of the destination.
    InPlace,
    /// Other memory.
    Separate(View<'a, f32>),
}

/// An operation, shared by all chunks.
struct Mapping<'a> {
    maps: Maps<'a>,
    src: &'a [f32],
    dst: View<'a, f32>,
    base: Base<'a>,
    alpha: f32,
}

impl Mapping<'_> {
    /// Computes row `i` of a parameter.
    ///
    /// # Safety
    /// Nothing else may read or write this row of the destination at the same time.
    #[inline(always)]
    unsafe fn row(&self, item: &Item, columns: Option<&Columns>, i: usize, sum: &mut Sum) {
        // SAFETY: guaranteed by the caller.
        let out = unsafe { self.dst.span_mut(0, span(item, i)) };
        self.begin(span(item, i), item.fill, out);
        let maps = self.maps;
        for l in item.layer_start as usize..(item.layer_start + item.layers) as usize {
            let (from, factor) = (maps.index[l] as usize, self.alpha * maps.weight[l]);
            match item.row_map {
                IDENTITY => self.add((item, columns), from + i * item.src_pitch as usize, factor, out, sum),
                map => {
                    for e in maps.group(map, i) {
                        let from = from + maps.index[e] as usize * item.src_pitch as usize;
                        self.add((item, columns), from, factor * maps.weight[e], out, sum);
                    }
                }
            }
        }
    }

    /// Adds `factor` times the source row at `from` to `out`. This is not a closure, because that would be compiled as
    /// a separate function, without the SIMD instructions selected at run time.
    #[inline(always)]
    fn add(
        &self,
        (item, columns): (&Item, Option<&Columns>),
        from: usize,
        factor: f32,
        out: &mut [f32],
        sum: &mut Sum,
    ) {
        let row = &self.src[from..from + item.src_cols as usize];
        // The next destination row mostly reads the following source row, after the rows of other groups and layers:
        // prefetch it.
        let behind = from + item.src_pitch as usize;
        fetch(self.src.get(behind..behind + row.len()).unwrap_or(&[]));
        match columns {
            Some(columns) => columns.add_row(out, row, factor, sum),
            None => out.iter_mut().zip(row).for_each(|(o, x)| *o += factor * x),
        }
    }

    /// Initialises a destination row with `(1 - alpha) base + alpha fill`.
    #[inline(always)]
    fn begin(&self, span: Range<usize>, fill: f32, out: &mut [f32]) {
        let alpha = self.alpha;
        match &self.base {
            Base::None => out.fill(fill),
            Base::InPlace => out.iter_mut().for_each(|o| *o = (1.0 - alpha).mul_add(*o, alpha * fill)),
            Base::Separate(base) => {
                // SAFETY: the base is only read.
                let base = unsafe { base.span(0, span) };
                out.iter_mut().zip(base).for_each(|(o, b)| *o = (1.0 - alpha).mul_add(*b, alpha * fill));
            }
        }
    }
}

/// Prefetches a row into L2. The hardware prefetcher stops at page boundaries, and a row is one to three pages long.
#[inline(always)]
fn fetch(row: &[f32]) {
    row.chunks(16).for_each(|line| prefetch_far(line.as_ptr()));
}

/// Returns the range of row `i` of a parameter in the destination.
#[inline(always)]
fn span(item: &Item, i: usize) -> Range<usize> {
    let start = item.dst_offset as usize + i * item.dst_pitch as usize;
    start..start + item.cols as usize
}

impl Cpu {
    pub(super) fn multilevel(&self, op: &Multilevel) -> Result<()> {
        let (src, dst) = (self.slice::<f32>(&op.src)?, self.f(&op.dst)?);
        let maps = Maps { index: self.slice(&op.index)?, weight: self.slice(&op.weight)? };
        let items: &[Item] = bytemuck::cast_slice(self.slice::<u32>(&op.items)?);
        Item::check_all(items, maps.index, src.len(), dst.width())?;
        let base = match self.maybe(&op.base)? {
            None => Base::None,
            Some(base) if base.pointer() == dst.pointer() => Base::InPlace,
            Some(base) => Base::Separate(base),
        };
        let mapping = Mapping { maps, src, dst, base, alpha: op.alpha as f32 };
        let mut columns: HashMap<(u32, u32), Columns> = HashMap::new();
        for item in items.iter().filter(|item| item.col_map != IDENTITY) {
            let key = (item.col_map, item.cols);
            columns.entry(key).or_insert_with(|| Columns::new(maps, item.col_map, item.cols as usize));
        }
        // A single job for all parameters, because most are vectors, too short for a job of their own.
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
                let mut sum = Sum([0.0; BLOCK]);
                for (item, rows) in &chunks[range] {
                    let columns = columns.get(&(item.col_map, item.cols));
                    for i in rows.clone() {
                        // SAFETY: parameters and their rows do not overlap (`check_all`), and only this chunk accesses
                        // row i.
                        unsafe { mapping.row(item, columns, i, &mut sum) };
                    }
                }
            },
        );
        Ok(())
    }
}
