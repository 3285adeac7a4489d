//! Products by the `gemm` crate on fixed blocks of the output; the surroundings are applied while a block is warm.

use super::{Cpu, View, math};
use crate::device::ops::{Epilogue, Linear};
use crate::error::Result;
use std::ops::Range;

/// A matrix for [`product`]: first element, distance between rows, distance between columns.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub start: *mut f32,
    pub row: usize,
    pub column: usize,
}

// SAFETY: a pointer into an arena that outlives the operation; who writes what is settled by chunks.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// The same from row `r`, column `c` on.
    ///
    /// # Safety
    /// The element lies in the matrix.
    #[inline]
    pub unsafe fn at(self, r: usize, c: usize) -> Self {
        // SAFETY: the caller's promise.
        Matrix { start: unsafe { self.start.add(r * self.row + c * self.column) }, ..self }
    }

    /// The same so many elements further.
    ///
    /// # Safety
    /// Another matrix of these sizes lies there.
    #[inline]
    unsafe fn after(self, elements: usize) -> Self {
        // SAFETY: the caller's promise.
        Matrix { start: unsafe { self.start.add(elements) }, ..self }
    }
}

/// `c = [c +] scale a b` with `c` of `m x n` and the inner size `k`, on the caller's thread.
///
/// # Safety
/// The three matrices lie in valid memory, and nobody else touches `c` meanwhile.
#[inline]
pub(super) unsafe fn product((m, n, k): (usize, usize, usize), a: Matrix, b: Matrix, c: Matrix, add: bool, scale: f32) {
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.start,
            c.column as isize,
            c.row as isize,
            add,
            a.start.cast_const(),
            a.column as isize,
            a.row as isize,
            b.start.cast_const(),
            b.column as isize,
            b.row as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// The longer side of the output is cut into blocks of at least 1 MFLOP, up to 16 and an even number of them in all products of
/// the batch, in whole tiles of the `gemm` crate's kernels: 8 rows, or 16 columns.
fn block(side: usize, batch: usize, flops: usize, tile: usize) -> usize {
    let tiles = side.div_ceil(tile);
    let all = (batch.saturating_mul(flops) / 1_000_000).clamp(1, 16).next_multiple_of(2);
    let blocks = all.div_ceil(batch).min(tiles);
    tiles.div_ceil(blocks.max(1)) * tile
}

impl Cpu {
    pub(super) fn linear(&self, op: &Linear) -> Result<()> {
        let (m, n, k) = op.sizes();
        let around = Surroundings::new(self, op)?;
        let matrix = |view: View<'_, f32>, transposed: bool| match transposed {
            false => Matrix { start: view.pointer(), row: view.pitch, column: 1 },
            true => Matrix { start: view.pointer(), row: 1, column: view.pitch },
        };
        let (a, b) = (matrix(self.f(&op.a)?, op.ta), matrix(self.f(&op.b)?, op.tb));
        let c = matrix(around.raw, false);
        // From one matrix of an operand to the next.
        let (next_a, next_b) = (op.rows(&op.a) * op.a.pitch, op.rows(&op.b) * op.b.pitch);
        let by_rows = m >= n;
        let (side, flops) = (if by_rows { m } else { n }, 2 * m * n * k);
        let block = block(side, op.batch, flops, if by_rows { 8 } else { 16 });
        let blocks = side.div_ceil(block.max(1));
        // Several whole products a chunk where they are small.
        let chunk = if blocks > 1 { 1 } else { (1_000_000 / flops.max(1)).clamp(1, op.batch.div_ceil(2)) };
        self.for_chunks(
            op.batch * blocks,
            chunk,
            #[inline(always)]
            |numbers| {
                for number in numbers {
                    let (z, start) = (number / blocks, number % blocks * block);
                    let range = start..(start + block).min(side);
                    let (rows, columns) = if by_rows { (range, 0..n) } else { (0..m, range) };
                    let out_rows = z * m + rows.start..z * m + rows.end;
                    // SAFETY: the sizes agree with the views (`Op::check`), and each number owns its block of the output.
                    unsafe {
                        let (a, b) = (a.after(z * next_a).at(rows.start, 0), b.after(z * next_b).at(0, columns.start));
                        let c = c.at(out_rows.start, columns.start);
                        product((rows.len(), columns.len(), k), a, b, c, op.accumulate || around.in_place, 1.0);
                    }
                    around.apply(out_rows, columns);
                }
            },
        );
        Ok(())
    }
}

