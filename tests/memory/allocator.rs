//! The global allocator of this binary: the system's, counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that are allocated, and the most that were since [`peak`] began.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Allocations of all threads while `COUNTING`, and the call stack of the first.
static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static FIRST: Mutex<String> = Mutex::new(String::new());

thread_local! {
    /// Capturing a call stack allocates, too.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Held by each test of this binary: another test would allocate at the same time.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns how many allocations all threads make in `work`, and the call stack of the first.
pub fn allocations(work: impl FnOnce()) -> (usize, String) {
    ALLOCATIONS.store(0, Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    work();
    COUNTING.store(false, Ordering::SeqCst);
    (ALLOCATIONS.load(Ordering::SeqCst), std::mem::take(&mut *FIRST.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Returns the most bytes that are allocated at once in `work`, beyond what was allocated before.
pub fn peak(work: impl FnOnce()) -> usize {
    let before = LIVE.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    work();
    PEAK.load(Ordering::SeqCst) - before
}

fn grown(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::SeqCst) + bytes;
    PEAK.fetch_max(live, Ordering::SeqCst);
    if !COUNTING.load(Ordering::SeqCst) || BUSY.replace(true) {
        return;
    }
    let stack = Backtrace::force_capture().to_string();
    // On a busy machine a worker thread may start only now. The standard library then allocates once, for the guard of the thread's
    // stack, before any code of ours runs.
    let late_worker = stack.contains("stack_overflow::imp::make_handler");
    if !late_worker && ALLOCATIONS.fetch_add(1, Ordering::SeqCst) == 0 {
        *FIRST.lock().unwrap_or_else(PoisonError::into_inner) = stack;
    }
    BUSY.set(false);
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        LIVE.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}
