use super::{CHUNK, Cpu, math, rows_of};
use crate::device::ops::{LayerNorm, LayerNormBackward};
use crate::error::Result;

impl Cpu {
    pub(super) fn layernorm(&self, op: &LayerNorm) -> Result<()> {
        let (x, residual, sum) = (self.f(&op.x)?, self.maybe(&op.residual)?, self.maybe(&op.sum)?);
        let (weight, bias) = (self.slice::<f32>(&op.weight)?, self.slice::<f32>(&op.bias)?);
        let (out, mean, rstd) = (self.f(&op.out)?, self.f(&op.mean)?, self.f(&op.rstd)?);
        let (n, eps) = (x.width() as f32, op.eps as f32);
        self.for_chunks(
            x.rows(),
            rows_of(x.width(), CHUNK),
            #[inline(always)]
            |range| {
                for r in range {
                    // SAFETY: only this chunk writes row r of sum and out; no slice of `residual` is created when it is
                    // `sum`.
                    let row = unsafe {
                        match (&residual, &sum) {
                            (Some(residual), Some(sum)) => {
                                let target = sum.row_mut(r);
                                if residual.pointer() != sum.pointer() {
                                    target.copy_from_slice(residual.row(r));
                                }
                                target.iter_mut().zip(x.row(r)).for_each(|(s, x)| *s += x);
                                &*target
                            }
                            _ => x.row(r),
                        }
                    };
                    let mu = math::sum(row, |v| v) / n;
                    let variance = math::sum(row, |v| (v - mu) * (v - mu)) / n;
                    let scale = 1.0 / (variance + eps).sqrt();
                    // SAFETY: as above; the same holds for element r of mean and rstd.
                    let out = unsafe {
                        mean.set(0, r, mu);
                        rstd.set(0, r, scale);
                        out.row_mut(r)
                    };
                    for (((o, v), w), b) in out.iter_mut().zip(row).zip(weight).zip(bias) {
                        *o = ((v - mu) * scale).mul_add(*w, *b);
                    }
                }
            },
        );
        Ok(())
    }

    pub(super) fn layernorm_backward(&self, op: &LayerNormBackward) -> Result<()> {
        let (dout, x, dx) = (self.f(&op.dout)?, self.f(&op.x)?, self.f(&op.dx)?);
        let weight = self.slice::<f32>(&op.weight)?;
        let (mean, rstd) = (self.slice::<f32>(&op.mean)?, self.slice::<f32>(&op.rstd)?);
        let partials = self.f(&op.partials)?;
        let block = x.rows().div_ceil(partials.rows().max(1));
        self.for_chunks(
            partials.rows(),
            1,
            #[inline(always)]
            |p| {
                let p = p.start;
                // SAFETY: only this chunk writes row p of partials.
                let (dweight, dbias) = unsafe { partials.row_mut(p) }.split_at_mut(x.width());
                dweight.fill(0.0);
                dbias.fill(0.0);
                for r in (p * block).min(x.rows())..((p + 1) * block).min(x.rows()) {
                    // SAFETY: only this chunk writes row r of dx; the others are only read.
                    let (dout, x, dx) = unsafe { (dout.row(r), x.row(r), dx.row_mut(r)) };
                    let (mu, scale, n) = (mean[r], rstd[r], x.len());
                    // Slices of equal length, so that bounds are checked here and not in the loops.
                    let (dout, weight, dx) = (&dout[..n], &weight[..n], &mut dx[..n]);
                    let (dweight, dbias) = (&mut dweight[..n], &mut dbias[..n]);
                    for c in 0..n {
                        dweight[c] += dout[c] * ((x[c] - mu) * scale);
                        dbias[c] += dout[c];
                    }
                    let mean_g = math::sum2(
                        dout,
                        weight,
                        #[inline(always)]
                        |d, w| d * w,
                    ) / n as f32;
                    let mean_gh = math::sum3(
                        dout,
                        weight,
                        x,
                        #[inline(always)]
                        |d, w, x| d * w * ((x - mu) * scale),
                    ) / n as f32;
                    if op.accumulate_dx {
                        for c in 0..n {
                            dx[c] += scale * (dout[c] * weight[c] - mean_g - (x[c] - mu) * scale * mean_gh);
                        }
                    } else {
                        for c in 0..n {
                            dx[c] = scale * (dout[c] * weight[c] - mean_g - (x[c] - mu) * scale * mean_gh);
                        }
                    }
                }
            },
        );
        let (dweight, dbias) = (self.f(&op.dweight)?, self.f(&op.dbias)?);
        for (i, target) in [dweight, dbias].into_iter().enumerate() {
            // SAFETY: no other thread is running; partials are finished.
            let target = unsafe { target.row_mut(0) };
            if !op.accumulate {
                target.fill(0.0);
            }
            for p in 0..partials.rows() {
                // SAFETY: as above.
                let part = unsafe { partials.span(p, i * x.width()..(i + 1) * x.width()) };
                target.iter_mut().zip(part).for_each(|(t, p)| *t += p);
            }
        }
        Ok(())
    }
}
