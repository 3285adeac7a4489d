//! Matrix products (GEMM): `c = [c +] scale a b`.
//!
//! A block of the output is computed in strips of columns. A strip of `b`, [`DEPTH`] rows at a time, is packed into
//! panels of the width of a tile and stays in L2. Then the rows of `a`, as many at a time as a tile has, are packed
//! into L1 and multiplied with every panel (Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication",
//! 2008, with the loops over rows and panels exchanged). A tile of 12 rows and two vectors (6 rows on machines with 16
//! vector registers) stays in registers over the whole depth: 24 multiply-adds for 14 loads.
//!
//! Every element is summed over k in order, in runs of [`DEPTH`]. So it has the same bits for any partition of the
//! output into blocks and any number of threads, and also for any vector width as long as the machine has fused
//! multiply-adds (others multiply and add separately).

pub mod pack;

use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// A matrix in memory, row-major or column-major: one of the two strides is 1.
#[derive(Clone, Copy)]
pub struct Matrix {
    /// Address of the first element.
    pub start: *mut f32,
    /// Elements from one row to the next.
    pub row: usize,
    /// Elements from one column to the next.
    pub column: usize,
}

// SAFETY: a pointer into an arena that outlives the operation; chunks write different elements.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// Returns a row-major matrix whose rows are `pitch` elements apart.
    pub fn rows(start: *mut f32, pitch: usize) -> Self {
        Matrix { start, row: pitch, column: 1 }
    }

    /// Returns the transposed matrix, as a view of the same memory.
    #[must_use]
    pub fn transposed(self) -> Self {
        Matrix { start: self.start, row: self.column, column: self.row }
    }

    /// Returns the submatrix from row `r`, column `c` on.
    ///
    /// # Safety
    /// The element must lie in the matrix.
    #[inline(always)]
    #[must_use]
    pub unsafe fn at(self, r: usize, c: usize) -> Self {
        // SAFETY: guaranteed by the caller.
        Matrix { start: unsafe { self.start.add(r * self.row + c * self.column) }, ..self }
    }

    /// Returns the matrix with the same strides that starts `elements` elements further.
    ///
    /// # Safety
    /// Another matrix of this size must lie there.
    #[inline(always)]
    #[must_use]
    pub unsafe fn after(self, elements: usize) -> Self {
        // SAFETY: guaranteed by the caller.
        Matrix { start: unsafe { self.start.add(elements) }, ..self }
    }
}

/// Longest run of k between two additions to the output. The packed rows of `a` then take 24 KiB of L1.
pub const DEPTH: usize = 512;
/// Elements from one packed row of `a` to the next. A power of two would map all rows to the same few cache sets.
pub const PITCH: usize = DEPTH + 16;
/// Largest number of columns in a strip: 768 KiB of packed `b`, three quarters of the L2 of most servers.
pub const STRIP: usize = 384;
/// Vectors in a row of a tile.
pub const VECTORS: usize = 2;
/// Rows of a tile on machines with 32 vector registers, which is the largest tile.
pub const ROWS: usize = 12;
/// Columns of the widest tile: two vectors of 16 floats.
pub const COLUMNS: usize = 32;
/// Floats of scratch memory for one thread: the packed parts of `b` and `a`, and 16 for alignment.
pub const SCRATCH: usize = DEPTH * STRIP + PITCH * ROWS + 16;

/// The prologue and epilogue of a product. This is a trait and not a closure because it must be inlined into the loops,
/// to be compiled with their SIMD instructions.
pub trait Finish {
    /// Called before these rows and columns of the output are computed. If the product adds to the output, this
    /// function may initialise them.
    ///
    /// # Safety
    /// Nothing else may access this part of the output and of the epilogue's operands at the same time.
    unsafe fn begin(&self, rows: Range<usize>, columns: Range<usize>);

    /// Called when these rows and columns of the output are complete and still in L1.
    ///
    /// # Safety
    /// As for [`Finish::begin`].
    unsafe fn finish(&self, rows: Range<usize>, columns: Range<usize>);
}

/// `c = [c +] scale a b`, for a block of the output.
pub struct Product<F> {
    /// Rows of the block.
    pub rows: Range<usize>,
    /// Columns of the block.
    pub columns: Range<usize>,
    /// The inner dimension.
    pub k: usize,
    /// Left factor, with rows for all rows of `c`.
    pub a: Matrix,
    /// Right factor, with columns for all columns of `c`.
    pub b: Matrix,
    /// Output, row-major.
    pub c: Matrix,
    /// Whether to add to `c` instead of overwriting it.
    pub add: bool,
    /// Factor of the product.
    pub scale: f32,
    /// Prologue and epilogue.
    pub finish: F,
}

