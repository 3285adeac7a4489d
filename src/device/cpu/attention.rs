//! Attention in rows of tiles. The scores of 12 queries with all visible keys stay in L1, so that the softmax is exact
//! without rescaling; only its log-sum-exp is saved. A chunk is one head of one sequence, whose keys and values are
//! packed once. Scores that a causal mask hides are computed only where a tile also contains visible ones.

use super::dropout::for_mask;
use super::gemm::{COLUMNS, DEPTH, Matrix, PITCH, ROWS, VECTORS, pack, tile};
use super::{Cpu, View, math};
use crate::device::ops::{Attention, StepState};
use crate::error::Result;
use crate::tensor::Tensor;
use pulp::{Simd, WithSimd};

/// Keys in a run: a multiple of both the rows and the columns of a tile, and at most the length of a packed row.
const RUN: usize = 480;
const _: () = assert!(RUN.is_multiple_of(ROWS) && RUN.is_multiple_of(COLUMNS) && RUN <= DEPTH);

/// Rows of scores in scratch memory, in the layout that tiles read: runs of [`RUN`] keys follow each other, and within
/// a run rows are [`PITCH`] elements apart.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    start: *mut f32,
    rows: usize,
}

impl Scores {
    /// Returns the number of floats that `rows` rows of `keys` keys take.
    pub fn floats(rows: usize, keys: usize) -> usize {
        keys.div_ceil(RUN) * rows * PITCH
    }

    /// Allocates the scores from the front of `work`.
    pub fn take(work: &mut &mut [f32], rows: usize, keys: usize) -> Self {
        Scores { start: take(work, Self::floats(rows, keys)).as_mut_ptr(), rows }
    }

    /// Returns the address of the score of key `j` in row `r`.
    #[inline(always)]
    fn at(self, r: usize, j: usize) -> *mut f32 {
        self.start.wrapping_add(j / RUN * self.rows * PITCH + r * PITCH + j % RUN)
    }

    /// Returns the scores of the first `keys` keys of row `r`, run by run.
    ///
    /// # Safety
    /// They must exist, and no other slice of them may be alive.
    #[inline(always)]
    pub unsafe fn row<'a>(self, r: usize, keys: usize) -> impl Iterator<Item = &'a mut [f32]> {
        (0..keys).step_by(RUN).map(move |j| {
            // SAFETY: guaranteed by the caller.
            unsafe { std::slice::from_raw_parts_mut(self.at(r, j), RUN.min(keys - j)) }
        })
    }

    /// Sets the scores of row `r` to zero, from key `from` to the end of the tile that contains key `keys - 1`.
    ///
    /// # Safety
    /// As for [`Scores::row`].
    #[inline(always)]
    pub unsafe fn clear(self, r: usize, from: usize, keys: usize) {
        let mut j = from;
        let end = keys.next_multiple_of(ROWS);
        while j < end {
            let stop = ((j / RUN + 1) * RUN).min(end);
            // SAFETY: guaranteed by the caller; runs consist of whole tiles.
            unsafe { std::slice::from_raw_parts_mut(self.at(r, j), stop - j) }.fill(0.0);
            j = stop;
        }
    }

    /// Multiplies the score of key `j` in row `r` by `factor`.
    ///
    /// # Safety
    /// As for [`Scores::row`].
    #[inline(always)]
    pub unsafe fn scale(self, r: usize, j: usize, factor: f32) {
        // SAFETY: guaranteed by the caller.
        unsafe { *self.at(r, j) *= factor };
    }

    /// Sets `MR` rows from row `r` on to `scale a b`. `a` was packed by [`rows`]; `b` consists of panels of `d` rows
    /// and at least `keys` columns.
    ///
    /// # Safety
    /// All of these rows and columns must exist.
    #[inline(always)]
    pub unsafe fn product<S: Simd, const MR: usize>(
        self,
        simd: S,
        r: usize,
        (d, keys): (usize, usize),
        (a, b): (&[f32], &[f32]),
        scale: f32,
    ) {
        let nr = VECTORS * S::F32_LANES;
        for j in (0..keys).step_by(nr) {
            for k in (0..d).step_by(DEPTH) {
                // SAFETY: guaranteed by the caller; a run consists of whole tiles, so a whole tile may be written.
                unsafe {
                    let (a, b) = (a.as_ptr().add(k / DEPTH * MR * PITCH), b.as_ptr().add(j * d + k * nr));
                    let c = Matrix::rows(self.at(r, j), PITCH);
                    tile::<S, MR, false>(simd, DEPTH.min(d - k), (a, 1), b, c, (MR, nr), (k > 0, scale));
                }
            }
        }
    }

