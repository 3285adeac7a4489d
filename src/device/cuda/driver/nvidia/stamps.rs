//! Points in the work of a stream, and the times between them as the GPU measures them.

use cudarc::driver::result::{DriverError, event};
use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};
use std::time::Duration;

/// Events that are used again and again.
#[derive(Default)]
pub struct Stamps {
    events: Vec<CUevent>,
    used: usize,
}

// SAFETY: events may be used from any thread.
unsafe impl Send for Stamps {}

impl Stamps {
    pub fn stamp(&mut self, stream: CUstream) -> Result<(), DriverError> {
        if self.used == self.events.len() {
            self.events.push(event::create(CUevent_flags::CU_EVENT_DEFAULT)?);
        }
        // SAFETY: the event lives as long as this value.
        unsafe { event::record(self.events[self.used], stream) }?;
        self.used += 1;
        Ok(())
    }

    /// Waits for the last stamp.
    pub fn read(&mut self, each: &mut dyn FnMut(Duration)) -> Result<(), DriverError> {
        let used = std::mem::take(&mut self.used);
        let Some(last) = used.checked_sub(1) else { return Ok(()) };
        // SAFETY: recorded on one stream, and not destroyed.
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
            // SAFETY: created in `stamp`; nothing waits for it any more.
            let _ = unsafe { event::destroy(event) };
        }
    }
}
