//! The gradient of attention: scores are computed again block by block from the log-sum-exp.

use super::attention::{BLOCK, Heads, weight};
use super::gemm::{Matrix, Product, SCRATCH};
use super::{Cpu, math};
use crate::device::ops::AttentionBackward;
use crate::error::Result;

impl Cpu {
    pub(super) fn attention_backward(&self, op: &AttentionBackward) -> Result<()> {
        let f = &op.forward;
        let (batch, tq, tk, heads, d) = f.sizes();
        let all = Heads::new(self, f)?;
        let (out, dout) = (self.heads(&f.out)?, self.heads(&op.dout)?);
        let (dq, dk, dv) = (self.heads(&op.dq)?, self.heads(&op.dk)?, self.heads(&op.dv)?);
        let flat = |t: &crate::tensor::Tensor| self.f(&t.reshape(&[1, batch * heads * tq]));
        let (lse, delta) = (flat(&f.lse)?, flat(&op.delta)?);
        // P after dropout, dP and then dS, and the undropped P where dropout makes them differ.
        let parts = if f.dropout.is_some() { 3 } else { 2 };
        self.scratch.reserve(self.threads(), parts * BLOCK * tk + SCRATCH);
        self.for_chunks(
            batch * heads,
            1,
            #[inline(always)]
            |pair| {
                let (b, h) = (pair.start / heads, pair.start % heads);
                let column = h * d;
                for t in 0..tk {
                    // SAFETY: this chunk alone writes this head of this sequence.
                    unsafe {
                        dk.span_mut(b * tk + t, column..column + d).fill(0.0);
                        dv.span_mut(b * tk + t, column..column + d).fill(0.0);
                    }
                }
                let mut scratch = self.scratch.take();
                let (scratch, work) = scratch.slice(parts * BLOCK * tk + SCRATCH).split_at_mut(parts * BLOCK * tk);
                for i in (0..tq).step_by(BLOCK) {
                    let n = BLOCK.min(tq - i);
                    let keys = f.visible(i + n - 1);
                    let (p, rest) = scratch.split_at_mut(n * keys);
                    let (ds, rest) = rest.split_at_mut(n * keys);
                    let kept = if parts == 3 { &mut rest[..n * keys] } else { &mut rest[..0] };
                    // SAFETY: the block's queries exist, `p` and `ds` fit; dout and V are only read.
                    unsafe {
                        all.scores((b, h), i, n, keys, p, work);
                        let v = Heads::head(&all.v, tk, b, 0, column);
                        let o = Heads::head(&dout, tq, b, i, column);
                        Product::new((n, keys, d), o, v.transposed(), matrix(ds, keys)).run(self.arch, work);
                    }
                    for r in 0..n {
                        let (row, at) = (b * tq + i + r, (b * heads + h) * tq + i + r);
                        // SAFETY: both are only read.
                        let (o, g) = unsafe { (out.span(row, column..column + d), dout.span(row, column..column + d)) };
                        let (dot, log) = (math::sum2(o, g, |o, g| o * g), lse.get(0, at));
                        delta.set(0, at, dot);
                        let (p, ds) = (&mut p[r * keys..(r + 1) * keys], &mut ds[r * keys..(r + 1) * keys]);
                        let visible = all.hide(b, i + r, p);
                        p[visible..].fill(0.0);
                        let log = if log == f32::NEG_INFINITY { 0.0 } else { log };
                        p[..visible].iter_mut().for_each(|s| *s = weight(*s, log));
                        if parts == 3 {
                            let kept = &mut kept[r * keys..(r + 1) * keys];
                            kept.copy_from_slice(p);
                            all.for_dropout(b, h, i + r, visible, |j, factor| {
                                p[j] *= factor;
                                ds[j] *= factor;
                            });
                            ds.iter_mut().zip(&*kept).for_each(|(ds, p)| *ds = p * (*ds - dot));
                        } else {
                            ds.iter_mut().zip(&*p).for_each(|(ds, p)| *ds = p * (*ds - dot));
                        }
                    }
                    // SAFETY: this chunk alone writes this head of this sequence; the rest is only read.
                    unsafe {
                        let (k, q) = (Heads::head(&all.k, tk, b, 0, column), Heads::head(&all.q, tq, b, i, column));
                        let g = Heads::head(&dout, tq, b, i, column);
                        let scale = f.scale as f32;
                        let (p, ds) = (matrix(p, keys), matrix(ds, keys));
                        let (dq, dk, dv) = (
                            Heads::head(&dq, tq, b, i, column),
                            Heads::head(&dk, tk, b, 0, column),
                            Heads::head(&dv, tk, b, 0, column),
                        );
                        Product { scale, ..Product::new((n, d, keys), ds, k, dq) }.run(self.arch, work);
                        Product { scale, add: true, ..Product::new((keys, d, n), ds.transposed(), q, dk) }
                            .run(self.arch, work);
                        Product { add: true, ..Product::new((keys, d, n), p.transposed(), g, dv) }.run(self.arch, work);
                    }
                }
            },
        );
        Ok(())
    }
}

fn matrix(block: &mut [f32], pitch: usize) -> Matrix {
    Matrix::rows(block.as_mut_ptr(), pitch)
}
