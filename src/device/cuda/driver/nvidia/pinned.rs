//! Host memory that the GPU copies by itself, while the host goes on.

use cudarc::driver::result::{self, DriverError, event};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};
use std::ffi::c_void;
use std::ptr::null_mut;

/// One buffer, and the event after the last copy that used it.
pub struct Pinned {
    start: *mut c_void,
    capacity: usize,
    /// Bytes in use.
    pub len: usize,
    done: CUevent,
    /// Posted and not collected.
    pub taken: bool,
}

// SAFETY: the buffer is owned by this value as a `Vec<u8>` owns its own; events may be used from any thread.
unsafe impl Send for Pinned {}

impl Pinned {
    /// An empty buffer of the current context.
    pub fn new() -> Result<Self, DriverError> {
        let done = event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        Ok(Pinned { start: null_mut(), capacity: 0, len: 0, done, taken: false })
    }

    /// Waits for the last copy, then sees to room for `len` bytes.
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

    /// The bytes in use, after `reserve` or `wait`: no copy is under way.
    pub fn bytes(&mut self) -> &mut [u8] {
        if self.start.is_null() {
            return &mut [];
        }
        // SAFETY: `reserve` has allocated at least `len` bytes, and copies were waited for.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }

    pub fn pointer(&self) -> *mut c_void {
        self.start
    }

    /// To be called right after trying to start a copy with this buffer on `stream`; `copy` is how that went.
    pub fn started(&mut self, copy: Result<(), DriverError>, stream: CUstream) -> Result<(), DriverError> {
        // SAFETY: the event lives as long as this value, and the stream as long as the driver that has both.
        let recorded = copy.and_then(|()| unsafe { event::record(self.done, stream) });
        if recorded.is_err() {
            self.abandon(stream);
        }
        recorded
    }

    /// Without an event, nothing tells whether the copy still goes on: waits for all of the stream, and where that fails too,
    /// leaves the buffer to it for good.
    fn abandon(&mut self, stream: CUstream) {
        // SAFETY: as in `started`.
        if unsafe { result::stream::synchronize(stream) }.is_err() {
            (self.start, self.capacity, self.len) = (null_mut(), 0, 0);
        }
    }

    /// Waits for the last copy. An event that was never recorded is complete.
    pub fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: as in `started`.
        unsafe { event::synchronize(self.done) }
    }

    fn free(&mut self) {
        if !self.start.is_null() {
            // SAFETY: allocated in `reserve`; no copy is under way, because callers have waited for the last one.
            let _ = unsafe { result::free_host(self.start) };
        }
        (self.start, self.capacity, self.len) = (null_mut(), 0, 0);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A buffer whose copy may still go on is left to it.
        if self.wait().is_ok() {
            self.free();
        }
        // SAFETY: created in `new`, and nothing waits for it any more.
        let _ = unsafe { event::destroy(self.done) };
    }
}
