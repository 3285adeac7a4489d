//! Attention, computed row by row with all scores of a row in memory.

use super::pointwise::step_state;
use super::{Cells, Reference};
use crate::bail;
use crate::device::ops::philox::{keeps, word};
use crate::device::ops::{Attention, AttentionBackward};
use crate::error::Result;
use crate::tensor::Tensor;

impl Reference {
    /// Returns a view of `[B, T, H, D]` as rows `[B T, H D]`.
    fn heads(&self, t: &Tensor) -> Result<Cells<'_, f64>> {
        let &[b, time, h, d] = t.dims() else { bail!("{t:?} must be [batch, time, heads, head size]") };
        let rows = if t.is_contiguous() { t.reshape(&[b * time, h * d]) } else { *t };
        self.f(&rows)
    }

    /// Returns the probabilities of one row of scores, the same after dropout, and the log-sum-exp of the scores.
    fn probabilities(&self, op: &Attention, b: usize, h: usize, i: usize) -> Result<(Vec<f64>, Vec<f64>, f64)> {
        let (_, tq, tk, heads, d) = op.sizes();
        let (q, k) = (self.heads(&op.q)?, self.heads(&op.k)?);
        let mask = op.key_mask.as_ref().map(|m| self.cells::<i32>(m)).transpose()?;
        let mut scores = vec![f64::NEG_INFINITY; tk];
        for (j, score) in scores.iter_mut().enumerate().take(op.visible(i)) {
            if mask.is_none_or(|m| m.get(b, j) != 0) {
                *score =
                    op.scale * (0..d).map(|e| q.get(b * tq + i, h * d + e) * k.get(b * tk + j, h * d + e)).sum::<f64>();
            }
        }
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if largest == f64::NEG_INFINITY {
            return Ok((vec![0.0; tk], vec![0.0; tk], f64::NEG_INFINITY));
        }
        let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
        let p: Vec<f64> = scores.iter().map(|s| (s - largest).exp() / total).collect();
        let mut dropped = p.clone();
        if let Some(mask) = &op.dropout {
            let state = step_state(self, mask)?;
            for (j, value) in dropped.iter_mut().enumerate() {
                let index = (((b * heads + h) * tq + i) * tk + j) as u64;
                let kept = keeps(word(state.seed, state.step, mask.site, index), mask.p);
                *value = if kept { *value / (1.0 - f64::from(mask.p)) } else { 0.0 };
            }
        }
        Ok((p, dropped, largest + total.ln()))
    }

    pub(super) fn attention(&self, op: &Attention) -> Result<()> {
        let (batch, tq, tk, heads, d) = op.sizes();
        let v = self.heads(&op.v)?;
        let out = self.heads(&op.out)?;
        let lse = self.flat::<f64>(&op.lse)?;
        for (b, h, i) in triples(batch, heads, tq) {
            let (_, p, row_lse) = self.probabilities(op, b, h, i)?;
            lse.set(0, (b * heads + h) * tq + i, row_lse);
            for e in 0..d {
                let sum = (0..tk).map(|j| p[j] * v.get(b * tk + j, h * d + e)).sum();
                out.set(b * tq + i, h * d + e, sum);
            }
        }
        Ok(())
    }

    pub(super) fn attention_backward(&self, op: &AttentionBackward) -> Result<()> {
        let f = &op.forward;
        let (batch, tq, tk, heads, d) = f.sizes();
        let (q, k, v) = (self.heads(&f.q)?, self.heads(&f.k)?, self.heads(&f.v)?);
        let (dout, dq) = (self.heads(&op.dout)?, self.heads(&op.dq)?);
        let (dk, dv) = (self.heads(&op.dk)?, self.heads(&op.dv)?);
        for target in [&dk, &dv] {
            (0..target.rows()).for_each(|r| (0..target.width()).for_each(|c| target.set(r, c, 0.0)));
        }
        for (b, h, i) in triples(batch, heads, tq) {
            let (p, dropped, _) = self.probabilities(f, b, h, i)?;
            let row = b * tq + i;
            let dp: Vec<f64> = (0..tk)
                .map(|j| {
                    let dot: f64 = (0..d).map(|e| dout.get(row, h * d + e) * v.get(b * tk + j, h * d + e)).sum();
                    if p[j] == 0.0 { 0.0 } else { dot * dropped[j] / p[j] }
                })
                .collect();
            let delta: f64 = (0..tk).map(|j| p[j] * dp[j]).sum();
            for e in 0..d {
                let c = h * d + e;
                let mut sum = 0.0;
                for j in 0..tk {
                    let (ds, key) = (f.scale * p[j] * (dp[j] - delta), b * tk + j);
                    sum += ds * k.get(key, c);
                    dk.set(key, c, dk.get(key, c) + ds * q.get(row, c));
                    dv.set(key, c, dv.get(key, c) + dropped[j] * dout.get(row, c));
                }
                dq.set(row, c, sum);
            }
        }
        Ok(())
    }
}

/// Iterates over all (sequence, head, query) triples.
fn triples(batch: usize, heads: usize, time: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..batch).flat_map(move |b| (0..heads).flat_map(move |h| (0..time).map(move |i| (b, h, i))))
}
