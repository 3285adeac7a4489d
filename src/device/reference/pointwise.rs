//! Elementwise operations, embeddings and LayerNorm.

use super::Reference;
use crate::bail;
use crate::device::ops::philox::{keeps, word};
use crate::device::ops::{
    Accumulate, Activation, ActivationBackward, Dropout, Embedding, EmbeddingBackward, Fill, LayerNorm,
    LayerNormBackward, Mask, StepState,
};
use crate::error::Result;

/// Reads the [`StepState`] of a dropout mask.
pub(super) fn step_state(device: &Reference, mask: &Mask) -> Result<StepState> {
    let words = device.cells::<u32>(&mask.state)?;
    let mut raw = [0u32; StepState::WORDS];
    for (i, w) in raw.iter_mut().enumerate() {
        *w = words.get(0, i);
    }
    Ok(bytemuck::cast(raw))
}

/// Returns `f(x)`.
pub(super) fn activate(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::GeluTanh => 0.5 * x * (1.0 + tanh_argument(x).tanh()),
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::Tanh => x.tanh(),
    }
}

/// Returns `f'(x)`.
pub(super) fn activate_grad(kind: Activation, x: f64) -> f64 {
    match kind {
        Activation::GeluTanh => {
            let t = tanh_argument(x).tanh();
            let slope = (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope
        }
        Activation::GeluErf => {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2)) + x * density
        }
        Activation::Tanh => 1.0 - x.tanh() * x.tanh(),
    }
}

/// The argument of tanh in [`Activation::GeluTanh`].
fn tanh_argument(x: f64) -> f64 {
    (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)
}

/// The error function, by its Maclaurin series for |x| < 3 and the continued fraction of erfc beyond; the relative
/// error is below 1e-14.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..=60).rev().fold(a, |f, n| a + 0.5 * f64::from(n) / f);
        1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

impl Reference {
    pub(super) fn accumulate(&self, op: &Accumulate) -> Result<()> {
        let (x, out) = (self.f(&op.x)?, self.f(&op.out)?);
        for i in 0..op.x.numel() {
            let (rx, ro) = (at(i, x.width()), at(i, out.width()));
            let old = if op.add { out.get(ro.0, ro.1) } else { 0.0 };
            out.set(ro.0, ro.1, old + x.get(rx.0, rx.1));
        }
        Ok(())
    }

    pub(super) fn fill(&self, op: &Fill) -> Result<()> {
        let out = self.f(&op.out)?;
        (0..out.rows()).for_each(|r| (0..out.width()).for_each(|c| out.set(r, c, op.value)));
        Ok(())
    }

    pub(super) fn activation(&self, op: &ActivationBackward) -> Result<()> {
        let (dout, pre, dx) = (self.f(&op.dout)?, self.f(&op.pre)?, self.f(&op.dx)?);
        for r in 0..dx.rows() {
            for c in 0..dx.width() {
                dx.set(r, c, dout.get(r, c) * activate_grad(op.kind, pre.get(r, c)));
            }
        }
        Ok(())
    }

    pub(super) fn dropout(&self, op: &Dropout) -> Result<()> {
        let state = step_state(self, &op.mask)?;
        let (x, residual, out) = (self.f(&op.x)?, self.maybe(&op.residual)?, self.f(&op.out)?);
        let scale = 1.0 / (1.0 - f64::from(op.mask.p));
        for r in 0..x.rows() {
            for c in 0..x.width() {
                let index = ((r * x.width() + c) / op.unit) as u64;
                let kept = keeps(word(state.seed, state.step, op.mask.site, index), op.mask.p);
                let y = if kept { x.get(r, c) * scale } else { 0.0 };
                out.set(r, c, y + residual.map_or(0.0, |t| t.get(r, c)));
            }
        }
        Ok(())
    }

    pub(super) fn embedding(&self, op: &Embedding) -> Result<()> {
        let ids = self.flat::<i32>(&op.ids)?;
        let (table, positions, out) = (self.f(&op.table)?, self.maybe(&op.positions)?, self.f(&op.out)?);
        let time = op.ids.dims()[1];
        for r in 0..out.rows() {
            let id = checked_id(ids.get(0, r), table.rows(), r)?;
            for c in 0..out.width() {
                let old = if op.accumulate { out.get(r, c) } else { 0.0 };
                out.set(r, c, old + table.get(id, c) + positions.map_or(0.0, |p| p.get(r % time, c)));
            }
        }
        Ok(())
    }

