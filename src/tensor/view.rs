//! Views: where elements lie, as rows of equal width at a fixed pitch.

use super::DType;
use std::fmt;

/// Up to four dimensions, row-major, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 4],
    rank: u8,
}

impl Shape {
    /// # Panics
    /// With more than four dimensions: the rank of a tensor is written in the program, never read from a file.
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= 4, "a tensor has at most four dimensions");
        let mut all = [1; 4];
        all[..dims.len()].copy_from_slice(dims);
        Shape { dims: all, rank: dims.len() as u8 }
    }

    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// Number of elements. One beyond `usize` is `usize::MAX`, which no arena holds.
    pub fn numel(&self) -> usize {
        self.dims().iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// The same but for the last dimension; a scalar gets one.
    #[must_use]
    pub fn with_last(mut self, size: usize) -> Self {
        self.rank = self.rank.max(1);
        self.dims[self.rank as usize - 1] = size;
        self
    }

    /// The last dimension.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// What a view looks into: memory of a device, or a buffer that the tape has not yet placed in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// An allocation of a device, by the number that `Device::alloc` gave.
    Arena(u32),
    /// A numbered activation of a tape; `tape::plan` turns it into an offset of the activation arena.
    Buffer(u32),
}

/// A view of elements as `rows` of `width` contiguous elements, each row `pitch` elements after the one before.
///
/// `width` is the product of the innermost dimensions, so that a padded matrix, a column block of it (Q in a fused
/// QKV) and the same block seen as `[batch, time, heads, head size]` are all views without strides to carry.
///
/// Fields are private because devices rely on what the methods keep: rows do not overlap (`pitch >= width`), and whole rows
/// make up the shape. Whether a view lies inside its arena, only the device can tell (`device::bounds`).
///
/// ```compile_fail,E0616
/// use vcycle::tensor::{DType, Place, Tensor};
/// let mut t = Tensor::new(Place::Arena(0), DType::F32, 0, &[64, 64]);
/// t.pitch = 1;
/// ```
/// ```compile_fail,E0451
/// use vcycle::tensor::{DType, Place, Tensor};
/// let t = Tensor::new(Place::Arena(0), DType::F32, 0, &[64, 64]);
/// let rows_that_overlap = Tensor { pitch: 1, ..t };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tensor {
    place: Place,
    dtype: DType,
    offset: usize,
    shape: Shape,
    width: usize,
    pitch: usize,
}

impl Tensor {
    /// A contiguous view.
    pub fn new(place: Place, dtype: DType, offset: usize, dims: &[usize]) -> Self {
        let shape = Shape::new(dims);
        let width = shape.last();
        Tensor { place, dtype, offset, shape, width, pitch: width }
    }

    /// The same with rows (the last dimension) `pitch` elements apart.
    #[must_use]
    pub fn with_pitch(mut self, pitch: usize) -> Self {
        assert!(pitch >= self.width, "rows may not overlap");
        self.pitch = pitch;
        self
    }

    /// The same view of another arena or buffer.
    #[must_use]
    pub fn with_place(self, place: Place) -> Self {
        Tensor { place, ..self }
    }

    /// The same view with its first element elsewhere, in elements from the start of the arena or buffer.
    #[must_use]
    pub fn with_offset(self, offset: usize) -> Self {
        Tensor { offset, ..self }
    }

    /// As many elements of another type, at the same offset and pitch counted in elements.
    #[must_use]
    pub fn with_dtype(self, dtype: DType) -> Self {
        Tensor { dtype, ..self }
    }

    /// With this width and pitch, unchecked: for tests of what `device::bounds` refuses.
    #[cfg(test)]
    pub(crate) fn unchecked(self, width: usize, pitch: usize) -> Self {
        Tensor { width, pitch, ..self }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Of the first element, in elements from the start of the arena or buffer.
    pub fn offset(&self) -> usize {
        self.offset
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Elements of a row, which are contiguous.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements from the start of a row to the start of the next; at least `width`.
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// Bytes of all elements, without the gaps between rows. Beyond `usize` they are `usize::MAX`.
    pub fn bytes(&self) -> usize {
        self.numel().saturating_mul(self.dtype.bytes())
    }

    pub fn rows(&self) -> usize {
        self.numel().checked_div(self.width).unwrap_or(0)
    }

    /// Elements from the first to one past the last. Beyond `usize` it is `usize::MAX`.
    pub fn extent(&self) -> usize {
        match self.rows() {
            0 => 0,
            rows => (rows - 1).saturating_mul(self.pitch).saturating_add(self.width),
        }
    }

    pub fn is_contiguous(&self) -> bool {
        self.width == self.pitch || self.rows() <= 1
    }

    /// Byte range within the arena or buffer, gaps between rows included. An end beyond `usize` is `usize::MAX`, which lies in
    /// no arena.
    pub fn byte_range(&self) -> std::ops::Range<usize> {
        let size = self.dtype.bytes();
        let end = self.offset.saturating_add(self.extent());
        self.offset.saturating_mul(size)..end.saturating_mul(size)
    }

    /// The columns `start..start + len` of every row; the last dimension becomes `len`.
    #[must_use]
    pub fn columns(&self, start: usize, len: usize) -> Self {
        let inside = start.checked_add(len).is_some_and(|end| end <= self.width);
        assert!(self.width == self.shape.last() && inside, "columns outside the rows");
        Tensor { offset: self.offset + start, shape: self.shape.with_last(len), width: len, ..*self }
    }

    /// The rows `start..start + len` as a matrix `[len, width]`.
    #[must_use]
    pub fn row_block(&self, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.rows()), "rows outside the tensor");
        Tensor { offset: self.offset + start * self.pitch, shape: Shape::new(&[len, self.width]), ..*self }
    }

    /// Other dimensions over the same elements; rows that lie apart must stay whole.
    #[must_use]
    pub fn reshape(&self, dims: &[usize]) -> Self {
        let shape = Shape::new(dims);
        assert_eq!(shape.numel(), self.numel(), "a reshape keeps the number of elements");
        if self.is_contiguous() {
            return Tensor { shape, width: shape.last(), pitch: shape.last(), ..*self };
        }
        let mut inner = 1usize;
        let whole = dims.iter().rev().any(|&d| {
            inner = inner.saturating_mul(d);
            inner == self.width
        });
        assert!(whole, "a reshape of rows that lie apart keeps the rows");
        Tensor { shape, ..*self }
    }

    /// True when an element of `self` is an element of `other` too. Views of equal pitch are compared by columns, so Q,
    /// K and V of one fused buffer do not overlap.
    pub fn overlaps(&self, other: &Tensor) -> bool {
        if self.place != other.place || self.numel() == 0 || other.numel() == 0 {
            return false;
        }
        let (a, b) = (self.byte_range(), other.byte_range());
        if a.end <= b.start || b.end <= a.start {
            return false;
        }
        if self.pitch != other.pitch || self.dtype != other.dtype || self.is_contiguous() {
            return true;
        }
        // Where a row of `other` begins, seen from a row of `self`, in columns.
        let start = (other.offset % self.pitch + self.pitch - self.offset % self.pitch) % self.pitch;
        start < self.width || start + other.width > self.pitch
    }
}