    /// Computes `c = scale P b`, where `P` are `height` rows from row `r` on. `b` consists of panels of `all` keys, of
    /// which the first `keys` are used, and has `d` columns.
    ///
    /// # Safety
    /// All of these rows and columns must exist.
    #[inline(always)]
    pub unsafe fn times<S: Simd, const MR: usize>(
        self,
        simd: S,
        (r, height): (usize, usize),
        (keys, all, d): (usize, usize, usize),
        b: &[f32],
        (c, scale): (Matrix, f32),
    ) {
        let nr = VECTORS * S::F32_LANES;
        for p in (0..d).step_by(nr) {
            for j in (0..keys).step_by(RUN) {
                // SAFETY: guaranteed by the caller.
                unsafe {
                    let b = b.as_ptr().add(p * all + j * nr);
                    let size = (height, nr.min(d - p));
                    tile::<S, MR, false>(
                        simd,
                        RUN.min(keys - j),
                        (self.at(r, j), 1),
                        b,
                        c.at(0, p),
                        size,
                        (j > 0, scale),
                    );
                }
            }
        }
    }

    /// Computes `c = [c +] scale P^T b` for `height` keys from key `j` on, which must be a multiple of the rows of a
    /// tile. The sum is over the rows `from..to`. `b` consists of panels of `all` rows and has `d` columns.
    ///
    /// # Safety
    /// All of these rows and columns must exist.
    #[inline(always)]
    pub unsafe fn transposed_times<S: Simd, const MR: usize>(
        self,
        simd: S,
        (j, height): (usize, usize),
        (from, to, all, d): (usize, usize, usize, usize),
        b: &[f32],
        (c, add, scale): (Matrix, bool, f32),
    ) {
        let nr = VECTORS * S::F32_LANES;
        for p in (0..d).step_by(nr) {
            // SAFETY: guaranteed by the caller; a run consists of whole tiles.
            unsafe {
                let b = b.as_ptr().add(p * all + from * nr);
                let size = (height, nr.min(d - p));
                tile::<S, MR, true>(simd, to - from, (self.at(from, j), PITCH), b, c.at(0, p), size, (add, scale));
            }
        }
    }
}

/// Takes `n` floats from the front of `work`, rounded up so that the rest stays aligned to 64 bytes.
pub(super) fn take<'a>(work: &mut &'a mut [f32], n: usize) -> &'a mut [f32] {
    let (taken, rest) = std::mem::take(work).split_at_mut(n.next_multiple_of(16));
    *work = rest;
    taken
}

/// Returns the number of floats in the panels of `rows` rows of `width` columns.
pub(super) fn panels(rows: usize, width: usize) -> usize {
    rows * width.next_multiple_of(COLUMNS)
}

/// Returns the number of floats in the packed rows of a tile, each of `d` elements.
pub(super) fn rows_floats(d: usize) -> usize {
    d.div_ceil(DEPTH) * ROWS * PITCH
}

/// Packs `height` rows of `d` elements for [`Scores::product`], in runs of [`DEPTH`].
///
/// # Safety
/// The rows must exist.
#[inline(always)]
pub(super) unsafe fn rows<const MR: usize>(a: Matrix, height: usize, d: usize, to: &mut [f32]) {
    for (to, k) in to.chunks_exact_mut(MR * PITCH).zip((0..d).step_by(DEPTH)) {
        // SAFETY: guaranteed by the caller.
        unsafe { pack::along::<MR>(a.at(0, k), height, DEPTH.min(d - k), to) };
    }
}