/// Bias, epilogue and residual of a block.
struct Surroundings<'a> {
    epilogue: Epilogue,
    bias: Option<&'a [f32]>,
    residual: Option<View<'a, f32>>,
    /// The residual is the output: the product is added to it.
    in_place: bool,
    /// Where the product goes: to the pre-activation where one is kept, else to the output.
    raw: View<'a, f32>,
    pre: Option<View<'a, f32>>,
    /// Where f(pre) goes beside a derivative.
    value: Option<View<'a, f32>>,
    out: View<'a, f32>,
}

impl<'a> Surroundings<'a> {
    fn new(cpu: &'a Cpu, op: &Linear) -> Result<Self> {
        let out = cpu.f(&op.out)?;
        let (raw, pre) = match op.epilogue {
            Epilogue::Activate { pre: Some(pre), .. } => (cpu.f(&pre)?, None),
            Epilogue::ActivateGrad { pre, .. } => (out, Some(cpu.f(&pre)?)),
            _ => (out, None),
        };
        let value = match op.epilogue {
            Epilogue::ActivateGrad { value, .. } => cpu.maybe(&value)?,
            _ => None,
        };
        let residual = cpu.maybe(&op.residual)?;
        let in_place = residual.is_some_and(|r| r.pointer() == out.pointer());
        let bias = op.bias.as_ref().map(|t| cpu.slice(t)).transpose()?;
        Ok(Surroundings {
            epilogue: op.epilogue,
            bias,
            residual: residual.filter(|_| !in_place),
            in_place,
            raw,
            pre,
            value,
            out,
        })
    }

    #[inline(always)]
    fn apply(&self, rows: Range<usize>, columns: Range<usize>) {
        if self.bias.is_none() && self.residual.is_none() && self.epilogue == Epilogue::None {
            return;
        }
        let keeps_pre = self.raw.pointer() != self.out.pointer();
        for r in rows {
            // SAFETY: the block belongs to this chunk, and `raw` and `out` are different memory where both are used.
            let raw = unsafe { self.raw.span_mut(r, columns.clone()) };
            if let Some(bias) = self.bias {
                raw.iter_mut().zip(&bias[columns.clone()]).for_each(|(z, b)| *z += b);
            }
            match (self.epilogue, &self.pre, &self.value) {
                (Epilogue::Activate { kind, .. }, ..) if keeps_pre => {
                    // SAFETY: as above.
                    math::activate(kind, raw, unsafe { self.out.span_mut(r, columns.clone()) });
                }
                (Epilogue::Activate { kind, .. }, ..) => math::activate_in_place(kind, raw),
                (Epilogue::ActivateGrad { kind, .. }, Some(pre), Some(value)) => {
                    // SAFETY: as above, of `value`; nothing else looks at it while this is there.
                    let z = unsafe { value.span_mut(r, columns.clone()) };
                    if pre.pointer() != value.pointer() {
                        // SAFETY: pre is only read, and is not `value`.
                        z.copy_from_slice(unsafe { pre.span(r, columns.clone()) });
                    }
                    math::scale_by_grad_and_activate(kind, z, raw);
                }
                // SAFETY: pre is only read.
                (Epilogue::ActivateGrad { kind, .. }, Some(pre), None) => {
                    math::scale_by_grad(kind, unsafe { pre.span(r, columns.clone()) }, raw);
                }
                _ => {}
            }
            if let Some(residual) = &self.residual {
                // SAFETY: the residual is only read and is not `out`; `raw` is not used any more.
                let (x, out) = unsafe { (residual.span(r, columns.clone()), self.out.span_mut(r, columns.clone())) };
                out.iter_mut().zip(x).for_each(|(o, x)| *o += x);
            }
        }
    }
}
