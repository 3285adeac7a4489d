//! Runs a case and checks that it ends without a panic, in time, within a memory limit, and with a useful message.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
use vcycle::error::Result;

/// Limit on the memory of all tests of this binary together. Allocations beyond it fail as if memory had run out:
/// fallible allocations return an error, and others abort this binary.
const MEMORY_LIMIT: usize = 1 << 30;
/// Memory beyond the limit for small allocations. A case may reach the limit by design (a huge batch); small allocations of
/// the tests that run at the same time, which may not fail, must not abort the binary then.
const RESERVE: usize = 256 << 20;
/// Larger allocations have no part of the reserve.
const SMALL: usize = 1 << 20;
/// Timeout of a case. Cases take milliseconds, but the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(20);

struct LimitedAllocator;

static LIVE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The largest single allocation that this thread requested.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn admit(bytes: usize) -> bool {
    LARGEST.set(LARGEST.get().max(bytes));
    let limit = if bytes <= SMALL { MEMORY_LIMIT + RESERVE } else { MEMORY_LIMIT };
    let fits = LIVE.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= limit;
    if !fits {
        LIVE.fetch_sub(bytes, Ordering::Relaxed);
    }
    fits
}

// SAFETY: every admitted call is forwarded to the system allocator unchanged, and null reports a failed allocation.
unsafe impl GlobalAlloc for LimitedAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        if admit(layout.size()) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        if admit(layout.size()) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !admit(size) {
            return std::ptr::null_mut();
        }
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: LimitedAllocator = LimitedAllocator;

/// A temporary folder, in memory where the system has `/dev/shm`, because tests write and sync many hundred files.
pub fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

pub fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a test file");
}

/// Runs a case that reads `file`. Returns what the program read, or its error message, after checking that the message
/// is useful.
pub fn judge<T: Send + 'static>(
    file: &str,
    case: &str,
    run: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, String> {
    let (send, receive) = mpsc::channel();
    // The stack size of a program's main thread.
    let worker = thread::Builder::new().stack_size(8 << 20).spawn(move || {
        let done = run();
        // The receiver is gone after the deadline.
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
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{file}, {case}: still running after {DEADLINE:?}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{file}, {case}: panicked"),
    }
}

/// As [`judge`], but also checks that the case's thread requests at most `most` bytes in one allocation.
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
        assert!(LARGEST.get() <= most, "{name}: requested {} bytes at once", LARGEST.get());
        done
    })
}

/// Asserts that a message names the file and says what to do: after a semicolon, or implicitly, by naming a line of the
/// file or a file that is missing or unreadable.
pub fn assert_useful(file: &str, case: &str, message: &str) {
    assert!(message.contains(file), "{case}: the message does not name {file}: {message}");
    assert!(message.len() < 10_000, "{case}: a message of {} bytes", message.len());
    let helps = ["; ", "cannot read", " line "].iter().any(|part| message.contains(part));
    assert!(helps, "{file}, {case}: the message does not say what to do: {message}");
}
