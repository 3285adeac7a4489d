//! Time stamps in a stream, measured by CUDA events.

use cudarc::driver::result::{DriverError, event};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};
use std::time::Duration;

/// The time stamps since the last [`read`](Stamps::read). Events are reused.
#[derive(Default)]
pub struct Stamps {
    events: Vec<CUevent>,
    used: usize,
}

// SAFETY: events may be used from any thread.
unsafe impl Send for Stamps {}

impl Stamps {
    /// Records a time stamp behind the work in flight on the stream.
    pub fn stamp(&mut self, stream: CUstream) -> Result<(), DriverError> {
        if self.used == self.events.len() {
            self.events.push(event::create(CUevent_flags::CU_EVENT_DEFAULT)?);
        }
        // SAFETY: the event lives as long as this value.
        unsafe { event::record(self.events[self.used], stream) }?;
        self.used += 1;
        Ok(())
    }

    /// Waits for the last time stamp, calls `each` with the time between consecutive ones, and discards them.
    pub fn read(&mut self, each: &mut dyn FnMut(Duration)) -> Result<(), DriverError> {
        let used = std::mem::take(&mut self.used);
        let Some(last) = used.checked_sub(1) else { return Ok(()) };
        // SAFETY: the events were recorded on one stream and have not been destroyed.
        unsafe { event::synchronize(self.events[last]) }?;
        for pair in self.events[..used].windows(2) {
            // SAFETY: as above.
            let milliseconds = unsafe { event::elapsed(pair[0], pair[1]) }?;
            each(Duration::try_from_secs_f32(milliseconds / 1e3).unwrap_or_default());
        }
        Ok(())
    }
}

impl Drop for Stamps {
    fn drop(&mut self) {
        for event in self.events.drain(..) {
            // SAFETY: created in `stamp` and not used any more.
            let _ = unsafe { event::destroy(event) };
        }
    }
}
