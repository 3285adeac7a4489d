//! Tensor views: rows of equal width at a fixed pitch.

use super::DType;
use std::fmt;

/// A shape of up to four dimensions, outermost first.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; 4],
    rank: u8,
}

impl Shape {
    /// Returns the shape with these dimensions.
    ///
    /// # Panics
    /// When there are more than four dimensions. Ranks are fixed by the program and never read from a file.
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= 4, "a tensor has at most four dimensions");
        let mut all = [1; 4];
        all[..dims.len()].copy_from_slice(dims);
        Shape { dims: all, rank: dims.len() as u8 }
    }

    /// Returns the dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// Returns the number of elements. It saturates at `usize::MAX`, which is larger than any arena.
    pub fn numel(&self) -> usize {
        self.dims().iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Returns the shape with another last dimension. A scalar becomes a vector.
    #[must_use]
    pub fn with_last(mut self, size: usize) -> Self {
        self.rank = self.rank.max(1);
        self.dims[self.rank as usize - 1] = size;
        self
    }

    /// Returns the last dimension, or 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// What a view refers to: memory of a device, or a buffer of a tape that has no memory yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// An arena of a device, by the number that `Device::alloc` returned.
    Arena(u32),
    /// A numbered buffer of a tape. `tape::plan` turns it into an offset in the activation arena.
    Buffer(u32),
}

/// A view of memory as rows of `width` contiguous elements, each `pitch` elements after the previous one.
///
/// `width` is the product of one or more of the innermost dimensions. So a padded matrix, a column block of it (such as
/// Q in a fused QKV), and the same block as `[batch, time, heads, head size]` are all views, without strides for every
/// dimension.
///
/// Fields are private because devices rely on the invariants that the methods maintain: rows do not overlap
/// (`pitch >= width`), and the shape consists of whole rows. Whether a view lies inside its arena is checked by the
/// device (`device::bounds`).
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
    /// Returns a contiguous view with its first element at `offset`, in elements.
    pub fn new(place: Place, dtype: DType, offset: usize, dims: &[usize]) -> Self {
        let shape = Shape::new(dims);
        let width = shape.last();
        Tensor { place, dtype, offset, shape, width, pitch: width }
    }

    /// Returns the view with rows `pitch` elements apart.
    ///
    /// # Panics
    /// When `pitch` is smaller than the width of a row.
    #[must_use]
    pub fn with_pitch(mut self, pitch: usize) -> Self {
        assert!(pitch >= self.width, "rows may not overlap");
        self.pitch = pitch;
        self
    }

    /// Returns the same view of another arena or buffer.
    #[must_use]
    pub fn with_place(self, place: Place) -> Self {
        Tensor { place, ..self }
    }

    /// Returns the view with its first element at `offset`, in elements from the start of the arena or buffer.
    #[must_use]
    pub fn with_offset(self, offset: usize) -> Self {
        Tensor { offset, ..self }
    }

    /// Returns the view with another element type. Offset and pitch stay the same in elements.
    #[must_use]
    pub fn with_dtype(self, dtype: DType) -> Self {
        Tensor { dtype, ..self }
    }

    /// Returns the view with this width and pitch, unchecked, to test what `device::bounds` refuses.
    #[cfg(test)]
    pub(crate) fn unchecked(self, width: usize, pitch: usize) -> Self {
        Tensor { width, pitch, ..self }
    }

    /// Returns the arena or buffer.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Returns the element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the offset of the first element, in elements from the start of the arena or buffer.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Returns the number of elements in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the number of elements from the start of a row to the start of the next, which is at least `width`.
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    /// Returns the dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// Returns the number of elements. It saturates at `usize::MAX`.
    pub fn numel(&self) -> usize {
        self.shape.numel()
    }

    /// Returns the size of all elements in bytes, without row padding. It saturates at `usize::MAX`.
    pub fn bytes(&self) -> usize {
        self.numel().saturating_mul(self.dtype.bytes())
    }

    /// Returns the number of rows in memory.
    pub fn rows(&self) -> usize {
        self.numel().checked_div(self.width).unwrap_or(0)
    }

    /// Returns the number of elements from the first to one past the last, including row padding. It saturates at
    /// `usize::MAX`.
    pub fn extent(&self) -> usize {
        match self.rows() {
            0 => 0,
            rows => (rows - 1).saturating_mul(self.pitch).saturating_add(self.width),
        }
    }

    /// Returns whether there is no padding between rows.
    pub fn is_contiguous(&self) -> bool {
        self.width == self.pitch || self.rows() <= 1
    }

    /// Returns the byte range in the arena or buffer, including row padding. The end saturates at `usize::MAX`, which
    /// lies in no arena.
    pub fn byte_range(&self) -> std::ops::Range<usize> {
        let size = self.dtype.bytes();
        let end = self.offset.saturating_add(self.extent());
        self.offset.saturating_mul(size)..end.saturating_mul(size)
    }

    /// Returns the columns `start..start + len` of every row. The last dimension becomes `len`.
    ///
    /// # Panics
    /// When the columns lie outside the rows, or a row in memory is not one row of the last dimension.
    #[must_use]
    pub fn columns(&self, start: usize, len: usize) -> Self {
        let inside = start.checked_add(len).is_some_and(|end| end <= self.width);
        assert!(self.width == self.shape.last() && inside, "columns outside the rows");
        Tensor { offset: self.offset + start, shape: self.shape.with_last(len), width: len, ..*self }
    }

    /// Returns the rows `start..start + len` as a matrix `[len, width]`.
    ///
    /// # Panics
    /// When the rows lie outside the tensor.
    #[must_use]
    pub fn row_block(&self, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.rows()), "rows outside the tensor");
        Tensor { offset: self.offset + start * self.pitch, shape: Shape::new(&[len, self.width]), ..*self }
    }

    /// Returns the same elements with other dimensions. If rows are padded, they must stay whole.
    ///
    /// # Panics
    /// When the number of elements differs, or padded rows would be split or joined.
    #[must_use]
    pub fn reshape(&self, dims: &[usize]) -> Self {
        let shape = Shape::new(dims);
        assert_eq!(shape.numel(), self.numel(), "a reshape must keep the number of elements");
        if self.is_contiguous() {
            return Tensor { shape, width: shape.last(), pitch: shape.last(), ..*self };
        }
        let mut inner = 1usize;
        let whole = dims.iter().rev().any(|&d| {
            inner = inner.saturating_mul(d);
            inner == self.width
        });
        assert!(whole, "a reshape of padded rows must keep the rows whole");
        Tensor { shape, ..*self }
    }

    /// Returns whether the views may share memory. Views of equal pitch and type are compared by columns, so that Q, K
    /// and V of one fused buffer do not overlap. Other views count as overlapping if their byte ranges do.
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
        // The column, relative to a row of `self`, at which a row of `other` starts.
        let start = (other.offset % self.pitch + self.pitch - self.offset % self.pitch) % self.pitch;
        start < self.width || start + other.width > self.pitch
    }
}
