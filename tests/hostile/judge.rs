//! Runs a case and sees to it that it ends well: no panic, in time, within memory, and with a useful message.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
use vcycle::error::Result;

/// All memory that the tests of this binary may have together. Whoever wants more gets none, as where it has run out: code
/// that asks politely says so, and other code ends this binary.
const BUDGET: usize = 1 << 30;
/// Cases take milliseconds; the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(20);

struct MemoryEstimate;

static LIVE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The most that this thread asked for at once.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn admit(bytes: usize) -> bool {
    LARGEST.set(LARGEST.get().max(bytes));
    let fits = LIVE.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= BUDGET;
    if !fits {
        LIVE.fetch_sub(bytes, Ordering::Relaxed);
    }
    fits
}

// SAFETY: every call that is let through goes to the system's allocator as it came, and null means no memory.
unsafe impl GlobalAlloc for MemoryEstimate {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        if admit(layout.size()) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        if admit(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !admit(size) {
            return std::ptr::null_mut();
        }
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: MemoryEstimate = MemoryEstimate;

/// A temporary folder, in memory where the system has a place for that: what is accepted is then written and synced, many
/// hundred times.
pub fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a test file");
}

/// Runs a case that reads `file`. `Ok` is what it accepted; `Err` is its message, which is a good one.
pub fn judge<T: Send + 'static>(
    file: &str,
    case: &str,
    run: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, String> {
    let (send, receive) = mpsc::channel();
    // As much stack as the main thread of a program has.
    let worker = thread::Builder::new().stack_size(8 << 20).spawn(move || {
        let done = run();
        // Nobody listens after the deadline.
        let _ = send.send(done);
    });
    let worker = worker.expect("a thread");
    match receive.recv_timeout(DEADLINE) {
        Ok(Ok(accepted)) => {
            worker.join().expect("it has ended");
            Ok(accepted)
        }
        Ok(Err(error)) => {
            let message = error.to_string();
            assert_useful(file, case, &message);
            Err(message)
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{file}, {case}: no end after {DEADLINE:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{file}, {case}: a panic"),
    }
}

/// As [`judge`], of a case that may ask for at most so many bytes at once, on its own thread.
pub fn judge_within<T: Send + 'static>(
    most: usize,
    file: &str,
    case: &str,
    run: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, String> {
    let name = format!("{file}, {case}");
    judge(file, case, move || {
        LARGEST.set(0);
        let done = run();
        assert!(LARGEST.get() <= most, "{name}: asked for {} bytes at once", LARGEST.get());
        done
    })
}

/// A message names the file and what to do: after a semicolon, or because the place says it (a line of the file, a missing
/// or unreadable file).
pub fn assert_useful(file: &str, case: &str, message: &str) {
    assert!(message.contains(file), "{case}: the message does not name {file}: {message}");
    assert!(message.len() < 10_000, "{case}: a message of {} bytes", message.len());
    let helps = ["; ", "cannot read", " line "].iter().any(|part| message.contains(part));
    assert!(helps, "{file}, {case}: the message does not say what to do: {message}");
}
