//! Shared by `reference` and `cpu`: arenas in host memory, checked views into them, and captured lists of operations.

use super::arena::Arena;
use super::async_reads::AsyncReads;
use super::ops::Op;
use super::{Graph, PendingRead, bounds};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

/// The memory and captured lists of a host device.
#[derive(Default)]
pub struct Host {
    /// Indexed by arena number; `None` once freed, because numbers are never reused.
    arenas: Vec<Option<Arena>>,
    graphs: Vec<Option<Captured>>,
    async_reads: AsyncReads,
}

/// A captured list.
struct Captured {
    /// The operations, each with its FLOPs.
    ops: Vec<(Op, u64)>,
    /// The arenas that their operands lie in.
    arenas: Vec<u32>,
}

impl Host {
    /// Implements [`Device::alloc`](super::Device::alloc).
    pub fn alloc(&mut self, bytes: usize) -> Result<u32> {
        self.arenas.push(Some(Arena::new(bytes)?));
        Ok(self.arenas.len() as u32 - 1)
    }

    /// Implements [`Device::free`](super::Device::free).
    pub fn free(&mut self, arena: u32) {
        if let Some(slot) = self.arenas.get_mut(arena as usize) {
            *slot = None;
        }
    }

    /// Checks that a view lies inside its arena and returns the address of its first byte.
    fn locate(&self, t: &Tensor) -> Result<NonNull<u8>> {
        let number = bounds::locate(t, |arena| self.bytes(arena))?;
        let Some(Some(arena)) = self.arenas.get(number as usize) else { bail!("{t:?} does not lie in an arena") };
        let range = t.byte_range();
        // SAFETY: `bounds::locate` checked that the view's bytes lie inside the arena.
        Ok(unsafe { arena.start().add(range.start) })
    }

