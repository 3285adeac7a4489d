//! Tests of memory allocation. A separate test binary, because it replaces the global allocator with a counting one.

mod allocator;
mod no_alloc;
mod preparing;
#[cfg(target_os = "linux")]
mod steps;
mod tensorboard;
