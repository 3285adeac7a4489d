//! The backward pass of attention. Probabilities are recomputed from the log-sum-exp, for one block of queries after
//! the other. Within a block, each row of tiles computes P, dS = P (dP - delta) and dQ. Then the sums over queries, dK
//! = dS^T Q and dV = P^T dO, are computed for the whole block, so that each of their tiles sums over many queries.

use super::attention::{Heads, Scores, panels, rows, rows_floats, take, weight};
use super::gemm::{ROWS, pack};
use super::{Cpu, View, math};
use crate::device::ops::AttentionBackward;
use crate::error::Result;
use pulp::{Simd, WithSimd};

/// Largest number of queries in a block. Its P and dS take 400 KiB for up to 480 keys.
const MOST_QUERIES: usize = 8 * ROWS;

/// Returns the number of queries in a block. With more keys, blocks have fewer queries, but at least one row of tiles,
/// so that P and dS keep their size.
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

/// Views of the operands beyond those of [`Heads`].
struct Views<'a> {
    out: View<'a, f32>,
    dout: View<'a, f32>,
    dq: View<'a, f32>,
    dk: View<'a, f32>,
    dv: View<'a, f32>,
    lse: View<'a, f32>,
    delta: View<'a, f32>,
}

/// The backward pass of one head of one sequence.
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
        // SAFETY: only this chunk writes this head of this sequence.
        unsafe { if S::REGISTER_COUNT >= 32 { self.run::<S, ROWS>(simd) } else { self.run::<S, 6>(simd) } }
    }
}

impl Backward<'_> {
    /// Computes the head in tiles of `MR` queries.
    ///
    /// # Safety
    /// Nothing else may access this head's part of the outputs at the same time.
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
        let undropped = Scores::take(work, 1, tk);
        // SAFETY: guaranteed by the caller; the panels fit.
        unsafe {
            let (keys, values) = (Heads::head(&all.k, tk, b, 0, column), Heads::head(&all.v, tk, b, 0, column));
            pack::strip::<S>(keys.transposed(), d, tk, kt);
            pack::strip::<S>(values.transposed(), d, tk, vt);
            pack::strip::<S>(keys, tk, d, k);
        }
        let scale = op.scale as f32;
        // Number of leading keys whose gradients already hold a sum.
        let mut begun = 0;
        for i in (0..tq).step_by(queries) {
            let n = queries.min(tq - i);
            for top in (0..n).step_by(MR) {
                let (at, height) = (i + top, MR.min(n - top));
                let keys = op.visible(at + height - 1);
                // SAFETY: guaranteed by the caller; these queries exist.
                unsafe {
                    rows::<MR>(Heads::head(&all.q, tq, b, at, column), height, d, row);
                    for view in [&all.q, &views.out, &views.dout] {
                        all.fetch(view, (b, h), at + height, MR);
                    }
                    p.product::<S, MR>(simd, top, (d, keys), (row, kt), scale);
                    rows::<MR>(Heads::head(&views.dout, tq, b, at, column), height, d, row);
                    ds.product::<S, MR>(simd, top, (d, keys), (row, vt), 1.0);
                    for r in 0..height {
                        all.gradient(views, (b, h), at + r, keys, (p, ds, top + r), undropped);
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
                    // The first query of the block that sees any key of this row of tiles.
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
            // SAFETY: guaranteed by the caller.
            unsafe {
                views.dk.span_mut(b * tk + t, column..column + d).fill(0.0);
                views.dv.span_mut(b * tk + t, column..column + d).fill(0.0);
            }
        }
    }
}

impl Heads<'_> {
    /// Turns the scores and dP of query `i`, in row `r` of `p` and `ds`, into P (after dropout) and dS, with zeros for
    /// hidden keys. Also writes `delta`. `undropped` is a scratch row for P before dropout.
    ///
    /// # Safety
    /// The rows must have `keys` keys, and nothing else may access them at the same time.
    #[inline(always)]
    unsafe fn gradient(
        &self,
        views: &Views<'_>,
        (b, h): (usize, usize),
        i: usize,
        keys: usize,
        (p, ds, r): (Scores, Scores, usize),
        undropped: Scores,
    ) {
        let (_, tq, _, heads, d) = self.op.sizes();
        let (row, at, columns) = (b * tq + i, (b * heads + h) * tq + i, h * d..(h + 1) * d);
        // SAFETY: `out` and `dout` are only read; the caller guarantees the rest.
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
            for (p, undropped) in p.row(r, visible).zip(undropped.row(0, visible)) {
                p.iter_mut().for_each(|s| *s = weight(*s, log));
                undropped.copy_from_slice(p);
            }
            self.for_dropout((b, h), i, visible, |j, factor| {
                p.scale(r, j, factor);
                ds.scale(r, j, factor);
            });
            for (undropped, ds) in undropped.row(0, visible).zip(ds.row(r, visible)) {
                ds.iter_mut().zip(undropped).for_each(|(ds, p)| *ds = *p * (*ds - dot));
            }
        }
    }
}