/// Operands of the forward pass, which the backward pass uses as well.
pub(super) struct Heads<'a> {
    pub op: &'a Attention,
    /// Queries as rows `[B Tq, H D]`.
    pub q: View<'a, f32>,
    /// Keys as rows `[B Tk, H D]`.
    pub k: View<'a, f32>,
    /// Values as rows `[B Tk, H D]`.
    pub v: View<'a, f32>,
    mask: Option<View<'a, i32>>,
    state: StepState,
}

impl<'a> Heads<'a> {
    /// Creates views of the operands.
    pub fn new(cpu: &'a Cpu, op: &'a Attention) -> Result<Self> {
        let mask = op.key_mask.as_ref().map(|m| cpu.host.view(m)).transpose()?;
        let state = op.dropout.map_or(Ok(StepState::default()), |m| cpu.step_state(&m.state))?;
        Ok(Heads { op, q: cpu.heads(&op.q)?, k: cpu.heads(&op.k)?, v: cpu.heads(&op.v)?, mask, state })
    }

    /// Returns the rows of one head of sequence `b` from position `t` on. `time` is the length of a sequence, `column`
    /// the first column of the head.
    ///
    /// # Safety
    /// `t` must be a position in the sequence.
    pub unsafe fn head(view: &View<'_, f32>, time: usize, b: usize, t: usize, column: usize) -> Matrix {
        // SAFETY: the row and the column lie in the view.
        unsafe { Matrix::rows(view.pointer(), view.pitch()).at(b * time + t, column) }
    }

    /// Prefetches rows of a head into L2, from query `from` on. `view` must have the shape of Q.
    #[inline(always)]
    pub fn fetch(&self, view: &View<'_, f32>, (b, h): (usize, usize), from: usize, rows: usize) {
        let (_, tq, _, _, d) = self.op.sizes();
        let rows = rows.min(tq - from);
        if rows > 0 {
            // SAFETY: row `from` exists.
            pack::fetch_rows(unsafe { Self::head(view, tq, b, from, h * d) }, rows, d);
        }
    }

    /// Sets the scores of keys that the key mask hides to -infinity, in row `r` for query `i` of sequence `b`. Returns
    /// the number of leading keys that the query may see.
    ///
    /// # Safety
    /// As for [`Scores::row`].
    #[inline(always)]
    pub unsafe fn hide(&self, b: usize, i: usize, scores: Scores, r: usize) -> usize {
        let visible = self.op.visible(i);
        if let Some(mask) = &self.mask {
            for j in (0..visible).filter(|&j| mask.get(b, j) == 0) {
                // SAFETY: guaranteed by the caller.
                unsafe { *scores.at(r, j) = f32::NEG_INFINITY };
            }
        }
        visible
    }

    /// Calls `each(j, factor)` with the dropout factor of each of the first `n` probabilities of query `i`. Without
    /// dropout, does nothing.
    #[inline(always)]
    pub fn for_dropout(&self, (b, h): (usize, usize), i: usize, n: usize, each: impl FnMut(usize, f32)) {
        if let Some(mask) = &self.op.dropout {
            let (_, tq, tk, heads, _) = self.op.sizes();
            for_mask(&self.state, mask, (((b * heads + h) * tq + i) * tk) as u64, n, each);
        }
    }
}

impl Cpu {
    /// Returns a view of `[B, T, H, D]` as rows `[B T, H D]`.
    pub(super) fn heads(&self, t: &Tensor) -> Result<View<'_, f32>> {
        let dims = t.dims();
        self.f(&if t.is_contiguous() { t.reshape(&[dims[0] * dims[1], dims[2] * dims[3]]) } else { *t })
    }

    pub(super) fn attention(&self, op: &Attention) -> Result<()> {
        let (batch, tq, tk, heads, d) = op.sizes();
        let (all, out) = (Heads::new(self, op)?, self.heads(&op.out)?);
        let lse = self.f(&op.lse.reshape(&[1, batch * heads * tq]))?;
        let floats = panels(d, tk) + panels(tk, d) + rows_floats(d) + Scores::floats(ROWS, tk) + 5 * 16;
        self.scratch.reserve(self.threads(), floats + 16);
        self.pool.run(batch * heads, |pair| {
            let mut scratch = self.scratch.take();
            let head = (pair / heads, pair % heads);
            self.arch.dispatch(Forward { all: &all, out, lse, head, work: scratch.aligned(floats) });
        });
        Ok(())
    }
}

