//! What `reference` and `cpu` share: arenas in host memory, checked views into them, captured lists of operations.

use super::arena::Arena;
use super::async_reads::AsyncReads;
use super::ops::Op;
use super::{Graph, Ticket, bounds};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

/// Memory and captured lists of a host device.
#[derive(Default)]
pub struct Host {
    /// By number; a number is given once.
    arenas: Vec<Option<Arena>>,
    graphs: Vec<Option<Captured>>,
    async_reads: AsyncReads,
}

/// A captured list.
struct Captured {
    /// Operations with their FLOPs.
    ops: Vec<(Op, u64)>,
    /// That their operands lie in.
    arenas: Vec<u32>,
}

impl Host {
    pub fn alloc(&mut self, bytes: usize) -> Result<u32> {
        self.arenas.push(Some(Arena::new(bytes)?));
        Ok(self.arenas.len() as u32 - 1)
    }

    pub fn free(&mut self, arena: u32) {
        if let Some(slot) = self.arenas.get_mut(arena as usize) {
            *slot = None;
        }
    }

    /// First byte of a view that lies within its arena.
    fn locate(&self, t: &Tensor) -> Result<NonNull<u8>> {
        let number = bounds::locate(t, |arena| self.bytes(arena))?;
        let Some(Some(arena)) = self.arenas.get(number as usize) else { bail!("{t:?} lies in no arena") };
        let range = t.byte_range();
        // SAFETY: `bounds::locate` has found the view's bytes within the arena's.
        Ok(unsafe { arena.start().add(range.start) })
    }

    /// A typed view.
    pub fn view<T: Element>(&self, t: &Tensor) -> Result<View<'_, T>> {
        if t.dtype() != T::DTYPE {
            bail!("{t:?} was taken for {:?}", T::DTYPE);
        }
        let start = self.locate(t)?.cast::<T>();
        if !start.is_aligned() {
            bail!("{t:?} is not aligned for {:?}", T::DTYPE);
        }
        Ok(View { start, rows: t.rows(), width: t.width(), pitch: t.pitch(), arena: PhantomData })
    }

    /// As [`Host::view`], to be read and written element by element on one thread.
    ///
    /// # Safety
    /// While cells of this host are there, nobody makes slices of its arenas, and no other thread reads or writes them.
    pub unsafe fn cells<T: Element>(&self, t: &Tensor) -> Result<Cells<'_, T>> {
        Ok(Cells { view: self.view(t)?, thread: PhantomData })
    }

    /// Operands fit each other, lie inside their arenas, and floats have the device's type.
    pub fn check(&self, op: &Op, float: DType) -> Result<()> {
        bounds::check(op, &[float], |arena| self.bytes(arena))
    }

    fn bytes(&self, arena: u32) -> Option<usize> {
        self.arenas.get(arena as usize)?.as_ref().map(Arena::bytes)
    }

    pub fn write(&mut self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        self.rows(to, bytes.len(), |row, at| {
            // SAFETY: `rows` gives each row inside the arena and inside `bytes`; `&mut self` excludes other access.
            unsafe { std::ptr::copy_nonoverlapping(bytes[at.clone()].as_ptr(), row, at.len()) }
        })
    }

    pub fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        self.rows(from, bytes.len(), |row, at| {
            // SAFETY: as in `write`; arenas are always initialised, and whoever writes them has `&mut self`.
            unsafe { std::ptr::copy_nonoverlapping(row, bytes[at.clone()].as_mut_ptr(), at.len()) }
        })
    }

    pub fn copy(&mut self, from: &Tensor, to: &Tensor) -> Result<()> {
        if (from.rows(), from.width(), from.dtype()) != (to.rows(), to.width(), to.dtype()) {
            bail!("{from:?} cannot be copied to {to:?}");
        }
        let (source, target) = (self.locate(from)?.as_ptr(), self.locate(to)?.as_ptr());
        let size = from.dtype().bytes();
        for row in 0..from.rows() {
            // SAFETY: both views lie inside their arenas (`locate`); `copy` allows them to overlap.
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

    pub fn read_async(&mut self, from: &Tensor) -> Result<Ticket> {
        // Before a place is taken.
        self.locate(from)?;
        let mut async_reads = std::mem::take(&mut self.async_reads);
        let posted = async_reads.read_async(from.bytes()).and_then(|(ticket, bytes)| {
            self.read(from, bytes)?;
            Ok(ticket)
        });
        self.async_reads = async_reads;
        posted
    }

    pub fn wait_read(&mut self, ticket: Ticket, bytes: &mut [u8]) -> Result<()> {
        self.async_reads.wait_read(ticket, bytes)
    }

    /// Calls `each` with the first byte of every row and where the row lies in a packed buffer.
    fn rows(&self, t: &Tensor, packed: usize, mut each: impl FnMut(*mut u8, Range<usize>)) -> Result<()> {
        let size = t.dtype().bytes();
        if packed != t.bytes() {
            bail!("{packed} bytes for {t:?}, which has {}", t.bytes());
        }
        let start = self.locate(t)?.as_ptr();
        let width = t.width() * size;
        for row in 0..t.rows() {
            // SAFETY: rows lie inside the view's byte range, which `locate` has checked.
            each(unsafe { start.add(row * t.pitch() * size) }, row * width..(row + 1) * width);
        }
        Ok(())
    }

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

    /// A captured list may be replayed.
    ///
    /// # Errors
    /// It was released, or an arena that it uses was freed.
    pub fn check_captured(&self, graph: Graph) -> Result<()> {
        bounds::check_arenas(&self.graph(graph)?.arenas, |arena| self.bytes(arena))
    }

    /// The operation number `i` of a captured list, and its FLOPs; `None` after the last.
    pub fn captured(&self, graph: Graph, i: usize) -> Result<Option<(Op, u64)>> {
        Ok(self.graph(graph)?.ops.get(i).copied())
    }

    fn graph(&self, graph: Graph) -> Result<&Captured> {
        match self.graphs.get(graph.0 as usize) {
            Some(Some(captured)) => Ok(captured),
            _ => bail!("this captured list was released"),
        }
    }

    pub fn release(&mut self, graph: Graph) {
        if let Some(slot) = self.graphs.get_mut(graph.0 as usize) {
            *slot = None;
        }
    }
}

/// Types that arenas hold.
pub trait Element: Copy + Send + Sync {
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}

elements!(f64 => F64, f32 => F32, i32 => I32, u32 => U32, u8 => U8);

/// Rows of elements somewhere in an arena. Shared by threads that write different rows.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    start: NonNull<T>,
    rows: usize,
    width: usize,
    pitch: usize,
    arena: PhantomData<&'a Host>,
}

