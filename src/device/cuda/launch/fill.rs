//! Launch code of `fill` (`kernels/fill.cu`), and [`Rows`], by which all pointwise kernels divide their operands among
//! blocks.

use super::Launch;
use super::addresses::Addresses;
use super::elements::{typed, vector_len};
use crate::device::ops::Fill;
use crate::tensor::{DType, Place, Tensor};

/// The rows that a pointwise kernel sees; blockIdx.x is the row and blockIdx.y a tile of it. Contiguous operands are
/// treated as one run of elements and re-cut into rows of one tile, the last of which may be shorter.
pub(in crate::device::cuda) struct Rows {
    rows: usize,
    /// Elements of a row.
    width: usize,
    /// Elements of the last row.
    last: usize,
    /// Elements per block.
    tile: usize,
    /// Whether the operands are contiguous and were re-cut.
    cut: bool,
}

impl Rows {
    const THREADS: usize = 256;

    /// Divides operands of one shape, with four elements per thread.
    pub(in crate::device::cuda) fn of(out: &Tensor, others: &[Option<Tensor>]) -> Self {
        Self::tiled(out, others, 4)
    }

    /// Divides operands of one shape, with `each` elements per thread.
    pub(in crate::device::cuda) fn tiled(out: &Tensor, others: &[Option<Tensor>], each: usize) -> Self {
        let tile = each * Self::THREADS;
        if out.is_contiguous() && others.iter().flatten().all(Tensor::is_contiguous) {
            let rows = out.numel().div_ceil(tile);
            let last = out.numel() - rows.saturating_sub(1) * tile;
            return Rows { rows, width: tile, last, tile, cut: true };
        }
        Rows { rows: out.rows(), width: out.width(), last: out.width(), tile, cut: false }
    }

    /// Returns whether all rows, after re-cutting, start and end at multiples of `each` elements.
    pub(in crate::device::cuda) fn whole(out: &Tensor, others: &[Option<Tensor>], each: usize) -> bool {
        let mut all = others.iter().flatten().chain([out]);
        let cut = all.clone().all(Tensor::is_contiguous);
        let width = if cut { out.numel() } else { out.width() };
        width.is_multiple_of(each)
            && all.all(|t| t.offset().is_multiple_of(each) && (cut || t.pitch().is_multiple_of(each)))
    }

    /// Builds a launch that covers all elements, without parameters.
    pub(in crate::device::cuda) fn launch(&self, kernel: &'static str) -> Launch {
        Launch::new(kernel, 1, Self::THREADS as u32).grid(self.rows, tiles(self.width, self.tile), 1)
    }

    /// Returns the elements of a row.
    pub(in crate::device::cuda) fn width(&self) -> usize {
        self.width
    }

    /// Returns the elements of the last row.
    pub(in crate::device::cuda) fn last(&self) -> usize {
        self.last
    }

    /// Returns the elements from one row of an operand to the next.
    pub(in crate::device::cuda) fn pitch(&self, t: &Tensor) -> usize {
        if self.cut { self.width } else { t.pitch() }
    }
}

/// Returns the number of blocks along y for `columns` columns, at most CUDA's limit of 65,535. Kernels loop over what
/// is left.
pub(in crate::device::cuda) fn tiles(columns: usize, per_block: usize) -> usize {
    columns.div_ceil(per_block).min(65_535)
}

/// Variant `naive`: four elements per thread, any alignment.
pub fn naive(op: &Fill, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::of(&op.out, &[]);
    out.push(operands(rows.launch(typed(&op.out, "fill_f32", "fill_bf16")), &rows, op, addresses));
}

/// Returns whether all rows consist of whole, aligned 16-byte vectors, as `vector` needs.
pub fn is_whole(op: &Fill) -> bool {
    Rows::whole(&op.out, &[], vector_len(&op.out))
}

/// Variant `vector`: each thread makes four 16-byte stores.
pub fn vector(op: &Fill, addresses: &Addresses, out: &mut Vec<Launch>) {
    let rows = Rows::tiled(&op.out, &[], 4 * vector_len(&op.out));
    out.push(operands(rows.launch(typed(&op.out, "fill_vec16_f32", "fill_vec16_bf16")), &rows, op, addresses));
}

/// Builds a launch of `fill_vec16_f32` that zeroes scratch memory. `floats` must be a multiple of four.
pub(in crate::device::cuda) fn zeros(address: u64, floats: usize) -> Launch {
    let rows = Rows::tiled(&Tensor::new(Place::Arena(0), DType::F32, 0, &[floats]), &[], 16);
    let launch = rows.launch("fill_vec16_f32").ptr(address);
    launch.int(rows.width()).int(rows.last()).int(rows.width()).float(0.0)
}

/// Appends the kernel's parameters.
fn operands(launch: Launch, rows: &Rows, op: &Fill, addresses: &Addresses) -> Launch {
    launch.ptr(addresses.ptr(&op.out)).int(rows.width()).int(rows.last()).int(rows.pitch(&op.out)).float(op.value)
}
