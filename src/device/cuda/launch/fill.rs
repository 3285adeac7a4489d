//! `fill`, and how all pointwise kernels cut their operands.

use super::Launch;
use super::addresses::Addresses;
use super::elements::{each, typed};
use crate::device::ops::Fill;
use crate::tensor::{DType, Place, Tensor};

/// Rows of elements, a row of blocks for each. Operands without gaps are one run of elements, which is cut into short
/// rows, of which the last may be shorter still.
pub(in crate::device::cuda) struct Rows {
    rows: usize,
    width: usize,
    /// Elements of the last row.
    last: usize,
    /// Elements of a block.
    tile: usize,
    cut: bool,
}

impl Rows {
    const THREADS: usize = 256;

    /// Of operands of one shape, with four elements for each thread.
    pub(in crate::device::cuda) fn of(out: &Tensor, others: &[Option<Tensor>]) -> Self {
        Self::tiled(out, others, 4)
    }

    /// With so many elements for each thread.
    pub(in crate::device::cuda) fn tiled(out: &Tensor, others: &[Option<Tensor>], each: usize) -> Self {
        let tile = each * Self::THREADS;
        if out.is_contiguous() && others.iter().flatten().all(Tensor::is_contiguous) {
            let rows = out.numel().div_ceil(tile);
            let last = out.numel() - rows.saturating_sub(1) * tile;
            return Rows { rows, width: tile, last, tile, cut: true };
        }
        Rows { rows: out.rows(), width: out.width(), last: out.width(), tile, cut: false }
    }

    /// Whether all rows, once cut, begin and end at multiples of so many elements.
    pub(in crate::device::cuda) fn whole(out: &Tensor, others: &[Option<Tensor>], each: usize) -> bool {
        let mut all = others.iter().flatten().chain([out]);
        let cut = all.clone().all(Tensor::is_contiguous);
        let width = if cut { out.numel() } else { out.width() };
        width.is_multiple_of(each)
            && all.all(|t| t.offset().is_multiple_of(each) && (cut || t.pitch().is_multiple_of(each)))
    }

    /// A launch that covers all elements.
    pub(in crate::device::cuda) fn launch(&self, kernel: &'static str) -> Launch {
        Launch::new(kernel, 1, Self::THREADS as u32).grid(self.rows, tiles(self.width, self.tile), 1)
    }

    pub(in crate::device::cuda) fn width(&self) -> usize {
        self.width
    }

    pub(in crate::device::cuda) fn last(&self) -> usize {
        self.last
    }

    /// Elements from one row of an operand to the next.
    pub(in crate::device::cuda) fn pitch(&self, t: &Tensor) -> usize {
        if self.cut { self.width } else { t.pitch() }
    }
}

/// Blocks along y for so many columns, for kernels that stride over the rest.
pub(in crate::device::cuda) fn tiles(columns: usize, of_a_block: usize) -> usize {
    columns.div_ceil(of_a_block).min(65_535)
}

pub fn naive(op: &Fill, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::of(&op.out, &[]);
    out.push(operands(rows.launch(typed(&op.out, "fill_f32", "fill_bf16")), &rows, op, addresses));
}

pub fn is_whole(op: &Fill) -> bool {
    Rows::whole(&op.out, &[], each(&op.out))
}

/// Four 16-byte stores for each thread.
pub fn vector(op: &Fill, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::tiled(&op.out, &[], 4 * each(&op.out));
    out.push(operands(rows.launch(typed(&op.out, "fill_vector_f32", "fill_vector_bf16")), &rows, op, addresses));
}

/// Zeros into so many floats of scratch memory, a multiple of four, by `fill_vector_f32`.
pub(in crate::device::cuda) fn zeros(address: u64, floats: usize) -> Launch {
    let rows = Rows::tiled(&Tensor::new(Place::Arena(0), DType::F32, 0, &[floats]), &[], 16);
    let launch = rows.launch("fill_vector_f32").ptr(address);
    launch.int(rows.width()).int(rows.last()).int(rows.width()).float(0.0)
}

fn operands(launch: Launch, rows: &Rows, op: &Fill, addresses: &Addresses) -> Launch {
    launch.ptr(addresses.ptr(&op.out)).int(rows.width()).int(rows.last()).int(rows.pitch(&op.out)).float(op.value)
}
