//! The allocator of the binary: it ends the process with a clear error when an allocation fails.
//!
//! By default Rust aborts with SIGABRT and a message without a remedy, and stable Rust has no hook to change that. The
//! allocator therefore checks for null before Rust sees it. Fallible allocations ([`memory::with_capacity`]) still
//! return an error.

use crate::{memory, signals};
use std::alloc::{GlobalAlloc, Layout, System};

/// The system allocator, which ends the process with exit code 2 on a failed allocation.
pub struct Allocator;

fn checked(start: *mut u8, bytes: usize) -> *mut u8 {
    if start.is_null() && !memory::is_fallible_allocation() {
        signals::out_of_memory(bytes);
    }
    start
}

// SAFETY: every call is forwarded to the system allocator and its result returned unchanged. The code that handles a
// null pointer does not allocate, and does not return.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        checked(unsafe { System.realloc(start, layout, size) }, size)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `GlobalAlloc`.
        unsafe { System.dealloc(start, layout) }
    }
}
