//! The global allocator of this test binary: the system allocator plus counters.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes currently allocated, and their maximum since the last call to [`peak`] began.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Number of allocations on all threads while `COUNTING` is set, and the backtrace of the first one.
static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static FIRST: Mutex<String> = Mutex::new(String::new());

thread_local! {
    /// Set while this thread captures a backtrace, which itself allocates.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Returns how many allocations all threads make during `work`, and the backtrace of the first one.
pub fn allocations(work: impl FnOnce()) -> (usize, String) {
    ALLOCATIONS.store(0, Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    work();
    COUNTING.store(false, Ordering::SeqCst);
    (ALLOCATIONS.load(Ordering::SeqCst), std::mem::take(&mut *FIRST.lock().unwrap_or_else(PoisonError::into_inner)))
}

/// Returns the peak number of bytes allocated during `work`, beyond what was allocated before it.
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
    // On a busy machine a worker thread may start only now. The standard library then allocates once, for the stack
    // guard of the thread, before any of our code runs.
    let late_worker = stack.contains("stack_overflow::imp::make_handler");
    if !late_worker && ALLOCATIONS.fetch_add(1, Ordering::SeqCst) == 0 {
        *FIRST.lock().unwrap_or_else(PoisonError::into_inner) = stack;
    }
    BUSY.set(false);
}

// SAFETY: every call is forwarded to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        LIVE.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.dealloc(start, layout) }
    }
}