    /// Returns a typed view of a tensor.
    ///
    /// # Errors
    /// When `T` is not the tensor's type, or the tensor does not lie inside an arena or is not aligned for `T`.
    pub fn view<T: Element>(&self, t: &Tensor) -> Result<View<'_, T>> {
        if t.dtype() != T::DTYPE {
            bail!("{t:?} cannot be viewed as {:?}", T::DTYPE);
        }
        let start = self.locate(t)?.cast::<T>();
        if !start.is_aligned() {
            bail!("{t:?} is not aligned for {:?}", T::DTYPE);
        }
        Ok(View { start, rows: t.rows(), width: t.width(), pitch: t.pitch(), arena: PhantomData })
    }

    /// Like [`Host::view`], for reading and writing element by element on one thread.
    ///
    /// # Safety
    /// While cells of this host exist, nothing may create slices of its arenas, and no other thread may read or write
    /// them.
    pub unsafe fn cells<T: Element>(&self, t: &Tensor) -> Result<Cells<'_, T>> {
        Ok(Cells { view: self.view(t)?, thread: PhantomData })
    }

    /// Checks that the operands of an operation fit each other, lie inside their arenas, and have floats of type
    /// `float`.
    pub fn check(&self, op: &Op, float: DType) -> Result<()> {
        bounds::check(op, &[float], |arena| self.bytes(arena))
    }

    /// Returns the size of an arena, or `None` if it was freed.
    fn bytes(&self, arena: u32) -> Option<usize> {
        self.arenas.get(arena as usize)?.as_ref().map(Arena::bytes)
    }

    /// Implements [`Device::write`](super::Device::write).
    pub fn write(&mut self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        self.rows(to, bytes.len(), |row, at| {
            // SAFETY: `rows` yields rows inside the arena and inside `bytes`; `&mut self` excludes other accesses.
            unsafe { std::ptr::copy_nonoverlapping(bytes[at.clone()].as_ptr(), row, at.len()) }
        })
    }

    /// Implements [`Device::read`](super::Device::read).
    pub fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        self.rows(from, bytes.len(), |row, at| {
            // SAFETY: as in `write`. Arenas are always initialised, and writing to them requires `&mut self`.
            unsafe { std::ptr::copy_nonoverlapping(row, bytes[at.clone()].as_mut_ptr(), at.len()) }
        })
    }

    /// Implements [`Device::copy`](super::Device::copy). The tensors may overlap here.
    pub fn copy(&mut self, from: &Tensor, to: &Tensor) -> Result<()> {
        if (from.rows(), from.width(), from.dtype()) != (to.rows(), to.width(), to.dtype()) {
            bail!("cannot copy {from:?} to {to:?}: they differ in rows, width or type");
        }
        let (source, target) = (self.locate(from)?.as_ptr(), self.locate(to)?.as_ptr());
        let size = from.dtype().bytes();
        for row in 0..from.rows() {
            // SAFETY: both views lie inside their arenas (`locate`), and `ptr::copy` allows them to overlap.
            unsafe {
                std::ptr::copy(
                    source.add(row * from.pitch() * size),
                    target.add(row * to.pitch() * size),
                    from.width() * size,
                )
            }
        }
        Ok(())
    }

    /// Implements [`Device::read_async`](super::Device::read_async).
    pub fn read_async(&mut self, from: &Tensor) -> Result<PendingRead> {
        // A refused read must not occupy a slot.
        self.locate(from)?;
        let mut async_reads = std::mem::take(&mut self.async_reads);
        let ticket = async_reads.read_async(from.bytes()).and_then(|(ticket, bytes)| {
            self.read(from, bytes)?;
            Ok(ticket)
        });
        self.async_reads = async_reads;
        ticket
    }

    /// Implements [`Device::wait_read`](super::Device::wait_read).
    pub fn wait_read(&mut self, ticket: PendingRead, bytes: &mut [u8]) -> Result<()> {
        self.async_reads.wait_read(ticket, bytes)
    }

    /// Calls `each` for every row with the address of its first byte and its byte range in a packed buffer of `packed`
    /// bytes.
    fn rows(&self, t: &Tensor, packed: usize, mut each: impl FnMut(*mut u8, Range<usize>)) -> Result<()> {
        let size = t.dtype().bytes();
        if packed != t.bytes() {
            bail!("a buffer of {packed} bytes does not match {t:?}, which has {}", t.bytes());
        }
        let start = self.locate(t)?.as_ptr();
        let width = t.width() * size;
        for row in 0..t.rows() {
            // SAFETY: rows lie inside the view's byte range, which `locate` checked.
            each(unsafe { start.add(row * t.pitch() * size) }, row * width..(row + 1) * width);
        }
        Ok(())
    }

    /// Implements [`Device::capture`](super::Device::capture); `float` is the float type of the device.
    pub fn capture(&mut self, ops: &[Op], float: DType) -> Result<Graph> {
        for op in ops {
            self.check(op, float)?;
        }
        bounds::check_list(ops)?;
        let arenas = bounds::arenas(ops);
        let ops = ops.iter().map(|op| (*op, op.cost().flops)).collect();
        self.graphs.push(Some(Captured { ops, arenas }));
        Ok(Graph(self.graphs.len() as u32 - 1))
    }

    /// Checks that a captured list can be replayed.
    ///
    /// # Errors
    /// When the list was released or one of its arenas was freed.
    pub fn check_captured(&self, graph: Graph) -> Result<()> {
        bounds::check_arenas(&self.graph(graph)?.arenas, |arena| self.bytes(arena))
    }

    /// Returns operation `i` of a captured list and its FLOPs, or `None` past the last operation.
    ///
    /// # Errors
    /// When the list was released.
    pub fn captured(&self, graph: Graph, i: usize) -> Result<Option<(Op, u64)>> {
        Ok(self.graph(graph)?.ops.get(i).copied())
    }

    fn graph(&self, graph: Graph) -> Result<&Captured> {
        match self.graphs.get(graph.0 as usize) {
            Some(Some(captured)) => Ok(captured),
            _ => bail!("this captured list was released"),
        }
    }

    /// Implements [`Device::release`](super::Device::release).
    pub fn release(&mut self, graph: Graph) {
        if let Some(slot) = self.graphs.get_mut(graph.0 as usize) {
            *slot = None;
        }
    }
}

/// Rust types of the elements that arenas hold.
pub trait Element: Copy + Send + Sync {
    /// The element type of tensors that hold this type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}

elements!(f64 => F64, f32 => F32, i32 => I32, u32 => U32, u8 => U8);

/// A typed view of rows of elements in an arena. Threads that write different rows may share it.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    start: NonNull<T>,
    rows: usize,
    width: usize,
    pitch: usize,
    arena: PhantomData<&'a Host>,
}

// SAFETY: a view is a pointer into an arena that outlives it. Reading with `get` is safe on any thread, because callers
// of everything that writes (`set`, `row_mut`, `span_mut`, writes through `pointer`) guarantee that nothing else
// accesses those elements at the same time.
unsafe impl<T: Send> Send for View<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for View<'_, T> {}

