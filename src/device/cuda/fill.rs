//! `fill`, and how all pointwise kernels cut their operands.

use super::launch::Launch;
use super::places::Places;
use crate::device::ops::Fill;
use crate::tensor::Tensor;

/// Rows of elements, a row of blocks for each. Operands without gaps are one run of elements, which is cut into short
/// rows, of which the last may be shorter still.
pub(super) struct Rows {
    rows: usize,
    width: usize,
    /// Elements of the last row.
    last: usize,
    cut: bool,
}

impl Rows {
    /// Elements of a block, four for each thread.
    const TILE: usize = 1024;
    const THREADS: u32 = 256;

    /// Of operands of one shape.
    pub(super) fn of(out: &Tensor, others: &[Option<Tensor>]) -> Self {
        if out.is_contiguous() && others.iter().flatten().all(Tensor::is_contiguous) {
            let rows = out.numel().div_ceil(Self::TILE);
            let last = out.numel() - rows.saturating_sub(1) * Self::TILE;
            return Rows { rows, width: Self::TILE, last, cut: true };
        }
        Rows { rows: out.rows(), width: out.width, last: out.width, cut: false }
    }

    /// A launch that covers all elements.
    pub(super) fn launch(&self, kernel: &'static str) -> Launch {
        Launch::new(kernel, 1, Self::THREADS).grid(self.rows, tiles(self.width, Self::TILE), 1)
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn last(&self) -> usize {
        self.last
    }

    /// Elements from one row of an operand to the next.
    pub(super) fn pitch(&self, t: &Tensor) -> usize {
        if self.cut { self.width } else { t.pitch }
    }
}

/// Blocks along y for so many columns, for kernels that stride over the rest.
pub(super) fn tiles(columns: usize, of_a_block: usize) -> usize {
    columns.div_ceil(of_a_block).min(65_535)
}

pub fn naive(op: &Fill, places: &Places, out: &mut Vec<Launch>) {
    let rows = Rows::of(&op.out, &[]);
    out.push(
        rows.launch("fill_f32")
            .ptr(places.ptr(&op.out))
            .int(rows.width())
            .int(rows.last())
            .int(rows.pitch(&op.out))
            .float(op.value),
    );
}
