//! Matrix products: `c = [c +] scale a b`.
//!
//! A block of the output is computed in strips of columns. A strip of `b`, [`DEPTH`] rows of it at a time, is packed into panels
//! as wide as a tile and stays in the second-level cache; then the rows of `a` pass by, as many as a tile has at a time,
//! packed into the first-level cache, and meet every panel (Goto and van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication", 2008, with the loops over rows and panels exchanged). A tile of 12 rows and two vectors (6 rows where there
//! are 16 registers) is kept in registers over the whole depth: 24 multiply-adds for 14 loads.
//!
//! Every element is the sum over k in order, in runs of [`DEPTH`]: the same bits for any cut of the output into blocks and any
//! number of threads; and, by fused multiply-adds, for any vector width (a machine without them multiplies and adds).

pub mod pack;

use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// A matrix: first element, distance between rows, distance between columns. One of the two distances is 1.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub start: *mut f32,
    pub row: usize,
    pub column: usize,
}

// SAFETY: a pointer into an arena that outlives the operation; who writes what is settled by chunks.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// Rows that lie one after another, `pitch` elements apart.
    pub fn rows(start: *mut f32, pitch: usize) -> Self {
        Matrix { start, row: pitch, column: 1 }
    }

    /// Rows become columns.
    #[must_use]
    pub fn transposed(self) -> Self {
        Matrix { start: self.start, row: self.column, column: self.row }
    }

    /// The same from row `r`, column `c` on.
    ///
    /// # Safety
    /// The element lies in the matrix.
    #[inline(always)]
    #[must_use]
    pub unsafe fn at(self, r: usize, c: usize) -> Self {
        // SAFETY: the caller's promise.
        Matrix { start: unsafe { self.start.add(r * self.row + c * self.column) }, ..self }
    }

    /// The same so many elements further.
    ///
    /// # Safety
    /// Another matrix of these sizes lies there.
    #[inline(always)]
    #[must_use]
    pub unsafe fn after(self, elements: usize) -> Self {
        // SAFETY: the caller's promise.
        Matrix { start: unsafe { self.start.add(elements) }, ..self }
    }
}

/// Longest run of k between two additions to the output: a packed piece of `a` takes 24 KiB of the first-level cache.
pub const DEPTH: usize = 512;
/// From row to row of a packed piece of `a`: a power of two would put all rows into the same few lines of the cache.
pub const PITCH: usize = DEPTH + 16;
/// Most columns of a strip: 768 KiB of packed `b`, three quarters of the second-level cache of most servers.
pub const STRIP: usize = 384;
/// Vectors of a row of a tile.
pub const VECTORS: usize = 2;
/// Rows of a tile where there are 32 vector registers, the most.
pub const ROWS: usize = 12;
/// Columns of the widest tile: two vectors of 16.
pub const COLUMNS: usize = 32;
/// Floats of working memory for one thread: packed pieces of `b` and `a`, and what aligns them.
pub const SCRATCH: usize = DEPTH * STRIP + PITCH * ROWS + 16;

/// What follows a product. A trait and not a closure: it must be compiled into the loops, with their vector instructions.
pub trait Finish {
    /// These rows and columns of the output are about to be computed; where the product adds, this is what it adds to.
    ///
    /// # Safety
    /// Nobody else touches this part of the output, and of what goes with it, meanwhile.
    unsafe fn begin(&self, rows: Range<usize>, columns: Range<usize>);

    /// These rows and columns of the output are complete, and still in the first-level cache.
    ///
    /// # Safety
    /// As [`Finish::begin`].
    unsafe fn finish(&self, rows: Range<usize>, columns: Range<usize>);
}

/// `c = [c +] scale a b` for some rows and columns of the output.
pub struct Product<F> {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// The inner size.
    pub k: usize,
    pub a: Matrix,
    pub b: Matrix,
    /// Its columns lie side by side.
    pub c: Matrix,
    pub add: bool,
    pub scale: f32,
    pub finish: F,
}

