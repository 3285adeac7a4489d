use super::{Cpu, math};
use crate::device::ops::GlobalNorm;
use crate::error::Result;

impl Cpu {
    pub(super) fn global_norm(&self, op: &GlobalNorm) -> Result<()> {
        let (x, partials) = (self.slice::<f32>(&op.x)?, self.f(&op.partials)?);
        self.for_chunks(
            x.len(),
            GlobalNorm::BLOCK,
            #[inline(always)]
            |range| {
                let p = range.start / GlobalNorm::BLOCK;
                let sum = math::sum(&x[range], |v| v * v);
                // SAFETY: only this chunk accesses element p of partials.
                unsafe { partials.set(0, p, sum) };
            },
        );
        let total: f64 = (0..partials.width()).map(|p| f64::from(partials.get(0, p))).sum();
        // SAFETY: no other thread is running.
        unsafe { self.f(&op.norm)?.set(0, 0, total.sqrt() as f32) };
        Ok(())
    }
}
