use super::{CHUNK, Cpu, math, rows_of};
use crate::bail;
use crate::device::ops::CrossEntropy;
use crate::error::Result;

impl Cpu {
    pub(super) fn cross_entropy(&self, op: &CrossEntropy) -> Result<()> {
        let (logits, labels) = (self.f(&op.logits)?, self.slice::<i32>(&op.labels)?);
        let (losses, loss, dlogits) = (self.f(&op.losses)?, self.f(&op.loss)?, self.maybe(&op.dlogits)?);
        let others = op.mix.as_ref().map(|mix| self.slice::<i32>(&mix.labels)).transpose()?;
        let shares = op.mix.as_ref().map(|mix| self.slice::<f32>(&mix.share)).transpose()?;
        let (vocab, rows) = (logits.width(), op.rows());
        let outside = |l: i32| usize::try_from(l).map_or(true, |l| l >= vocab);
        for (what, all) in [("label", Some(labels)), ("second label", others)] {
            let Some(all) = all else { continue };
            if let Some(r) = rows.clone().find(|&r| labels[r] != op.ignore && outside(all[r])) {
                bail!("{what} {} of row {r} is out of range for a vocabulary of {vocab}", all[r]);
            }
        }
        let here = || labels.iter().filter(|&&l| l != op.ignore).count() as f64;
        let scored = self.maybe(&op.scored)?.map_or_else(here, |all| f64::from(all.get(0, 0))).max(1.0);
        let each = (op.weight / scored) as f32;
        let (hit, spread) = ((1.0 - op.smoothing) as f32, (op.smoothing / vocab as f64) as f32);
        self.for_chunks(
            logits.rows(),
            rows_of(vocab, CHUNK),
            #[inline(always)]
            |range| {
                for r in range {
                    let label = labels[rows.start + r];
                    let mix = others.zip(shares).map(|(o, s)| (o[rows.start + r] as usize, s[rows.start + r]));
                    let value = if label == op.ignore {
                        if let Some(d) = &dlogits {
                            // SAFETY: only this chunk writes row r.
                            unsafe { d.row_mut(r) }.fill(0.0);
                        }
                        0.0
                    } else {
                        // SAFETY: only this chunk accesses row r of dlogits; the slice of logits is dropped before
                        // dlogits, which may be the same memory, is written.
                        let (largest, total, mean, at_label) = unsafe {
                            let row = logits.row(r);
                            let largest = math::max(row);
                            let total = math::sum(row, |z| math::exp(z - largest));
                            let mean = if spread > 0.0 { math::sum(row, |z| z) / vocab as f32 } else { 0.0 };
                            let at_label = row[label as usize];
                            let mixed = |(other, share): (usize, f32)| share * at_label + (1.0 - share) * row[other];
                            (largest, total, mean, mix.map_or(at_label, mixed))
                        };
                        let lse = largest + total.ln();
                        if let Some(d) = &dlogits {
                            let scale = each / total;
                            let same = d.pointer() == logits.pointer();
                            // SAFETY: as above.
                            let d = unsafe { d.row_mut(r) };
                            if same {
                                d.iter_mut().for_each(|z| *z = math::exp(*z - largest).mul_add(scale, -each * spread));
                            } else {
                                // SAFETY: different memory, only read.
                                let row = unsafe { logits.row(r) };
                                d.iter_mut()
                                    .zip(row)
                                    .for_each(|(d, z)| *d = math::exp(*z - largest).mul_add(scale, -each * spread));
                            }
                            let (other, share) = mix.unwrap_or((label as usize, 1.0));
                            d[label as usize] -= each * hit * share;
                            d[other] -= each * hit * (1.0 - share);
                        }
                        hit * (lse - at_label) + (1.0 - hit) * (lse - mean)
                    };
                    // SAFETY: only this chunk accesses element r of losses.
                    unsafe { losses.set(0, rows.start + r, value) };
                }
            },
        );
        let total: f64 = (0..rows.end).map(|r| f64::from(losses.get(0, r))).sum();
        // SAFETY: no other thread is running.
        unsafe { loss.set(0, 0, (total * op.weight / scored) as f32) };
        Ok(())
    }
}
