//! Products cut into blocks of the output; the surroundings are applied to rows that are still in the first-level cache.

use super::gemm::{COLUMNS, Finish, Matrix, Product, ROWS, SCRATCH, STRIP};
use super::{Cpu, View, math};
use crate::device::ops::{Epilogue, Linear};
use crate::error::Result;
use std::ops::Range;

/// Blocks for each thread, so that one that is held up does not hold up all.
const BLOCKS: usize = 4;
/// Fewest rows of a block: each packs its strips of `b` anew, as much work as ten rows or so.
const FEWEST_ROWS: usize = 16 * ROWS;
/// Fewest FLOPs of a block, some microseconds of work: less is not worth handing over.
const FEWEST_FLOPS: usize = 500_000;

/// Rows and columns of a block. They decide who computes what, not how.
fn block((m, n, k): (usize, usize, usize), batch: usize, threads: usize) -> (usize, usize) {
    let flops = batch.saturating_mul(2 * m * n).saturating_mul(k);
    let all = if threads == 1 { 1 } else { (flops / FEWEST_FLOPS).clamp(1, BLOCKS * threads) };
    let wanted = all.div_ceil(batch);
    let part = |size: usize, parts: usize, unit: usize| size.div_ceil(parts.max(1)).next_multiple_of(unit);
    let strips = n.div_ceil(STRIP).max(1);
    let rows = part(m, wanted.div_ceil(strips), ROWS).max(FEWEST_ROWS);
    let strips = strips.max(wanted.div_ceil(m.div_ceil(rows).max(1)));
    // One thread packs a strip once for all rows; the product itself goes from strip to strip.
    (rows, if threads == 1 { n.max(1) } else { part(n, strips, COLUMNS).max(COLUMNS) })
}

impl Cpu {
    pub(super) fn linear(&self, op: &Linear) -> Result<()> {
        let (m, n, k) = op.sizes();
        let around = EpilogueOperands::new(self, op)?;
        let matrix = |view: View<'_, f32>, transposed: bool| {
            let rows = Matrix::rows(view.pointer(), view.pitch());
            if transposed { rows.transposed() } else { rows }
        };
        let (a, b) = (matrix(self.f(&op.a)?, op.ta), matrix(self.f(&op.b)?, op.tb));
        let c = matrix(around.raw, false);
        // From one matrix of an operand to the next.
        let (next_a, next_b) = (op.rows(&op.a) * op.a.pitch(), op.rows(&op.b) * op.b.pitch());
        let (rows, columns) = block((m, n, k), op.batch, self.threads());
        let (down, across) = (m.div_ceil(rows), n.div_ceil(columns));
        self.scratch.reserve(self.threads(), SCRATCH);
        self.pool.run(op.batch * down * across, |number| {
            let (z, number) = (number / (down * across), number % (down * across));
            let (top, left) = (number / across * rows, number % across * columns);
            let mut scratch = self.scratch.take();
            // SAFETY: the sizes agree with the views (`Op::check`), and each number owns its block of the output.
            unsafe {
                Product {
                    rows: top..(top + rows).min(m),
                    columns: left..(left + columns).min(n),
                    k,
                    a: a.after(z * next_a),
                    b: b.after(z * next_b),
                    c: c.at(z * m, 0),
                    add: op.accumulate || around.onto.is_some(),
                    scale: 1.0,
                    finish: From { around: &around, row: z * m },
                }
                .run(self.arch, scratch.slice(SCRATCH));
            }
        });
        Ok(())
    }
}

/// The surroundings of one product of a batch, which begins at a row.
struct From<'a> {
    around: &'a EpilogueOperands<'a>,
    row: usize,
}

impl Finish for From<'_> {
    #[inline(always)]
    unsafe fn begin(&self, rows: Range<usize>, columns: Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe { self.around.prepare(self.row + rows.start..self.row + rows.end, columns) };
    }

    #[inline(always)]
    unsafe fn finish(&self, rows: Range<usize>, columns: Range<usize>) {
        // SAFETY: the caller's promise.
        unsafe { self.around.apply(self.row + rows.start..self.row + rows.end, columns) };
    }
}

/// Bias, epilogue and residual of a block.
struct EpilogueOperands<'a> {
    epilogue: Epilogue,
    bias: Option<&'a [f32]>,
    /// A residual that is added after an epilogue.
    residual: Option<View<'a, f32>>,
    /// A residual without one: the product is added to it. It is or comes to the output first, so that the bits do not depend
    /// on which of both the memory plan chose.
    onto: Option<View<'a, f32>>,
    /// Where the product goes: to the pre-activation where one is kept, else to the output.
    raw: View<'a, f32>,
    pre: Option<View<'a, f32>>,
    /// Where f(pre) goes beside a derivative.
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
        let bare = op.epilogue == Epilogue::None;
        let bias = op.bias.as_ref().map(|t| cpu.slice(t)).transpose()?;
        Ok(EpilogueOperands {
            epilogue: op.epilogue,
            bias,
            residual: residual.filter(|_| !bare),
            onto: residual.filter(|_| bare),
            raw,
            pre,
            value,
            out,
        })
    }

    /// # Safety
    /// As [`Finish::begin`].
    #[inline(always)]
    unsafe fn prepare(&self, rows: Range<usize>, columns: Range<usize>) {
        if let Some(residual) = self.onto.filter(|r| r.pointer() != self.out.pointer()) {
            for r in rows {
                // SAFETY: the block belongs to this chunk; the residual is only read and is not `out`.
                let (x, out) = unsafe { (residual.span(r, columns.clone()), self.out.span_mut(r, columns.clone())) };
                out.copy_from_slice(x);
            }
        }
    }

    /// # Safety
    /// As [`Finish::finish`].
    #[inline(always)]
    unsafe fn apply(&self, rows: Range<usize>, columns: Range<usize>) {
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
                (Epilogue::ActivateGrad { kind, .. }, Some(pre), None) => {
                    // SAFETY: `Linear::check` keeps pre apart from all that is written, so it is only read.
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