impl<F: Finish> Product<F> {
    /// Computes the block on the caller's thread.
    ///
    /// # Safety
    /// The rows and columns must lie in the three matrices and the matrices in valid memory, and nothing else may
    /// access this part of `c` at the same time.
    ///
    /// # Panics
    /// When `scratch` is shorter than [`SCRATCH`].
    pub unsafe fn run(&self, arch: Arch, scratch: &mut [f32]) {
        let skip = scratch.as_ptr().align_offset(64);
        let (strip, piece) = scratch[skip..skip + SCRATCH - 16].split_at_mut(DEPTH * STRIP);
        arch.dispatch(Run { product: self, strip, piece });
    }

    /// Computes the block with tiles of `MR` rows.
    ///
    /// # Safety
    /// As for [`Product::run`].
    #[inline(always)]
    unsafe fn tiles<S: Simd, const MR: usize>(&self, simd: S, strip: &mut [f32], piece: &mut [f32]) {
        let nr = VECTORS * S::F32_LANES;
        // Runs and strips of nearly equal lengths, so that no small remainder is left.
        let depth = even(self.k, DEPTH, 1);
        let width = even(self.columns.len(), STRIP, nr);
        for j in self.columns.clone().step_by(width) {
            let columns = j..(j + width).min(self.columns.end);
            for k in (0..self.k).step_by(depth) {
                let run = k..(k + depth).min(self.k);
                // SAFETY: guaranteed by the caller; a strip of `run.len()` rows and at most STRIP columns fits.
                unsafe {
                    pack::strip::<S>(self.b.at(k, j), run.len(), columns.len(), strip);
                    self.multiply_strip::<S, MR>(simd, &columns, run, strip, piece);
                }
            }
            if self.k == 0 {
                // SAFETY: guaranteed by the caller.
                unsafe { self.empty_sum(&columns) };
            }
        }
    }

    /// Multiplies all rows of `a` with one packed strip of `b`.
    ///
    /// # Safety
    /// As for [`Product::run`].
    #[inline(always)]
    unsafe fn multiply_strip<S: Simd, const MR: usize>(
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
        // The part of the next rows of `a` that is prefetched during each tile of the current rows.
        let share = (depth * nr).div_ceil(width).next_multiple_of(16);
        for i in self.rows.clone().step_by(MR) {
            let height = MR.min(self.rows.end - i);
            if run.start == 0 {
                // SAFETY: guaranteed by the caller.
                unsafe { self.finish.begin(i..i + height, columns.clone()) };
            }
            // SAFETY: guaranteed by the caller; panels follow each other in `strip`.
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
                // SAFETY: guaranteed by the caller.
                unsafe { self.finish.finish(i..i + height, columns.clone()) };
            }
        }
    }

    /// Computes the block for `k` = 0, where all sums are zero.
    ///
    /// # Safety
    /// As for [`Product::run`].
    unsafe fn empty_sum(&self, columns: &Range<usize>) {
        for i in self.rows.clone() {
            // SAFETY: guaranteed by the caller.
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

/// Runs a [`Product`] with the SIMD instructions selected at run time.
struct Run<'a, F> {
    product: &'a Product<F>,
    strip: &'a mut [f32],
    piece: &'a mut [f32],
}

impl<F: Finish> WithSimd for Run<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // SAFETY: guaranteed by the caller of `Product::run`, which is the only place that creates a `Run`.
        unsafe {
            if S::REGISTER_COUNT >= 32 {
                self.product.tiles::<S, ROWS>(simd, self.strip, self.piece);
            } else {
                self.product.tiles::<S, 6>(simd, self.strip, self.piece);
            }
        }
    }
}

/// Returns the length of nearly equal parts of `n`: at most `most`, and a multiple of `unit`, which must divide `most`.
fn even(n: usize, most: usize, unit: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).next_multiple_of(unit).max(1)
}

/// Computes one tile of the output, `MR` rows and two vectors, over `depth` values of k.
///
/// - `(a, step)`: the packed rows of `a`. With `ACROSS`, the elements of all rows for one k are adjacent and `step` is
///   the stride from one k to the next; otherwise each row is contiguous and rows are [`PITCH`] apart.
/// - `b`: a packed panel, aligned to vectors.
/// - `(height, columns)`: the rows and columns of the tile that exist in `c`.
/// - `(add, scale)`: whether to add to `c`, and the factor of the product.
///
/// # Safety
/// `a` must hold `MR` rows, `b` a panel, and `c` `height` rows of `columns` elements.
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
            // SAFETY: guaranteed by the caller.
            *row = unsafe { b.add((k * VECTORS + v) * lanes).cast::<S::f32s>().read() };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: guaranteed by the caller.
            let x = simd.splat_f32s(unsafe { *a.add(if ACROSS { k * step + r } else { r * PITCH + k }) });
            for (sum, row) in sums.iter_mut().zip(row) {
                *sum = simd.mul_add_e_f32s(x, row, *sum);
            }
        }
    }
    let scale = simd.splat_f32s(scale);
    let finish = |sum, old: *mut f32| {
        // SAFETY: `old` points to a whole vector, which need not be aligned.
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
    // A partial tile goes through a buffer, so that the same instructions compute it.
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
