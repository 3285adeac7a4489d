use super::Cpu;
use crate::device::ops::SquaredError;
use crate::error::Result;

impl Cpu {
    /// Runs on one thread: an example has a single number, so a batch has too few elements to parallelise.
    pub(super) fn squared_error(&self, op: &SquaredError) -> Result<()> {
        let (x, targets, dx) = (self.f(&op.x)?, self.f(&op.targets)?, self.maybe(&op.dx)?);
        let each = |r: usize, c: usize| (x.get(r, c) - targets.get(r, c), !targets.get(r, c).is_nan());
        let (mut sum, mut here) = (0.0, 0usize);
        for r in 0..x.rows() {
            for c in 0..x.width() {
                if let (difference, true) = each(r, c) {
                    sum += f64::from(difference) * f64::from(difference);
                    here += 1;
                }
            }
        }
        let scored = self.maybe(&op.scored)?.map_or(here as f64, |all| f64::from(all.get(0, 0)));
        let part = op.weight / scored.max(1.0);
        // SAFETY: no other thread is running, and no slices exist.
        unsafe { self.f(&op.loss)?.set(0, 0, (part * sum) as f32) };
        if let Some(dx) = dx {
            for r in 0..x.rows() {
                for c in 0..x.width() {
                    let (difference, is_scored) = each(r, c);
                    let gradient = if is_scored { difference * (2.0 * part) as f32 } else { 0.0 };
                    // SAFETY: as above.
                    unsafe { dx.set(r, c, gradient) };
                }
            }
        }
        Ok(())
    }
}
