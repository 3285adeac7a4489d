//! The allocator of the binary: where the system refuses memory, the process ends with a sentence.
//!
//! Rust ends a process that gets no memory by SIGABRT, with a message that says nothing about what to do, and it lets no
//! stable code say more. So this happens here, before Rust learns of it. Code that asks whether there is memory
//! ([`memory::with_capacity`]) gets its answer.

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
