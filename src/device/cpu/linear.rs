//! Matrix products, split into blocks of the output. The epilogue is applied to rows while they are still in L1.

use super::gemm::{COLUMNS, Finish, Matrix, Product, ROWS, SCRATCH, STRIP};
use super::{Cpu, View, math};
use crate::device::ops::{Epilogue, Linear};
use crate::error::Result;
use std::ops::Range;

/// Largest number of blocks per thread: more than one, so that a thread that is interrupted does not delay all others.
const BLOCKS: usize = 4;
/// Smallest number of rows in a block. Every block packs its strips of `b` again, which costs as much as about ten
/// rows.
const FEWEST_ROWS: usize = 16 * ROWS;
/// Smallest number of FLOPs in a block, a few microseconds of work. Dispatching less to another thread does not pay
/// off.
const FEWEST_FLOPS: usize = 500_000;

/// Returns the rows and columns of a block. They affect only which thread computes what, not the results.
fn block((m, n, k): (usize, usize, usize), batch: usize, threads: usize) -> (usize, usize) {
    let flops = batch.saturating_mul(2 * m * n).saturating_mul(k);
    let all = if threads == 1 { 1 } else { (flops / FEWEST_FLOPS).clamp(1, BLOCKS * threads) };
    let wanted = all.div_ceil(batch);
    let part = |size: usize, parts: usize, unit: usize| size.div_ceil(parts.max(1)).next_multiple_of(unit);
    let strips = n.div_ceil(STRIP).max(1);
    let rows = part(m, wanted.div_ceil(strips), ROWS).max(FEWEST_ROWS);
    let strips = strips.max(wanted.div_ceil(m.div_ceil(rows).max(1)));
    // A single thread packs each strip only once for all rows, and `Product` splits the columns into strips itself.
    (rows, if threads == 1 { n.max(1) } else { part(n, strips, COLUMNS).max(COLUMNS) })
}

impl Cpu {
    pub(super) fn linear(&self, op: &Linear) -> Result<()> {
        let (m, n, k) = op.sizes();
        let operands = EpilogueOperands::new(self, op)?;
        let matrix = |view: View<'_, f32>, transposed: bool| {
            let rows = Matrix::rows(view.pointer(), view.pitch());
            if transposed { rows.transposed() } else { rows }
        };
        let (a, b) = (matrix(self.f(&op.a)?, op.ta), matrix(self.f(&op.b)?, op.tb));
        let c = matrix(operands.raw, false);
        // Elements from one matrix of an operand to the next.
        let (next_a, next_b) = (op.rows(&op.a) * op.a.pitch(), op.rows(&op.b) * op.b.pitch());
        let (rows, columns) = block((m, n, k), op.batch, self.threads());
        let (down, across) = (m.div_ceil(rows), n.div_ceil(columns));
        self.scratch.reserve(self.threads(), SCRATCH);
        self.pool.run(op.batch * down * across, |number| {
            let (z, number) = (number / (down * across), number % (down * across));
            let (top, left) = (number / across * rows, number % across * columns);
            let mut scratch = self.scratch.take();
            // SAFETY: the sizes match the views (`Op::check`), and each chunk owns its block of the output.
            unsafe {
                Product {
                    rows: top..(top + rows).min(m),
                    columns: left..(left + columns).min(n),
                    k,
                    a: a.after(z * next_a),
                    b: b.after(z * next_b),
                    c: c.at(z * m, 0),
                    add: op.accumulate || operands.initial.is_some(),
                    scale: 1.0,
                    finish: MatrixEpilogue { operands: &operands, row: z * m },
                }
                .run(self.arch, scratch.slice(SCRATCH));
            }
        });
        Ok(())
    }
}

/// The epilogue of one product of a batch, whose output starts at row `row`.
struct MatrixEpilogue<'a> {
    operands: &'a EpilogueOperands<'a>,
    row: usize,
}

impl Finish for MatrixEpilogue<'_> {
    #[inline(always)]
    unsafe fn begin(&self, rows: Range<usize>, columns: Range<usize>) {
        // SAFETY: guaranteed by the caller.
        unsafe { self.operands.prepare(self.row + rows.start..self.row + rows.end, columns) };
    }

    #[inline(always)]
    unsafe fn finish(&self, rows: Range<usize>, columns: Range<usize>) {
        // SAFETY: guaranteed by the caller.
        unsafe { self.operands.apply(self.row + rows.start..self.row + rows.end, columns) };
    }
}

