//! The allocator of the binary: it ends the process with a clear error when the system refuses memory.
//!
//! By default Rust aborts with SIGABRT and a message without a remedy, and stable Rust has no hook to change that. So the
//! check is here, before Rust sees the null pointer. Code that asks whether there is memory ([`memory::with_capacity`]) still
//! gets an error back.

use crate::{memory, signals};
use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, see the module.
pub struct Allocator;

fn checked(start: *mut u8, bytes: usize) -> *mut u8 {
    if start.is_null() && !memory::is_asking() {
        signals::out_of_memory(bytes);
    }
    start
}

// SAFETY: every call goes to the system's allocator as it came, and its answer comes back as it is. What happens in between
// when that is null takes no memory and does not return.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        checked(unsafe { System.realloc(start, layout, size) }, size)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(start, layout) }
    }
}
