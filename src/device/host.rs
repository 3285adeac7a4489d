//! What `reference` and `cpu` share: arenas in host memory, checked views into them, captured lists of operations.

use super::ops::Op;
use super::posts::Posts;
use super::{Graph, Ticket, bounds};
use crate::bail;
use crate::error::{Error, Result};
use crate::memory;
use crate::tensor::{DType, Tensor};
use memmap2::MmapMut;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

/// Cache lines, and the widest vector load.
const ALIGNMENT: usize = 64;
/// Smaller arenas gain nothing by large pages.
#[cfg(target_os = "linux")]
const LARGE_PAGE: usize = 2 << 20;

struct Arena {
    start: NonNull<u8>,
    bytes: usize,
    /// Owns the memory.
    _pages: MmapMut,
}

// SAFETY: an arena owns its allocation as a `Vec<u8>` does; access goes through the `Host` that holds it.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Zeros, in pages as large as the system gives: fewer faults at first touch, fewer misses of the translation buffer.
    fn new(bytes: usize) -> Result<Self> {
        if bytes > isize::MAX as usize {
            return Err(Error::new(format!(
                "an arena of {bytes} bytes is beyond any memory; use a smaller batch or model"
            )));
        }
        memory::require(bytes)?;
        let mut pages = MmapMut::map_anon(bytes.max(ALIGNMENT)).map_err(|_| memory::refused(bytes))?;
        #[cfg(target_os = "linux")]
        if bytes >= LARGE_PAGE {
            // A wish: a system without large pages goes on with small ones.
            let _ = pages.advise(memmap2::Advice::HugePage);
        }
        let start = NonNull::new(pages.as_mut_ptr()).ok_or_else(|| memory::refused(bytes))?;
        Ok(Arena { start, bytes: bytes.max(ALIGNMENT), _pages: pages })
    }
}

/// Memory and captured lists of a host device.
#[derive(Default)]
pub struct Host {
    arenas: Vec<Option<Arena>>,
    /// Operations with their FLOPs.
    graphs: Vec<Option<Vec<(Op, u64)>>>,
    posts: Posts,
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
        // SAFETY: the offset is within the allocation.
        Ok(unsafe { arena.start.add(range.start) })
    }

    /// A typed view.
    pub fn view<T: Element>(&self, t: &Tensor) -> Result<View<'_, T>> {
        if t.dtype() != T::DTYPE {
            bail!("{t:?} was taken for {:?}", T::DTYPE);
        }
        let start = self.locate(t)?.cast();
        Ok(View { start, rows: t.rows(), width: t.width(), pitch: t.pitch(), arena: PhantomData })
    }

    /// Operands fit each other, lie inside their arenas, and floats have the device's type.
    pub fn check(&self, op: &Op, float: DType) -> Result<()> {
        bounds::check(op, &[float], |arena| self.bytes(arena))
    }

    fn bytes(&self, arena: u32) -> Option<usize> {
        self.arenas.get(arena as usize)?.as_ref().map(|arena| arena.bytes)
    }

    pub fn write(&mut self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        self.rows(to, bytes.len(), |row, at| {
            // SAFETY: `rows` gives each row inside the arena and inside `bytes`; `&mut self` excludes other access.
            unsafe { std::ptr::copy_nonoverlapping(bytes[at.clone()].as_ptr(), row, at.len()) }
        })
    }

    pub fn read(&self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        self.rows(from, bytes.len(), |row, at| {
            // SAFETY: as in `write`; arenas are always initialised.
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
            // SAFETY: both views lie inside their arenas; `copy` allows them to overlap.
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

    pub fn post(&mut self, from: &Tensor) -> Result<Ticket> {
        let mut posts = std::mem::take(&mut self.posts);
        let posted = posts.post(from.bytes()).and_then(|(ticket, bytes)| {
            self.read(from, bytes)?;
            Ok(ticket)
        });
        self.posts = posts;
        posted
    }

    pub fn collect(&mut self, ticket: Ticket, bytes: &mut [u8]) -> Result<()> {
        self.posts.collect(ticket, bytes)
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
        self.graphs.push(Some(ops.iter().map(|op| (*op, op.cost().flops)).collect()));
        Ok(Graph(self.graphs.len() as u32 - 1))
    }

    /// The operation number `i` of a captured list, and its FLOPs; `None` after the last.
    pub fn captured(&self, graph: Graph, i: usize) -> Result<Option<(Op, u64)>> {
        match self.graphs.get(graph.0 as usize) {
            Some(Some(ops)) => Ok(ops.get(i).copied()),
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
    pub rows: usize,
    pub width: usize,
    pub pitch: usize,
    arena: PhantomData<&'a Host>,
}

// SAFETY: a view is a pointer into an arena that outlives it; who writes which rows is the duty of `row_mut`'s callers.
unsafe impl<T: Send> Send for View<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for View<'_, T> {}

impl<'a, T: Element> View<'a, T> {
    /// The element in row `r`, column `c`.
    #[inline]
    pub fn get(&self, r: usize, c: usize) -> T {
        assert!(r < self.rows && c < self.width);
        // SAFETY: in range, and initialised: arenas start as zeros.
        unsafe { self.start.as_ptr().add(r * self.pitch + c).read() }
    }

    #[inline]
    pub fn set(&self, r: usize, c: usize, value: T) {
        assert!(r < self.rows && c < self.width);
        // SAFETY: in range; `Op::check` lets no other operand of the operation be read through a reference meanwhile.
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