/// The forward pass of one head of one sequence.
struct Forward<'a> {
    all: &'a Heads<'a>,
    out: View<'a, f32>,
    lse: View<'a, f32>,
    head: (usize, usize),
    work: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // SAFETY: only this chunk writes this head of this sequence.
        unsafe { if S::REGISTER_COUNT >= 32 { self.run::<S, ROWS>(simd) } else { self.run::<S, 6>(simd) } }
    }
}

impl Forward<'_> {
    /// Computes the head in tiles of `MR` queries.
    ///
    /// # Safety
    /// Nothing else may access this head's part of the outputs at the same time.
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self, simd: S) {
        let Forward { all, out, lse, head: (b, h), mut work } = self;
        let (_, tq, tk, heads, d) = all.op.sizes();
        let (kt, v) = (take(&mut work, panels(d, tk)), take(&mut work, panels(tk, d)));
        let (q, scores) = (take(&mut work, rows_floats(d)), Scores::take(&mut work, ROWS, tk));
        // SAFETY: guaranteed by the caller; the panels fit.
        unsafe {
            pack::strip::<S>(Heads::head(&all.k, tk, b, 0, h * d).transposed(), d, tk, kt);
            pack::strip::<S>(Heads::head(&all.v, tk, b, 0, h * d), tk, d, v);
        }
        for i in (0..tq).step_by(MR) {
            let n = MR.min(tq - i);
            let keys = all.op.visible(i + n - 1);
            let mut scales = [0.0; MR];
            // SAFETY: guaranteed by the caller; these queries exist.
            unsafe {
                rows::<MR>(Heads::head(&all.q, tq, b, i, h * d), n, d, q);
                all.fetch(&all.q, (b, h), i + n, MR);
                scores.product::<S, MR>(simd, 0, (d, keys), (q, kt), all.op.scale as f32);
                for (r, scale) in scales.iter_mut().enumerate().take(n) {
                    let visible = all.hide(b, i + r, scores, r);
                    scores.clear(r, visible, keys);
                    let log;
                    (log, *scale) = softmax(scores, r, visible);
                    lse.set(0, (b * heads + h) * tq + i + r, log);
                    all.for_dropout((b, h), i + r, visible, |j, factor| scores.scale(r, j, factor));
                }
                let o = Heads::head(&out, tq, b, i, h * d);
                scores.times::<S, MR>(simd, (0, n), (keys, tk, d), v, (o, 1.0));
                for (r, scale) in scales.iter().enumerate().take(n) {
                    out.span_mut(b * tq + i + r, h * d..(h + 1) * d).iter_mut().for_each(|o| *o *= scale);
                }
            }
        }
    }
}

/// Replaces the first `visible` scores of a row by `exp(score - largest score)`. Returns the log-sum-exp, and the
/// factor that turns the values into probabilities. The caller applies the factor after the product with V, where there
/// are fewer elements to multiply.
///
/// # Safety
/// As for [`Scores::row`].
#[inline(always)]
unsafe fn softmax(scores: Scores, r: usize, visible: usize) -> (f32, f32) {
    // SAFETY: guaranteed by the caller; each slice is dropped before the next is created.
    let row = || unsafe { scores.row(r, visible) };
    let mut largest = f32::NEG_INFINITY;
    for part in row() {
        largest = largest.max(math::max(part));
    }
    if largest == f32::NEG_INFINITY {
        row().for_each(|part| part.fill(0.0));
        return (f32::NEG_INFINITY, 0.0);
    }
    let mut total = 0.0;
    for part in row() {
        total += math::map_sum(
            part,
            #[inline(always)]
            |s| weight(s, largest),
        );
    }
    (largest + total.ln(), 1.0 / total)
}

/// Returns `exp(score - reference)`, and exactly zero for a hidden key.
#[inline(always)]
pub(super) fn weight(score: f32, reference: f32) -> f32 {
    let p = math::exp(score - reference);
    if score == f32::NEG_INFINITY { 0.0 } else { p }
}