impl<'a, T: Element> View<'a, T> {
    /// Returns the number of rows.
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of elements in a row.
    #[inline(always)]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the number of elements from the start of one row to the start of the next.
    #[inline(always)]
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    /// Returns the element in row `r`, column `c`.
    #[inline]
    pub fn get(&self, r: usize, c: usize) -> T {
        assert!(r < self.rows && c < self.width);
        // SAFETY: in range, and initialised: arenas start as zeros.
        unsafe { self.start.as_ptr().add(r * self.pitch + c).read() }
    }

    /// Writes the element in row `r`, column `c`.
    ///
    /// # Safety
    /// Nothing else may read or write this element at the same time, and no slice may contain it.
    #[inline]
    pub unsafe fn set(&self, r: usize, c: usize, value: T) {
        assert!(r < self.rows && c < self.width);
        // SAFETY: in range; the caller guarantees the rest.
        unsafe { self.start.as_ptr().add(r * self.pitch + c).write(value) }
    }

    /// Returns the address of the first element.
    #[inline]
    pub fn pointer(&self) -> *mut T {
        self.start.as_ptr()
    }

    /// Returns row `r`.
    ///
    /// # Safety
    /// Nothing may write to this row while the slice lives.
    #[inline(always)]
    pub unsafe fn row(&self, r: usize) -> &'a [T] {
        // SAFETY: guaranteed by the caller.
        unsafe { self.span(r, 0..self.width) }
    }

    /// Returns row `r` for writing.
    ///
    /// # Safety
    /// Nothing else may read or write this row while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // The purpose of a view: threads write different rows of one arena.
    pub unsafe fn row_mut(&self, r: usize) -> &'a mut [T] {
        // SAFETY: guaranteed by the caller.
        unsafe { self.span_mut(r, 0..self.width) }
    }

    /// Returns a range of columns of row `r`.
    ///
    /// # Safety
    /// Nothing may write to these elements while the slice lives.
    #[inline(always)]
    pub unsafe fn span(&self, r: usize, columns: Range<usize>) -> &'a [T] {
        assert!(r < self.rows && columns.start <= columns.end && columns.end <= self.width);
        // SAFETY: in range and initialised; the caller guarantees the rest.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(r * self.pitch + columns.start), columns.len()) }
    }

    /// Returns a range of columns of row `r` for writing.
    ///
    /// # Safety
    /// Nothing else may read or write these elements while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // As in `row_mut`.
    pub unsafe fn span_mut(&self, r: usize, columns: Range<usize>) -> &'a mut [T] {
        assert!(r < self.rows && columns.start <= columns.end && columns.end <= self.width);
        // SAFETY: in range and initialised; the caller guarantees the rest.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr().add(r * self.pitch + columns.start), columns.len())
        }
    }
}

/// A [`View`] for simple loops on a single thread: like a slice of `Cell`s, it is read and written element by element.
#[derive(Clone, Copy)]
pub struct Cells<'a, T> {
    view: View<'a, T>,
    /// Makes this type neither `Send` nor `Sync`.
    thread: PhantomData<*const T>,
}

