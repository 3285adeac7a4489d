//! cp.async: asynchronous copies from global to shared memory, which a thread starts and waits for in groups.

use super::block::Block;
use super::clocks::Actor;
use super::options::Arrival;
use super::report::{Here, Pc};
use super::shadow::How;
use std::collections::VecDeque;

/// A copy that has not moved its bytes yet.
struct Copy {
    to: *mut u8,
    from: *const u8,
    bytes: usize,
    /// How many of the bytes come from global memory; the rest are filled with zeros.
    valid: usize,
}

impl Copy {
    /// Moves the bytes.
    ///
    /// # Safety
    /// Source and destination lie in emulated memory.
    unsafe fn arrive(&self) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            std::ptr::copy_nonoverlapping(self.from, self.to, self.valid);
            self.to.add(self.valid).write_bytes(0, self.bytes - self.valid);
        }
    }
}

/// The copies of a thread.
#[derive(Default)]
pub struct CpAsync {
    /// Copies since the last commit.
    open: Vec<Copy>,
    /// Committed groups and their numbers, the oldest first.
    groups: VecDeque<(u32, Vec<Copy>)>,
    /// The number of groups committed so far.
    committed: u32,
}

impl Block {
    /// The current thread starts a copy of `bytes` bytes, of which the first `valid` come from global memory. Returns
    /// false if it was reported.
    pub fn copy(&mut self, (site, pc): (Here, Pc), to: *mut u8, from: *const u8, bytes: usize, valid: usize) -> bool {
        // The source must be aligned even if no byte of it is read.
        if !(to as usize).is_multiple_of(bytes) || !(from as usize).is_multiple_of(bytes) {
            self.report(
                site.at(),
                format!(
                    "misaligned: the addresses of an asynchronous copy of {bytes} bytes must be multiples of {bytes}"
                ),
            );
            return false;
        }
        if !self.own().contains(to as u64) {
            self.report(site.at(), "the destination of an asynchronous copy is not in shared memory");
            return false;
        }
        if valid > 0 && self.is_shared(from as u64) {
            self.report(site.at(), "the source of an asynchronous copy must be in global memory");
            return false;
        }
        if self.options.checks {
            let read = valid == 0 || self.access(Actor::CpAsync, (from as u64, valid as u64), How::Read, pc);
            if !read || !self.access(Actor::CpAsync, (to as u64, bytes as u64), How::Write, pc) {
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
            // SAFETY: the destination was checked above, and with checks on the source too; otherwise the caller of the
            // launch guarantees it.
            unsafe { copy.arrive() };
        } else {
            self.threads[self.current].cp_async.open.push(copy);
        }
        true
    }

    /// Closes the current thread's group of copies.
    pub fn commit(&mut self) {
        let current = self.current;
        let copies = &mut self.threads[current].cp_async;
        copies.committed += 1;
        let group = std::mem::take(&mut copies.open);
        copies.groups.push_back((copies.committed, group));
        if let Some(clocks) = &mut self.clocks {
            clocks.commit(current);
        }
    }

    /// The current thread waits for all but its `in_flight` latest groups.
    pub fn wait(&mut self, in_flight: u32) {
        let current = self.current;
        let copies = &mut self.threads[current].cp_async;
        let done = copies.committed.saturating_sub(in_flight);
        while copies.groups.front().is_some_and(|(number, _)| *number <= done) {
            for copy in copies.groups.pop_front().into_iter().flat_map(|(_, group)| group) {
                // SAFETY: as in `copy`; shared memory lives as long as the block, and global memory longer.
                unsafe { copy.arrive() };
            }
        }
        if let Some(clocks) = &mut self.clocks {
            clocks.wait(current, done);
        }
    }
}