/// Operands of the epilogue: everything but the factors.
struct EpilogueOperands<'a> {
    epilogue: Epilogue,
    bias: Option<&'a [f32]>,
    /// The residual, if there is an epilogue, after which it is added.
    residual: Option<View<'a, f32>>,
    /// The residual, if there is no epilogue. The output is initialised with it, unless it already is the output, and
    /// the product is added. So the bits do not depend on whether the memory plan places the residual in the output.
    initial: Option<View<'a, f32>>,
    /// Where the product is written: to the pre-activation if it is saved, else to the output.
    raw: View<'a, f32>,
    /// The saved pre-activation, if the epilogue computes a gradient.
    pre: Option<View<'a, f32>>,
    /// Output for the recomputed activation, if the epilogue computes a gradient.
    value: Option<View<'a, f32>>,
    out: View<'a, f32>,
}

impl<'a> EpilogueOperands<'a> {
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
        let no_epilogue = op.epilogue == Epilogue::None;
        let bias = op.bias.as_ref().map(|t| cpu.slice(t)).transpose()?;
        Ok(EpilogueOperands {
            epilogue: op.epilogue,
            bias,
            residual: residual.filter(|_| !no_epilogue),
            initial: residual.filter(|_| no_epilogue),
            raw,
            pre,
            value,
            out,
        })
    }

    /// Copies the residual to the output if the product is to be added to it.
    ///
    /// # Safety
    /// As for [`Finish::begin`].
    #[inline(always)]
    unsafe fn prepare(&self, rows: Range<usize>, columns: Range<usize>) {
        if let Some(residual) = self.initial.filter(|r| r.pointer() != self.out.pointer()) {
            for r in rows {
                // SAFETY: the block belongs to this chunk; the residual is only read and is not `out`.
                let (x, out) = unsafe { (residual.span(r, columns.clone()), self.out.span_mut(r, columns.clone())) };
                out.copy_from_slice(x);
            }
        }
    }

    /// Applies bias, epilogue and residual to the product.
    ///
    /// # Safety
    /// As for [`Finish::finish`].
    #[inline(always)]
    unsafe fn apply(&self, rows: Range<usize>, columns: Range<usize>) {
        if self.bias.is_none() && self.residual.is_none() && self.epilogue == Epilogue::None {
            return;
        }
        let saves_pre = self.raw.pointer() != self.out.pointer();
        for r in rows {
            // SAFETY: the block belongs to this chunk, and `raw` and `out` are different memory if both are used.
            let raw = unsafe { self.raw.span_mut(r, columns.clone()) };
            if let Some(bias) = self.bias {
                raw.iter_mut().zip(&bias[columns.clone()]).for_each(|(z, b)| *z += b);
            }
            match (self.epilogue, &self.pre, &self.value) {
                (Epilogue::Activate { kind, .. }, ..) if saves_pre => {
                    // SAFETY: as above.
                    math::activate(kind, raw, unsafe { self.out.span_mut(r, columns.clone()) });
                }
                (Epilogue::Activate { kind, .. }, ..) => math::activate_in_place(kind, raw),
                (Epilogue::ActivateGrad { kind, .. }, Some(pre), Some(value)) => {
                    // SAFETY: as above, for `value`; nothing else accesses it while this slice is alive.
                    let z = unsafe { value.span_mut(r, columns.clone()) };
                    if pre.pointer() != value.pointer() {
                        // SAFETY: `pre` is only read and is not `value`.
                        z.copy_from_slice(unsafe { pre.span(r, columns.clone()) });
                    }
                    math::scale_by_grad_and_activate(kind, z, raw);
                }
                (Epilogue::ActivateGrad { kind, .. }, Some(pre), None) => {
                    // SAFETY: `pre` is only read; `Op::check` ensures that it does not overlap any output.
                    math::scale_by_grad(kind, unsafe { pre.span(r, columns.clone()) }, raw);
                }
                _ => {}
            }
            if let Some(residual) = &self.residual {
                // SAFETY: the residual is only read and is not `out`; `raw` is no longer used.
                let (x, out) = unsafe { (residual.span(r, columns.clone()), self.out.span_mut(r, columns.clone())) };
                out.iter_mut().zip(x).for_each(|(o, x)| *o += x);
            }
        }
    }
}
