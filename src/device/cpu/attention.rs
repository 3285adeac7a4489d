//! Attention in rows of tiles: the scores of 12 queries against all visible keys stay in the first-level cache, so an exact
//! softmax needs no rescaling, and only its log-sum-exp is kept. One chunk is one head of one sequence; its keys and values are
//! packed once. What a causal mask hides is computed only within a tile.

use super::dropout::for_mask;
use super::gemm::{COLUMNS, DEPTH, Matrix, PITCH, ROWS, VECTORS, pack, tile};
use super::{Cpu, View, math};
use crate::device::ops::{Attention, StepState};
use crate::error::Result;
use crate::tensor::Tensor;
use pulp::{Simd, WithSimd};

/// Keys of a run: whole tiles by rows as well as by columns, and rows of a packed piece hold it.
const RUN: usize = 480;
const _: () = assert!(RUN.is_multiple_of(ROWS) && RUN.is_multiple_of(COLUMNS) && RUN <= DEPTH);

/// Rows of scores in working memory: run after run of keys, and in a run row after row, [`PITCH`] apart, as tiles read them.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    start: *mut f32,
    rows: usize,
}

impl Scores {
    /// Floats that so many rows take.
    pub fn floats(rows: usize, keys: usize) -> usize {
        keys.div_ceil(RUN) * rows * PITCH
    }

    /// Takes its memory from the front of `work`.
    pub fn take(work: &mut &mut [f32], rows: usize, keys: usize) -> Self {
        Scores { start: take(work, Self::floats(rows, keys)).as_mut_ptr(), rows }
    }

    /// Where key `j` of row `r` lies.
    #[inline(always)]
    fn at(self, r: usize, j: usize) -> *mut f32 {
        self.start.wrapping_add(j / RUN * self.rows * PITCH + r * PITCH + j % RUN)
    }

    /// The first keys of row `r`, run by run.
    ///
    /// # Safety
    /// They exist, and no other slice of them lives.
    #[inline(always)]
    pub unsafe fn row<'a>(self, r: usize, keys: usize) -> impl Iterator<Item = &'a mut [f32]> {
        (0..keys).step_by(RUN).map(move |j| {
            // SAFETY: the caller's promise.
            unsafe { std::slice::from_raw_parts_mut(self.at(r, j), RUN.min(keys - j)) }
        })
    }

    /// Zeros from key `from` on to the end of the tile in which key `keys - 1` lies.
    ///
    /// # Safety
    /// As [`Scores::row`].
    #[inline(always)]
    pub unsafe fn clear(self, r: usize, from: usize, keys: usize) {
        let mut j = from;
        let end = keys.next_multiple_of(ROWS);
        while j < end {
            let stop = ((j / RUN + 1) * RUN).min(end);
            // SAFETY: the caller's promise; runs are whole tiles.
            unsafe { std::slice::from_raw_parts_mut(self.at(r, j), stop - j) }.fill(0.0);
            j = stop;
        }
    }

    /// Multiplies key `j` of row `r`.
    ///
    /// # Safety
    /// As [`Scores::row`].
    #[inline(always)]
    pub unsafe fn scale(self, r: usize, j: usize, factor: f32) {
        // SAFETY: the caller's promise.
        unsafe { *self.at(r, j) *= factor };
    }

    /// `MR` rows from row `r` on become `scale a b`: `a` by [`rows`], `b` the panels of `d` rows of at least `keys` columns.
    ///
    /// # Safety
    /// All of them exist.
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
                // SAFETY: the caller's promise; a run is whole tiles, so all of a tile may be written.
                unsafe {
                    let (a, b) = (a.as_ptr().add(k / DEPTH * MR * PITCH), b.as_ptr().add(j * d + k * nr));
                    let c = Matrix::rows(self.at(r, j), PITCH);
                    tile::<S, MR, false>(simd, DEPTH.min(d - k), (a, 1), b, c, (MR, nr), (k > 0, scale));
                }
            }
        }
    }

    /// `c = scale P b` of `height` rows from row `r` on; `b` the panels of `all` keys of which the first `keys` count, `d` wide.
    ///
    /// # Safety
    /// All of them exist.
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
                // SAFETY: the caller's promise.
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

    /// `c = [c +] scale P^T b` of `height` keys from key `j` on, a multiple of the rows of a tile; the sum goes over the rows
    /// `from..to`; `b` the panels of `all` rows, `d` wide.
    ///
    /// # Safety
    /// All of them exist.
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
            // SAFETY: the caller's promise; a run is whole tiles.
            unsafe {
                let b = b.as_ptr().add(p * all + from * nr);
                let size = (height, nr.min(d - p));
                tile::<S, MR, true>(simd, to - from, (self.at(from, j), PITCH), b, c.at(0, p), size, (add, scale));
            }
        }
    }
}

/// `n` floats from the front of `work`, and as many more as keep the rest aligned to 64 bytes.
pub(super) fn take<'a>(work: &mut &'a mut [f32], n: usize) -> &'a mut [f32] {
    let (taken, rest) = std::mem::take(work).split_at_mut(n.next_multiple_of(16));
    *work = rest;
    taken
}

/// Floats of the panels of `rows` rows of `width` columns.
pub(super) fn panels(rows: usize, width: usize) -> usize {
    rows * width.next_multiple_of(COLUMNS)
}

/// Floats of the packed rows of a tile, `d` long.
pub(super) fn rows_floats(d: usize) -> usize {
    d.div_ceil(DEPTH) * ROWS * PITCH
}

