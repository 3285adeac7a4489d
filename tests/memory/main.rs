//! What is allocated, and when. A binary of its own, because its global allocator counts.

mod allocator;
mod no_alloc;
mod preparing;
#[cfg(target_os = "linux")]
mod steps;
mod tensorboard;