impl<T: Element> Cells<'_, T> {
    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.view.rows
    }

    /// Returns the number of elements in a row.
    pub fn width(&self) -> usize {
        self.view.width
    }

    /// Returns the element in row `r`, column `c`.
    #[inline]
    pub fn get(&self, r: usize, c: usize) -> T {
        self.view.get(r, c)
    }

    /// Writes the element in row `r`, column `c`.
    #[inline]
    pub fn set(&self, r: usize, c: usize, value: T) {
        // SAFETY: the caller of `Host::cells` guarantees that only this thread accesses the arena and that no slices of
        // it exist.
        unsafe { self.view.set(r, c, value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::pool::Pool;
    use crate::device::ops::{Accumulate, Fill};
    use crate::tensor::Place;

    fn tensor(host: &mut Host, dims: &[usize]) -> Tensor {
        let t = Tensor::new(Place::Arena(0), DType::F32, 0, dims);
        t.with_place(Place::Arena(host.alloc(t.bytes()).expect("memory")))
    }

    fn floats(host: &Host, t: &Tensor) -> Vec<f32> {
        let mut values = vec![0.0; t.numel()];
        host.read(t, bytemuck::cast_slice_mut(&mut values)).expect("read");
        values
    }

    /// Rows interleave in memory: even rows are written while odd rows are read.
    #[test]
    fn threads_share_an_arena_row_by_row() {
        let mut host = Host::default();
        let whole = tensor(&mut host, &[16, 8]);
        let odd = Tensor::new(whole.place(), DType::F32, 8, &[8, 8]).with_pitch(16);
        let even = odd.with_offset(0);
        host.write(&odd, bytemuck::cast_slice(&[3.0f32; 64])).expect("written");
        let pool = Pool::new(3);
        for _ in 0..3 {
            let (from, to) = (host.view::<f32>(&odd).expect("a view"), host.view::<f32>(&even).expect("a view"));
            pool.run(8, |r| {
                // SAFETY: only this chunk writes row r of `to`, and `from` is only read.
                let (from, to) = unsafe { (from.row(r), to.row_mut(r)) };
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            });
        }
        assert_eq!(floats(&host, &even), [9.0; 64]);
        assert_eq!(floats(&host, &odd), [3.0; 64]);
    }

    /// Like the heads of attention, threads write different columns of the same rows.
    #[test]
    fn threads_share_rows_column_by_column() {
        let mut host = Host::default();
        let t = tensor(&mut host, &[4, 8]);
        let view = host.view::<f32>(&t).expect("a view");
        Pool::new(4).run(4, |c| {
            for r in 0..4 {
                // SAFETY: only this chunk accesses these columns.
                unsafe { view.span_mut(r, 2 * c..2 * c + 2) }.fill(c as f32);
            }
        });
        assert_eq!(floats(&host, &t)[..8], [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    }

    #[test]
    fn cells_read_what_other_cells_wrote() {
        let mut host = Host::default();
        let t = tensor(&mut host, &[2, 3]);
        // SAFETY: there is one thread, and no slices exist.
        let (a, b) = unsafe { (host.cells::<f32>(&t).expect("cells"), host.cells::<f32>(&t).expect("cells")) };
        a.set(1, 2, 5.0);
        b.set(0, 0, b.get(1, 2) + 1.0);
        assert_eq!((a.get(0, 0), a.rows(), a.width()), (6.0, 2, 3));
    }

    #[test]
    fn views_are_of_one_type_and_within_their_arena() {
        let mut host = Host::default();
        let t = tensor(&mut host, &[3, 5]);
        assert!(host.view::<f32>(&t.with_offset(1)).is_err() && host.view::<f64>(&t).is_err());
        let last = host.view::<f32>(&t.row_block(2, 1)).expect("a view");
        assert_eq!(last.get(0, 4), 0.0);
        let none = tensor(&mut host, &[0]);
        assert_eq!((host.view::<f32>(&none).expect("a view").rows(), floats(&host, &none).len()), (0, 0));
    }

    #[test]
    fn rows_that_overlap_are_refused_once_more() {
        let mut host = Host::default();
        let t = tensor(&mut host, &[64, 64]);
        let overlapping = t.unchecked(64, 1);
        for wrong in [overlapping, t.unchecked(63, 64), t.unchecked(0, 64)] {
            let text = host.view::<f32>(&wrong).map(|_| ()).expect_err("a refusal").to_string();
            assert!(text.contains("overlap"), "{text}");
        }
        assert!(host.check(&Fill { out: overlapping, value: 1.0 }.into(), DType::F32).is_err());
        assert!(host.copy(&overlapping, &t).is_err());
    }

    #[test]
    fn copies_may_overlap() {
        let mut host = Host::default();
        let t = tensor(&mut host, &[8]);
        let numbers: Vec<f32> = (0..8).map(|i| i as f32).collect();
        host.write(&t, bytemuck::cast_slice(&numbers)).expect("written");
        let part = |start| t.columns(start, 6);
        host.copy(&part(0), &part(2)).expect("copied");
        assert_eq!(floats(&host, &t), [0.0, 1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn captured_lists_are_refused_once_an_arena_is_freed() {
        let mut host = Host::default();
        let (x, out) = (tensor(&mut host, &[4]), tensor(&mut host, &[4]));
        let ops = [Fill { out: x, value: 1.0 }.into(), Accumulate { x, out, add: true }.into()];
        let list = host.capture(&ops, DType::F32).expect("captured");
        host.check_captured(list).expect("replayed");
        assert_eq!(host.captured(list, 1).expect("there").map(|(op, _)| op), Some(ops[1]));
        assert!(host.captured(list, 2).expect("there").is_none());
        let Place::Arena(arena) = x.place() else { panic!("no arena") };
        host.free(arena);
        let again = tensor(&mut host, &[4]);
        assert!(again.place() != x.place() && host.check_captured(list).is_err() && host.view::<f32>(&x).is_err());
        host.release(list);
        assert!(host.captured(list, 0).is_err());
    }
}