impl<F: Finish> Product<F> {
    /// Runs on the caller's thread.
    ///
    /// # Safety
    /// The rows and columns lie in the three matrices, those in valid memory, and nobody else touches this part of `c` meanwhile.
    ///
    /// # Panics
    /// `scratch` is shorter than [`SCRATCH`].
    pub unsafe fn run(&self, arch: Arch, scratch: &mut [f32]) {
        let skip = scratch.as_ptr().align_offset(64);
        let (strip, piece) = scratch[skip..skip + SCRATCH - 16].split_at_mut(DEPTH * STRIP);
        arch.dispatch(Run { product: self, strip, piece });
    }

    /// # Safety
    /// As [`Product::run`].
    #[inline(always)]
    unsafe fn tiles<S: Simd, const MR: usize>(&self, simd: S, strip: &mut [f32], piece: &mut [f32]) {
        let nr = VECTORS * S::F32_LANES;
        // Runs and strips of about one length, so that none is left with a small rest.
        let depth = even(self.k, DEPTH, 1);
        let wide = even(self.columns.len(), STRIP, nr);
        for j in self.columns.clone().step_by(wide) {
            let columns = j..(j + wide).min(self.columns.end);
            for k in (0..self.k).step_by(depth) {
                let run = k..(k + depth).min(self.k);
                // SAFETY: the caller's promise; a strip of `run.len()` rows and at most STRIP columns fits.
                unsafe {
                    pack::strip::<S>(self.b.at(k, j), run.len(), columns.len(), strip);
                    self.pass::<S, MR>(simd, &columns, run, strip, piece);
                }
            }
            if self.k == 0 {
                // SAFETY: the caller's promise.
                unsafe { self.nothing(&columns) };
            }
        }
    }

    /// All rows of `a` against one packed piece of `b`.
    ///
    /// # Safety
    /// As [`Product::run`].
    #[inline(always)]
    unsafe fn pass<S: Simd, const MR: usize>(
        &self,
        simd: S,
        columns: &Range<usize>,
        run: Range<usize>,
        strip: &[f32],
        piece: &mut [f32],
    ) {
        let nr = VECTORS * S::F32_LANES;
        let (width, depth) = (columns.len(), run.len());
        let across = self.a.row == 1;
        let target = (self.add || run.start > 0, self.scale);
        // Of the next rows of `a`, fetched while this one's tiles are computed.
        let share = (depth * nr).div_ceil(width).next_multiple_of(16);
        for i in self.rows.clone().step_by(MR) {
            let height = MR.min(self.rows.end - i);
            if run.start == 0 {
                // SAFETY: the caller's promise.
                unsafe { self.finish.begin(i..i + height, columns.clone()) };
            }
            // SAFETY: the caller's promise; panels follow each other in `strip`.
            unsafe {
                let a = self.a.at(i, run.start);
                if across {
                    pack::across::<MR>(a, height, depth, piece);
                } else {
                    pack::along::<MR>(a, height, depth, piece);
                }
                let below = MR.min(self.rows.end - i - height);
                for (number, p) in (0..width).step_by(nr).enumerate() {
                    let ahead = number * share..((number + 1) * share).min(depth);
                    pack::fetch(a.start.wrapping_add(height * a.row), a, below, ahead);
                    let (c, size) = (self.c.at(i, columns.start + p), (height, nr.min(width - p)));
                    let panel = strip.as_ptr().add(p * depth);
                    if across {
                        tile::<S, MR, true>(simd, depth, (piece.as_ptr(), MR), panel, c, size, target);
                    } else {
                        tile::<S, MR, false>(simd, depth, (piece.as_ptr(), 1), panel, c, size, target);
                    }
                }
            }
            if run.end == self.k {
                // SAFETY: the caller's promise.
                unsafe { self.finish.finish(i..i + height, columns.clone()) };
            }
        }
    }