// SAFETY: a view is a pointer into an arena that outlives it. Reading by `get` is safe on any thread, because all that write
// (`set`, `row_mut`, `span_mut`, and who uses `pointer`) promise that nobody reads there meanwhile.
unsafe impl<T: Send> Send for View<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for View<'_, T> {}

impl<'a, T: Element> View<'a, T> {
    #[inline(always)]
    pub fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements from one row to the next.
    #[inline(always)]
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    /// The element in row `r`, column `c`.
    #[inline]
    pub fn get(&self, r: usize, c: usize) -> T {
        assert!(r < self.rows && c < self.width);
        // SAFETY: in range, and initialised: arenas start as zeros.
        unsafe { self.start.as_ptr().add(r * self.pitch + c).read() }
    }

    /// # Safety
    /// Nobody else reads or writes this element meanwhile, and there is no slice of it.
    #[inline]
    pub unsafe fn set(&self, r: usize, c: usize, value: T) {
        assert!(r < self.rows && c < self.width);
        // SAFETY: in range; the rest is the caller's promise.
        unsafe { self.start.as_ptr().add(r * self.pitch + c).write(value) }
    }

    #[inline]
    pub fn pointer(&self) -> *mut T {
        self.start.as_ptr()
    }

    /// Row `r`.
    ///
    /// # Safety
    /// Nobody writes this row while the slice lives.
    #[inline(always)]
    pub unsafe fn row(&self, r: usize) -> &'a [T] {
        // SAFETY: the caller's promise.
        unsafe { self.span(r, 0..self.width) }
    }

    /// # Safety
    /// Nobody else reads or writes this row while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // The point of a view: threads write different rows of one arena.
    pub unsafe fn row_mut(&self, r: usize) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { self.span_mut(r, 0..self.width) }
    }

    /// A part of row `r`.
    ///
    /// # Safety
    /// Nobody writes these elements while the slice lives.
    #[inline(always)]
    pub unsafe fn span(&self, r: usize, columns: Range<usize>) -> &'a [T] {
        assert!(r < self.rows && columns.start <= columns.end && columns.end <= self.width);
        // SAFETY: in range and initialised; the rest is the caller's.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(r * self.pitch + columns.start), columns.len()) }
    }

    /// # Safety
    /// Nobody else reads or writes these elements while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // As in `row_mut`.
    pub unsafe fn span_mut(&self, r: usize, columns: Range<usize>) -> &'a mut [T] {
        assert!(r < self.rows && columns.start <= columns.end && columns.end <= self.width);
        // SAFETY: in range and initialised; the rest is the caller's.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr().add(r * self.pitch + columns.start), columns.len())
        }
    }
}

/// A [`View`] for plain loops: read and written element by element, like a slice of `Cell`s, and so on one thread alone.
#[derive(Clone, Copy)]
pub struct Cells<'a, T> {
    view: View<'a, T>,
    /// Neither `Send` nor `Sync`.
    thread: PhantomData<*const T>,
}

impl<T: Element> Cells<'_, T> {
    pub fn rows(&self) -> usize {
        self.view.rows
    }

    pub fn width(&self) -> usize {
        self.view.width
    }

    /// The element in row `r`, column `c`.
    #[inline]
    pub fn get(&self, r: usize, c: usize) -> T {
        self.view.get(r, c)
    }

    #[inline]
    pub fn set(&self, r: usize, c: usize, value: T) {
        // SAFETY: this thread alone reads and writes the arena, and there are no slices of it: the promise of the caller of
        // `Host::cells`.
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

    /// Rows interleave in memory: even ones are written, odd ones are read meanwhile.
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
                // SAFETY: this chunk alone writes row r of `to`, and `from` is only read.
                let (from, to) = unsafe { (from.row(r), to.row_mut(r)) };
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            });
        }
        assert_eq!(floats(&host, &even), [9.0; 64]);
        assert_eq!(floats(&host, &odd), [3.0; 64]);
    }

    /// As attention's heads do: threads have columns of the same rows.
    #[test]
    fn threads_share_rows_column_by_column() {
        let mut host = Host::default();
        let t = tensor(&mut host, &[4, 8]);
        let view = host.view::<f32>(&t).expect("a view");
        Pool::new(4).run(4, |c| {
            for r in 0..4 {
                // SAFETY: this chunk alone has these columns.
                unsafe { view.span_mut(r, 2 * c..2 * c + 2) }.fill(c as f32);
            }
        });
        assert_eq!(floats(&host, &t)[..8], [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
    }

    #[test]
    fn cells_read_what_other_cells_wrote() {
        let mut host = Host::default();
        let t = tensor(&mut host, &[2, 3]);
        // SAFETY: one thread, and no slices.
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
    fn captured_lists_end_with_their_arenas() {
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
