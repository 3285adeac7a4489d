use super::{CHUNK, Cpu};
use crate::device::ops::{ALIGN, AdamW};
use crate::error::Result;

impl Cpu {
    pub(super) fn adamw(&self, op: &AdamW) -> Result<()> {
        let (params, m, v) = (self.f(&op.params)?, self.f(&op.m)?, self.f(&op.v)?);
        let copy = self.maybe(&op.copy)?;
        let (grads, mask) = (self.slice::<f32>(&op.grads)?, self.slice::<u8>(&op.decay_mask)?);
        let state = self.step_state(&op.state)?;
        let norm = f64::from(self.f(&op.norm)?.get(0, 0));
        let clip = (op.max_norm / (norm + 1e-6)).min(1.0) as f32;
        let (b1, b2) = (op.beta1 as f32, op.beta2 as f32);
        let (c1, c2) = ((1.0 - op.beta1) as f32, (1.0 - op.beta2) as f32);
        let (lr, eps) = (state.lr, op.eps as f32);
        let (step, root) = (lr / state.bias1, 1.0 / state.bias2.sqrt());
        let decayed = (1.0 - f64::from(lr) * op.weight_decay) as f32;
        const _: () = assert!(CHUNK.is_multiple_of(ALIGN));
        self.for_chunks(
            grads.len(),
            CHUNK,
            #[inline(always)]
            |range| {
                // SAFETY: only this chunk accesses these elements.
                let (p, m, v) = unsafe {
                    (params.span_mut(0, range.clone()), m.span_mut(0, range.clone()), v.span_mut(0, range.clone()))
                };
                let g = &grads[range.clone()];
                for (block, &decays) in mask[range.start / ALIGN..range.end / ALIGN].iter().enumerate() {
                    let keep = if decays != 0 { decayed } else { 1.0 };
                    let at = block * ALIGN..(block + 1) * ALIGN;
                    let (p, m, v, g) = (&mut p[at.clone()], &mut m[at.clone()], &mut v[at.clone()], &g[at]);
                    for i in 0..ALIGN {
                        let grad = g[i] * clip;
                        m[i] = b1.mul_add(m[i], c1 * grad);
                        v[i] = b2.mul_add(v[i], c2 * grad * grad);
                        p[i] = p[i] * keep - step * m[i] / v[i].sqrt().mul_add(root, eps);
                    }
                }
                if let Some(copy) = copy {
                    // SAFETY: as above.
                    unsafe { copy.span_mut(0, range) }.copy_from_slice(p);
                }
            },
        );
        Ok(())
    }
}