/// Packs `height` rows of `d` elements for [`Scores::product`], in runs of [`DEPTH`].
///
/// # Safety
/// They exist.
#[inline(always)]
pub(super) unsafe fn rows<const MR: usize>(a: Matrix, height: usize, d: usize, to: &mut [f32]) {
    for (to, k) in to.chunks_exact_mut(MR * PITCH).zip((0..d).step_by(DEPTH)) {
        // SAFETY: the caller's promise.
        unsafe { pack::along::<MR>(a.at(0, k), height, DEPTH.min(d - k), to) };
    }
}

/// What forward and backward share: the operands, and the scores of a block.
pub(super) struct Heads<'a> {
    pub op: &'a Attention,
    pub q: View<'a, f32>,
    pub k: View<'a, f32>,
    pub v: View<'a, f32>,
    mask: Option<View<'a, i32>>,
    state: StepState,
}

impl<'a> Heads<'a> {
    pub fn new(cpu: &'a Cpu, op: &'a Attention) -> Result<Self> {
        let mask = op.key_mask.as_ref().map(|m| cpu.host.view(m)).transpose()?;
        let state = op.dropout.map_or(Ok(StepState::default()), |m| cpu.step_state(&m.state))?;
        Ok(Heads { op, q: cpu.heads(&op.q)?, k: cpu.heads(&op.k)?, v: cpu.heads(&op.v)?, mask, state })
    }

    /// Rows of head `h` of sequence `b` from time `t` on.
    ///
    /// # Safety
    /// `t` is a time of the sequence.
    pub unsafe fn head(view: &View<'_, f32>, time: usize, b: usize, t: usize, column: usize) -> Matrix {
        // SAFETY: the row and the column lie in the view.
        unsafe { Matrix::rows(view.pointer(), view.pitch()).at(b * time + t, column) }
    }

    /// Loads the next rows of a head early, of Q or what has its shape.
    #[inline(always)]
    pub fn fetch(&self, view: &View<'_, f32>, (b, h): (usize, usize), from: usize, rows: usize) {
        let (_, tq, _, _, d) = self.op.sizes();
        let rows = rows.min(tq - from);
        if rows > 0 {
            // SAFETY: row `from` exists.
            pack::fetch_rows(unsafe { Self::head(view, tq, b, from, h * d) }, rows, d);
        }
    }

    /// Hides keys of one row of scores by -infinity; returns how many leading keys the row may see.
    ///
    /// # Safety
    /// As [`Scores::row`].
    #[inline(always)]
    pub unsafe fn hide(&self, b: usize, i: usize, scores: Scores, r: usize) -> usize {
        let visible = self.op.visible(i);
        if let Some(mask) = &self.mask {
            for j in (0..visible).filter(|&j| mask.get(b, j) == 0) {
                // SAFETY: the caller's promise.
                unsafe { *scores.at(r, j) = f32::NEG_INFINITY };
            }
        }
        visible
    }

    /// Calls `each(j, factor)` for dropout's factor of the first `n` probabilities of query `i`.
    #[inline(always)]
    pub fn for_dropout(&self, (b, h): (usize, usize), i: usize, n: usize, each: impl FnMut(usize, f32)) {
        if let Some(mask) = &self.op.dropout {
            let (_, tq, tk, heads, _) = self.op.sizes();
            for_mask(&self.state, mask, (((b * heads + h) * tq + i) * tk) as u64, n, each);
        }
    }
}

impl Cpu {
    /// `[B, T, H, D]` as rows `[B T, H D]`.
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

/// One head of one sequence.
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
        // SAFETY: this chunk alone writes this head of this sequence.
        unsafe { if S::REGISTER_COUNT >= 32 { self.run::<S, ROWS>(simd) } else { self.run::<S, 6>(simd) } }
    }
}

impl Forward<'_> {
    /// # Safety
    /// Nobody else writes this head of this sequence.
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self, simd: S) {
        let Forward { all, out, lse, head: (b, h), mut work } = self;
        let (_, tq, tk, heads, d) = all.op.sizes();
        let (kt, v) = (take(&mut work, panels(d, tk)), take(&mut work, panels(tk, d)));
        let (q, scores) = (take(&mut work, rows_floats(d)), Scores::take(&mut work, ROWS, tk));
        // SAFETY: the caller's promise; the panels fit.
        unsafe {
            pack::strip::<S>(Heads::head(&all.k, tk, b, 0, h * d).transposed(), d, tk, kt);
            pack::strip::<S>(Heads::head(&all.v, tk, b, 0, h * d), tk, d, v);
        }
        for i in (0..tq).step_by(MR) {
            let n = MR.min(tq - i);
            let keys = all.op.visible(i + n - 1);
            let mut scales = [0.0; MR];
            // SAFETY: the caller's promise; these queries exist.
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

/// Exponentials of the first `visible` scores of a row, less the largest; returns the log-sum-exp, and what they are to be
/// multiplied by: after the product with V, where there is less to multiply.
///
/// # Safety
/// As [`Scores::row`].
#[inline(always)]
unsafe fn softmax(scores: Scores, r: usize, visible: usize) -> (f32, f32) {
    // SAFETY: the caller's promise; each slice ends before the next begins.
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

/// exp(score - reference), exactly zero for a hidden key.
#[inline(always)]
pub(super) fn weight(score: f32, reference: f32) -> f32 {
    let p = math::exp(score - reference);
    if score == f32::NEG_INFINITY { 0.0 } else { p }
}
