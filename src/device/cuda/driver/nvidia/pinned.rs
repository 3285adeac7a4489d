//! Page-locked (pinned) host memory, which the GPU copies from and to asynchronously.

use cudarc::driver::result::{self, DriverError, event};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};
use std::ffi::c_void;
use std::ptr::null_mut;

/// A pinned buffer, and an event that marks the end of the last copy that used it.
pub struct Pinned {
    start: *mut c_void,
    capacity: usize,
    /// Bytes in use.
    pub len: usize,
    done: CUevent,
    /// Whether the buffer belongs to an asynchronous read that has not been waited for.
    pub taken: bool,
}

// SAFETY: the buffer is owned by this value as a `Vec<u8>` owns its own; events may be used from any thread.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Creates an empty buffer in the current context.
    pub fn new() -> Result<Self, DriverError> {
        let done = event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        Ok(Pinned { start: null_mut(), capacity: 0, len: 0, done, taken: false })
    }

    /// Waits for the last copy, then makes the buffer `len` bytes long. Reallocates only to grow.
    pub fn reserve(&mut self, len: usize) -> Result<(), DriverError> {
        self.wait()?;
        if len > self.capacity {
            self.free();
            // SAFETY: page-locked memory of the current context, freed in `free`.
            self.start = unsafe { result::malloc_host(len, 0) }?;
            self.capacity = len;
        }
        self.len = len;
        Ok(())
    }

    /// Returns the bytes in use. Call it only after `reserve` or `wait`, so that no copy is under way.
    pub fn bytes(&mut self) -> &mut [u8] {
        if self.start.is_null() {
            return &mut [];
        }
        // SAFETY: `reserve` allocated at least `len` bytes, and the caller has waited for all copies.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }

    /// Returns the address of the buffer.
    pub fn pointer(&self) -> *mut c_void {
        self.start
    }

    /// Records the event behind a copy. Must be called right after the call that starts a copy with this buffer on
    /// `stream`; `copy` is the result of that call.
    pub fn started(&mut self, copy: Result<(), DriverError>, stream: CUstream) -> Result<(), DriverError> {
        // SAFETY: the event lives as long as this value, and the stream as long as the driver that has both.
        let recorded = copy.and_then(|()| unsafe { event::record(self.done, stream) });
        if recorded.is_err() {
            self.abandon(stream);
        }
        recorded
    }

    /// Handles a copy without an event, whose end is unknown: waits for the whole stream and, if that fails too, leaks
    /// the buffer because the copy may still be using it.
    fn abandon(&mut self, stream: CUstream) {
        // SAFETY: the stream lives as long as the driver.
        if unsafe { result::stream::synchronize(stream) }.is_err() {
            (self.start, self.capacity, self.len) = (null_mut(), 0, 0);
        }
    }

    /// Waits for the last copy. An event that was never recorded is complete.
    pub fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: as in `started`.
        unsafe { event::synchronize(self.done) }
    }

    /// Frees the buffer. No copy may be under way.
    fn free(&mut self) {
        if !self.start.is_null() {
            // SAFETY: allocated in `reserve`. No copy is under way, because callers have waited for the last one.
            let _ = unsafe { result::free_host(self.start) };
        }
        (self.start, self.capacity, self.len) = (null_mut(), 0, 0);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // If the wait fails, the copy may still be running, so the buffer is leaked.
        if self.wait().is_ok() {
            self.free();
        }
        // SAFETY: created in `new` and not used any more.
        let _ = unsafe { event::destroy(self.done) };
    }
}
