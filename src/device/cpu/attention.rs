//! Attention in blocks of queries: a block's scores against all visible keys fit the second-level cache, so an exact
//! softmax needs no rescaling, and only its log-sum-exp is kept. One chunk is one head of one sequence.

use super::dropout::for_mask;
use super::gemm::{Matrix, Product, SCRATCH};
use super::{Cpu, View, math};
use crate::device::ops::{Attention, StepState};
use crate::error::Result;
use crate::tensor::Tensor;
use pulp::Arch;

/// Queries of a block.
pub(super) const BLOCK: usize = 64;

/// What forward and backward share: the operands, and the scores of a block.
pub(super) struct Heads<'a> {
    pub op: &'a Attention,
    pub q: View<'a, f32>,
    pub k: View<'a, f32>,
    pub v: View<'a, f32>,
    mask: Option<View<'a, i32>>,
    state: StepState,
    arch: Arch,
}

impl<'a> Heads<'a> {
    pub fn new(cpu: &'a Cpu, op: &'a Attention) -> Result<Self> {
        let mask = op.key_mask.as_ref().map(|m| cpu.host.view(m)).transpose()?;
        let state = op.dropout.map_or(Ok(StepState::default()), |m| cpu.step_state(&m.state))?;
        Ok(Heads { op, q: cpu.heads(&op.q)?, k: cpu.heads(&op.k)?, v: cpu.heads(&op.v)?, mask, state, arch: cpu.arch })
    }

    /// Rows of head `h` of sequence `b` from time `t` on.
    ///
    /// # Safety
    /// `t` is a time of the sequence.
    pub unsafe fn head(view: &View<'_, f32>, time: usize, b: usize, t: usize, column: usize) -> Matrix {
        let whole = Matrix::rows(view.pointer(), view.pitch);
        // SAFETY: the row and the column lie in the view.
        unsafe { whole.at(b * time + t, column) }
    }

    /// Raw scores `scale Q K^T` of the queries `i..i + n` against keys `0..keys`, into `scores` (rows `keys` apart).
    ///
    /// # Safety
    /// `scores` has n x keys elements; the queries exist.
    pub unsafe fn scores(&self, (b, h): (usize, usize), i: usize, n: usize, keys: usize, scores: &mut [f32], work: &mut [f32]) {
        let (_, tq, tk, _, d) = self.op.sizes();
        // SAFETY: sizes agree with the views; Q and K are only read.
        unsafe {
            let q = Self::head(&self.q, tq, b, i, h * d);
            let k = Self::head(&self.k, tk, b, 0, h * d);
            let out = Matrix::rows(scores.as_mut_ptr(), keys);
            let scale = self.op.scale as f32;
            Product { scale, ..Product::new((n, keys, d), q, k.transposed(), out) }.run(self.arch, work);
        }
    }

    /// Hides keys of one row of scores by -infinity; returns how many leading keys the row may see.
    #[inline(always)]
    pub fn hide(&self, b: usize, i: usize, row: &mut [f32]) -> usize {
        let visible = self.op.visible(i).min(row.len());
        if let Some(mask) = &self.mask {
            for (j, score) in row[..visible].iter_mut().enumerate() {
                *score = if mask.get(b, j) == 0 { f32::NEG_INFINITY } else { *score };
            }
        }
        visible
    }

    /// Calls `each(j, factor)` for dropout's factor of the first `n` probabilities of query `i`.
    #[inline(always)]
    pub fn for_dropout(&self, b: usize, h: usize, i: usize, n: usize, each: impl FnMut(usize, f32)) {
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
        self.scratch.reserve(self.threads(), BLOCK * tk + SCRATCH);
        self.for_chunks(
            batch * heads,
            1,
            #[inline(always)]
            |pair| {
                let (b, h) = (pair.start / heads, pair.start % heads);
                let mut scratch = self.scratch.take();
                let (scratch, work) = scratch.slice(BLOCK * tk + SCRATCH).split_at_mut(BLOCK * tk);
                for i in (0..tq).step_by(BLOCK) {
                    let n = BLOCK.min(tq - i);
                    let keys = op.visible(i + n - 1);
                    let scores = &mut scratch[..n * keys];
                    // SAFETY: the block's queries exist and `scores` fits.
                    unsafe { all.scores((b, h), i, n, keys, scores, work) };
                    for (r, row) in scores.chunks_exact_mut(keys).enumerate() {
                        let visible = all.hide(b, i + r, row);
                        lse.set(0, (b * heads + h) * tq + i + r, softmax(row, visible));
                        all.for_dropout(b, h, i + r, visible, |j, factor| row[j] *= factor);
                    }
                    // SAFETY: this chunk alone writes these rows of this head.
                    unsafe {
                        let p = Matrix::rows(scores.as_mut_ptr(), keys);
                        let v = Heads::head(&all.v, tk, b, 0, h * d);
                        let o = Heads::head(&out, tq, b, i, h * d);
                        Product::new((n, d, keys), p, v, o).run(self.arch, work);
                    }
                }
            },
        );
        Ok(())
    }
}

/// Softmax of the first `visible` scores, zeros after them; returns the log-sum-exp.
#[inline(always)]
fn softmax(row: &mut [f32], visible: usize) -> f32 {
    let (seen, hidden) = row.split_at_mut(visible);
    hidden.fill(0.0);
    let largest = math::max(seen);
    if largest == f32::NEG_INFINITY {
        seen.fill(0.0);
        return f32::NEG_INFINITY;
    }
    seen.iter_mut().for_each(|s| *s = weight(*s, largest));
    let total = math::sum(seen, |p| p);
    let scale = 1.0 / total;
    seen.iter_mut().for_each(|p| *p *= scale);
    largest + total.ln()
}

/// exp(score - reference), exactly zero for a hidden key.
#[inline(always)]
pub(super) fn weight(score: f32, reference: f32) -> f32 {
    let p = math::exp(score - reference);
    if score == f32::NEG_INFINITY { 0.0 } else { p }
}
