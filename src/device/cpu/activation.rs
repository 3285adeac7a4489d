use super::{CHUNK, Cpu, math, rows_of};
use crate::device::ops::ActivationBackward;
use crate::error::Result;

impl Cpu {
    pub(super) fn activation(&self, op: &ActivationBackward) -> Result<()> {
        let (dout, pre, dx) = (self.f(&op.dout)?, self.f(&op.pre)?, self.f(&op.dx)?);
        let in_place = dout.pointer() == dx.pointer();
        self.for_chunks(
            dx.rows(),
            rows_of(dx.width(), CHUNK),
            #[inline(always)]
            |range| {
                for r in range {
                    // SAFETY: only this chunk writes row r of dx; no slice of dout is created when it is the same
                    // memory.
                    let (pre, dx) = unsafe { (pre.row(r), dx.row_mut(r)) };
                    if !in_place {
                        // SAFETY: as above.
                        dx.copy_from_slice(unsafe { dout.row(r) });
                    }
                    math::scale_by_grad(op.kind, pre, dx);
                }
            },
        );
        Ok(())
    }
}
