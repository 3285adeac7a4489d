//! The gradient of attention: scores are computed again from the log-sum-exp, for blocks of queries. A row of tiles at a time
//! gives P and dS = P (dP - delta) and dQ; the sums over queries, dK = dS^T Q and dV = P^T dO, follow for the block as a whole, so
//! that each of their tiles goes over many queries.

use super::attention::{Heads, Scores, panels, rows, rows_floats, take, weight};
use super::gemm::{ROWS, pack};
use super::{Cpu, View, math};
use crate::device::ops::AttentionBackward;
use crate::error::Result;
use pulp::{Simd, WithSimd};

/// Most queries of a block: its P and dS take 400 KiB for up to 480 keys.
const MOST_QUERIES: usize = 8 * ROWS;

/// Queries of a block: P and dS of longer rows keep that size, down to one row of tiles.
fn block(keys: usize) -> usize {
    (Scores::floats(MOST_QUERIES, 1) / Scores::floats(1, keys.max(1)) / ROWS * ROWS).max(ROWS)
}

impl Cpu {
    pub(super) fn attention_backward(&self, op: &AttentionBackward) -> Result<()> {
        let f = &op.forward;
        let (batch, tq, tk, heads, d) = f.sizes();
        let all = Heads::new(self, f)?;
        let flat = |t: &crate::tensor::Tensor| self.f(&t.reshape(&[1, batch * heads * tq]));
        let views = Views {
            out: self.heads(&f.out)?,
            dout: self.heads(&op.dout)?,
            dq: self.heads(&op.dq)?,
            dk: self.heads(&op.dk)?,
            dv: self.heads(&op.dv)?,
            lse: flat(&f.lse)?,
            delta: flat(&op.delta)?,
        };
        let queries = block(tk);
        let floats = 2 * panels(d, tk)
            + panels(tk, d)
            + 2 * panels(queries, d)
            + rows_floats(d)
            + 2 * Scores::floats(queries, tk)
            + Scores::floats(1, tk)
            + 9 * 16;
        self.scratch.reserve(self.threads(), floats + 16);
        self.pool.run(batch * heads, |pair| {
            let mut scratch = self.scratch.take();
            let head = (pair / heads, pair % heads);
            self.arch.dispatch(Backward { all: &all, views: &views, head, queries, work: scratch.aligned(floats) });
        });
        Ok(())
    }
}

struct Views<'a> {
    out: View<'a, f32>,
    dout: View<'a, f32>,
    dq: View<'a, f32>,
    dk: View<'a, f32>,
    dv: View<'a, f32>,
    lse: View<'a, f32>,
    delta: View<'a, f32>,
}

/// One head of one sequence.
struct Backward<'a> {
    all: &'a Heads<'a>,
    views: &'a Views<'a>,
    head: (usize, usize),
    queries: usize,
    work: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // SAFETY: this chunk alone writes this head of this sequence.
        unsafe { if S::REGISTER_COUNT >= 32 { self.run::<S, ROWS>(simd) } else { self.run::<S, 6>(simd) } }
    }
}