    /// A sum over nothing is zero.
    ///
    /// # Safety
    /// As [`Product::run`].
    unsafe fn nothing(&self, columns: &Range<usize>) {
        for i in self.rows.clone() {
            // SAFETY: the caller's promise.
            unsafe {
                self.finish.begin(i..i + 1, columns.clone());
                if !self.add {
                    std::slice::from_raw_parts_mut(self.c.at(i, columns.start).start, columns.len()).fill(0.0);
                }
                self.finish.finish(i..i + 1, columns.clone());
            }
        }
    }
}

/// A [`Product`] for the vector unit that is found at run time.
struct Run<'a, F> {
    product: &'a Product<F>,
    strip: &'a mut [f32],
    piece: &'a mut [f32],
}

impl<F: Finish> WithSimd for Run<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // SAFETY: the promise of the caller of `Product::run`, which alone makes a `Run`.
        unsafe {
            if S::REGISTER_COUNT >= 32 {
                self.product.tiles::<S, ROWS>(simd, self.strip, self.piece);
            } else {
                self.product.tiles::<S, 6>(simd, self.strip, self.piece);
            }
        }
    }
}

/// The length of parts of `n` that are about equal, at most `most` long and a multiple of `unit`, which divides `most`.
fn even(n: usize, most: usize, unit: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).next_multiple_of(unit).max(1)
}

/// `MR` rows and two vectors of the output, over `depth` k.
///
/// `a` with the distance from one k to the next. `ACROSS`: for each k the rows' elements lie side by side; else each row lies in
/// one piece, [`PITCH`] apart. `b`: a panel, aligned to vectors. `size`: rows and columns that exist. `target`: whether to add,
/// and the scale.
///
/// # Safety
/// `a` holds `MR` rows and `b` the panel; `c` has `size` elements.
#[inline(always)]
pub unsafe fn tile<S: Simd, const MR: usize, const ACROSS: bool>(
    simd: S,
    depth: usize,
    (a, step): (*const f32, usize),
    b: *const f32,
    c: Matrix,
    (height, columns): (usize, usize),
    (add, scale): (bool, f32),
) {
    let lanes = S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; MR];
    for r in 0..height {
        (0..VECTORS).for_each(|v| pack::prefetch(c.start.wrapping_add(r * c.row + v * lanes)));
    }
    for k in 0..depth {
        let mut row = [simd.splat_f32s(0.0); VECTORS];
        for (v, row) in row.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *row = unsafe { b.add((k * VECTORS + v) * lanes).cast::<S::f32s>().read() };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let x = simd.splat_f32s(unsafe { *a.add(if ACROSS { k * step + r } else { r * PITCH + k }) });
            for (sum, row) in sums.iter_mut().zip(row) {
                *sum = simd.mul_add_e_f32s(x, row, *sum);
            }
        }
    }
    let scale = simd.splat_f32s(scale);
    let finish = |sum, old: *mut f32| {
        // SAFETY: a vector lies there; it need not be aligned.
        unsafe {
            let old = old.cast::<S::f32s>();
            old.write_unaligned(if add {
                simd.mul_add_e_f32s(scale, sum, old.read_unaligned())
            } else {
                simd.mul_f32s(scale, sum)
            });
        }
    };
    if height == MR && columns == VECTORS * lanes {
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                finish(sum, c.start.wrapping_add(r * c.row + v * lanes));
            }
        }
        return;
    }
    // What lies there comes here, so that the very same instructions work on it.
    let mut whole = [0.0f32; ROWS * COLUMNS];
    // SAFETY: these elements exist.
    let row = |r: usize| unsafe { std::slice::from_raw_parts_mut(c.start.add(r * c.row), columns) };
    if add {
        (0..height).for_each(|r| whole[r * COLUMNS..r * COLUMNS + columns].copy_from_slice(row(r)));
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (v, sum) in sums.into_iter().enumerate() {
            finish(sum, whole.as_mut_ptr().wrapping_add(r * COLUMNS + v * lanes));
        }
    }
    (0..height).for_each(|r| row(r).copy_from_slice(&whole[r * COLUMNS..r * COLUMNS + columns]));
}

#[cfg(test)]
mod tests;
