//! cp.async: copies that a thread starts and waits for in groups.

use super::block::Block;
use super::clocks::Actor;
use super::options::Arrival;
use super::report::{Here, Pc};
use super::shadow::How;
use std::collections::VecDeque;

/// One copy that has not moved its bytes yet.
struct Copy {
    to: *mut u8,
    from: *const u8,
    bytes: usize,
    /// Of these, how many come from global memory; the rest is zeros.
    valid: usize,
}

impl Copy {
    /// # Safety
    /// Both ends lie in emulated memory.
    unsafe fn arrive(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            std::ptr::copy_nonoverlapping(self.from, self.to, self.valid);
            self.to.add(self.valid).write_bytes(0, self.bytes - self.valid);
        }
    }
}

/// A thread's copies.
#[derive(Default)]
pub struct CpAsync {
    open: Vec<Copy>,
    /// Committed groups by number, the oldest first.
    groups: VecDeque<(u32, Vec<Copy>)>,
    /// Groups that were committed.
    committed: u32,
}

impl Block {
    /// The current thread starts a copy; false when it was reported.
    pub fn copy(&mut self, (site, pc): (Here, Pc), to: *mut u8, from: *const u8, bytes: usize, valid: usize) -> bool {
        // Of the source too, be no byte of it read.
        if !(to as usize).is_multiple_of(bytes) || !(from as usize).is_multiple_of(bytes) {
            self.report(
                site.at(),
                format!("misaligned: both ends of an asynchronous copy of {bytes} bytes are multiples of {bytes}"),
            );
            return false;
        }
        if !self.own().contains(to as u64) {
            self.report(site.at(), "an asynchronous copy to an address that is not in shared memory");
            return false;
        }
        if valid > 0 && self.is_shared(from as u64) {
            self.report(site.at(), "an asynchronous copy from shared memory: its source is global memory");
            return false;
        }
        if self.options.checks {
            let read = valid == 0 || self.access(Actor::Copy, (from as u64, valid as u64), How::Read, pc);
            if !read || !self.access(Actor::Copy, (to as u64, bytes as u64), How::Write, pc) {
                return false;
            }
        }
        let copy = Copy { to, from, bytes, valid };
        let now = match self.options.arrival {
            Arrival::Eager => true,
            Arrival::Lazy => false,
            Arrival::Random => self.random.coin(),
        };
        if now {
            // SAFETY: the destination was checked above; the source too with checks on, else it is the promise of who launches.
            unsafe { copy.arrive() };
        } else {
            self.threads[self.current].copies.open.push(copy);
        }
        true
    }

    pub fn commit(&mut self) {
        let current = self.current;
        let copies = &mut self.threads[current].copies;
        copies.committed += 1;
        let group = std::mem::take(&mut copies.open);
        copies.groups.push_back((copies.committed, group));
        if let Some(clocks) = &mut self.clocks {
            clocks.commit(current);
        }
    }

    /// All but the `in_flight` latest groups have arrived.
    pub fn wait(&mut self, in_flight: u32) {
        let current = self.current;
        let copies = &mut self.threads[current].copies;
        let done = copies.committed.saturating_sub(in_flight);
        while copies.groups.front().is_some_and(|(number, _)| *number <= done) {
            for copy in copies.groups.pop_front().into_iter().flat_map(|(_, group)| group) {
                // SAFETY: as in `copy`; shared memory lives as long as the block, and global memory as long as the launch.
                unsafe { copy.arrive() };
            }
        }
        if let Some(clocks) = &mut self.clocks {
            clocks.wait(current, done);
        }
    }
}