impl Backward<'_> {
    /// # Safety
    /// Nobody else writes this head of this sequence.
    #[inline(always)]
    unsafe fn run<S: Simd, const MR: usize>(self, simd: S) {
        let Backward { all, views, head: (b, h), queries, mut work } = self;
        let op = all.op;
        let (_, tq, tk, _, d) = op.sizes();
        let column = h * d;
        let work = &mut work;
        let [kt, vt] = [(); 2].map(|()| take(work, panels(d, tk)));
        let k = take(work, panels(tk, d));
        let [q, g] = [(); 2].map(|()| take(work, panels(queries, d)));
        let row = take(work, rows_floats(d));
        let [p, ds] = [(); 2].map(|()| Scores::take(work, queries, tk));
        let kept = Scores::take(work, 1, tk);
        // SAFETY: the caller's promise; the panels fit.
        unsafe {
            let (keys, values) = (Heads::head(&all.k, tk, b, 0, column), Heads::head(&all.v, tk, b, 0, column));
            pack::strip::<S>(keys.transposed(), d, tk, kt);
            pack::strip::<S>(values.transposed(), d, tk, vt);
            pack::strip::<S>(keys, tk, d, k);
        }
        let scale = op.scale as f32;
        // Keys whose gradients hold a sum already.
        let mut begun = 0;
        for i in (0..tq).step_by(queries) {
            let n = queries.min(tq - i);
            for top in (0..n).step_by(MR) {
                let (at, height) = (i + top, MR.min(n - top));
                let keys = op.visible(at + height - 1);
                // SAFETY: the caller's promise; these queries exist.
                unsafe {
                    rows::<MR>(Heads::head(&all.q, tq, b, at, column), height, d, row);
                    for view in [&all.q, &views.out, &views.dout] {
                        all.fetch(view, (b, h), at + height, MR);
                    }
                    p.product::<S, MR>(simd, top, (d, keys), (row, kt), scale);
                    rows::<MR>(Heads::head(&views.dout, tq, b, at, column), height, d, row);
                    ds.product::<S, MR>(simd, top, (d, keys), (row, vt), 1.0);
                    for r in 0..height {
                        all.gradient(views, (b, h), at + r, keys, (p, ds, top + r), kept);
                    }
                    let dq = Heads::head(&views.dq, tq, b, at, column);
                    ds.times::<S, MR>(simd, (top, height), (keys, tk, d), k, (dq, scale));
                }
            }
            let keys = op.visible(i + n - 1);
            // SAFETY: as above.
            unsafe {
                pack::strip::<S>(Heads::head(&all.q, tq, b, i, column), n, d, q);
                pack::strip::<S>(Heads::head(&views.dout, tq, b, i, column), n, d, g);
                for j in (0..keys).step_by(MR) {
                    // The first query of the block that sees a key of this row of tiles.
                    let from = if op.causal { (j + tq).saturating_sub(tk + i) } else { 0 };
                    let (tile, sum) = ((j, MR.min(tk - j)), (from, n, n, d));
                    let add = j < begun;
                    let (dk, dv) = (Heads::head(&views.dk, tk, b, j, column), Heads::head(&views.dv, tk, b, j, column));
                    ds.transposed_times::<S, MR>(simd, tile, sum, q, (dk, add, scale));
                    p.transposed_times::<S, MR>(simd, tile, sum, g, (dv, add, 1.0));
                }
            }
            begun = keys.next_multiple_of(MR);
        }
        for t in begun..tk {
            // SAFETY: the caller's promise.
            unsafe {
                views.dk.span_mut(b * tk + t, column..column + d).fill(0.0);
                views.dv.span_mut(b * tk + t, column..column + d).fill(0.0);
            }
        }
    }
}

impl Heads<'_> {
    /// From the scores and dP of query `i`, in one row of `p` and `ds`, to P (after dropout) and dS, zeros for hidden keys.
    ///
    /// # Safety
    /// The row has `keys` keys; nobody else uses it and `kept`, a row for P before dropout.
    #[inline(always)]
    unsafe fn gradient(
        &self,
        views: &Views<'_>,
        (b, h): (usize, usize),
        i: usize,
        keys: usize,
        (p, ds, r): (Scores, Scores, usize),
        kept: Scores,
    ) {
        let (_, tq, _, heads, d) = self.op.sizes();
        let (row, at, columns) = (b * tq + i, (b * heads + h) * tq + i, h * d..(h + 1) * d);
        // SAFETY: both are only read; the rest is the caller's promise.
        unsafe {
            let (o, g) = (views.out.span(row, columns.clone()), views.dout.span(row, columns));
            let dot = math::sum2(
                o,
                g,
                #[inline(always)]
                |o, g| o * g,
            );
            views.delta.set(0, at, dot);
            let visible = self.hide(b, i, p, r);
            p.clear(r, visible, keys);
            ds.clear(r, visible, keys);
            let log = views.lse.get(0, at);
            let log = if log == f32::NEG_INFINITY { 0.0 } else { log };
            if self.op.dropout.is_none() {
                for (p, ds) in p.row(r, visible).zip(ds.row(r, visible)) {
                    for (p, ds) in p.iter_mut().zip(ds) {
                        *p = weight(*p, log);
                        *ds = *p * (*ds - dot);
                    }
                }
                return;
            }
            for (p, kept) in p.row(r, visible).zip(kept.row(0, visible)) {
                p.iter_mut().for_each(|s| *s = weight(*s, log));
                kept.copy_from_slice(p);
            }
            self.for_dropout((b, h), i, visible, |j, factor| {
                p.scale(r, j, factor);
                ds.scale(r, j, factor);
            });
            for (kept, ds) in kept.row(0, visible).zip(ds.row(r, visible)) {
                ds.iter_mut().zip(kept).for_each(|(ds, p)| *ds = *p * (*ds - dot));
            }
        }
    }
}