    pub(super) fn embedding_backward(&self, op: &EmbeddingBackward) -> Result<()> {
        let ids = self.flat::<i32>(&op.ids)?;
        let dout = self.f(&op.dout)?;
        let time = op.ids.dims()[1];
        for (target, accumulate, by_id) in
            [(&op.dtable, op.accumulate_table, true), (&op.dpositions, op.accumulate_positions, false)]
        {
            let Some(target) = self.maybe(target)? else { continue };
            if !accumulate {
                (0..target.rows()).for_each(|r| (0..target.width()).for_each(|c| target.set(r, c, 0.0)));
            }
            for r in 0..dout.rows() {
                let id = ids.get(0, r);
                if by_id && op.padding.is_some_and(|p| i64::from(p) == i64::from(id)) {
                    continue;
                }
                let row = if by_id { checked_id(id, target.rows(), r)? } else { r % time };
                for c in 0..dout.width() {
                    target.set(row, c, target.get(row, c) + dout.get(r, c));
                }
            }
        }
        Ok(())
    }

    pub(super) fn layernorm(&self, op: &LayerNorm) -> Result<()> {
        let (x, residual, sum) = (self.f(&op.x)?, self.maybe(&op.residual)?, self.maybe(&op.sum)?);
        let (weight, bias, out) = (self.f(&op.weight)?, self.f(&op.bias)?, self.f(&op.out)?);
        let (mean, rstd) = (self.f(&op.mean)?, self.f(&op.rstd)?);
        let n = x.width() as f64;
        for r in 0..x.rows() {
            let row: Vec<f64> = (0..x.width()).map(|c| x.get(r, c) + residual.map_or(0.0, |t| t.get(r, c))).collect();
            let mu = row.iter().sum::<f64>() / n;
            let variance = row.iter().map(|v| (v - mu) * (v - mu)).sum::<f64>() / n;
            let scale = 1.0 / (variance + op.eps).sqrt();
            mean.set(0, r, mu);
            rstd.set(0, r, scale);
            for (c, v) in row.iter().enumerate() {
                if let Some(sum) = sum {
                    sum.set(r, c, *v);
                }
                out.set(r, c, (v - mu) * scale * weight.get(0, c) + bias.get(0, c));
            }
        }
        Ok(())
    }

    pub(super) fn layernorm_backward(&self, op: &LayerNormBackward) -> Result<()> {
        let (dout, x, dx, weight) = (self.f(&op.dout)?, self.f(&op.x)?, self.f(&op.dx)?, self.f(&op.weight)?);
        let (dweight, dbias) = (self.f(&op.dweight)?, self.f(&op.dbias)?);
        let (mean, rstd) = (self.f(&op.mean)?, self.f(&op.rstd)?);
        let n = x.width() as f64;
        let normalised = |r: usize, c: usize| (x.get(r, c) - mean.get(0, r)) * rstd.get(0, r);
        for c in 0..x.width() {
            let old = if op.accumulate { (dweight.get(0, c), dbias.get(0, c)) } else { (0.0, 0.0) };
            dweight.set(0, c, (0..x.rows()).fold(old.0, |sum, r| sum + dout.get(r, c) * normalised(r, c)));
            dbias.set(0, c, (0..x.rows()).fold(old.1, |sum, r| sum + dout.get(r, c)));
        }
        for r in 0..x.rows() {
            let g: Vec<f64> = (0..x.width()).map(|c| dout.get(r, c) * weight.get(0, c)).collect();
            let mean_g = g.iter().sum::<f64>() / n;
            let mean_gh = g.iter().enumerate().map(|(c, g)| g * normalised(r, c)).sum::<f64>() / n;
            for (c, g) in g.iter().enumerate() {
                let d = rstd.get(0, r) * (g - mean_g - normalised(r, c) * mean_gh);
                dx.set(r, c, if op.accumulate_dx { dx.get(r, c) + d } else { d });
            }
        }
        Ok(())
    }
}

/// Returns the row and the column of element `i`.
fn at(i: usize, width: usize) -> (usize, usize) {
    (i / width, i % width)
}

/// Converts an id to a row number of a table of `rows` rows.
fn checked_id(id: i32, rows: usize, position: usize) -> Result<usize> {
    match usize::try_from(id) {
        Ok(id) if id < rows => Ok(id),
        _ => bail!("id {id} at position {position} is out of range for a table of {rows} rows"),
    }
}
