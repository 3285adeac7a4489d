//! Atomics on 32-bit words of global and shared memory. They use real atomics of the host, because blocks may run on
//! several cores at once.

use super::barriers::Then;
use super::block::{Block, Status};
use super::clocks::Actor;
use super::report::{Here, Pc};
use super::shadow::How;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// Returns the new value of a word that holds `old`, or `None` if the atomic does not write. `operation` is a number of
/// `emu::Atomic` in `shim.h`.
fn apply(operation: i32, old: u32, value: u32, compare: u32) -> Option<u32> {
    Some(match operation {
        0 => old.wrapping_add(value),
        1 => (f32::from_bits(old) + f32::from_bits(value)).to_bits(),
        2 => old.max(value),
        3 => old.min(value),
        4 => value,
        5 if old == compare => value,
        6 => old | value,
        7 => (old as i32).max(value as i32) as u32,
        8 => (old as i32).min(value as i32) as u32,
        _ => return None,
    })
}

/// Adds to an f32 that other threads may be adding to at the same time.
///
/// # Safety
/// `word` is a word of emulated memory, aligned to 4 bytes, and all concurrent accesses to it are atomics.
pub unsafe fn add_float(word: *mut u32, value: f32) {
    // SAFETY: the caller's promise.
    let word = unsafe { AtomicU32::from_ptr(word) };
    let _ = word.fetch_update(SeqCst, SeqCst, |old| apply(1, old, value.to_bits(), 0));
}

impl Block {
    /// Applies an atomic of the current thread. Returns the old value, and [`Then::Wait`] if the thread seems to be
    /// polling and should let others run; `None` if the access was reported.
    pub fn atomic(
        &mut self,
        (site, pc): (Here, Pc),
        address: u64,
        operation: i32,
        value: u32,
        compare: u32,
    ) -> Option<(u32, Then)> {
        if !address.is_multiple_of(4) {
            self.report(site.at(), "misaligned: the address of an atomic must be a multiple of 4");
            return None;
        }
        if self.options.checks && !self.access(Actor::Thread, (address, 4), How::Atomic, pc) {
            return None;
        }
        // SAFETY: an aligned word of emulated memory (with checks on, `access` has verified that; otherwise the caller
        // of the launch guarantees it), and all concurrent accesses to it are atomics.
        let word = unsafe { AtomicU32::from_ptr(address as *mut u32) };
        let done = word.fetch_update(SeqCst, SeqCst, |old| apply(operation, old, value, compare));
        let current = self.current;
        if let Some(clocks) = &mut self.clocks {
            // SAFETY: with checks on, blocks run one after another.
            let published = unsafe { &mut self.memory.as_mut().published };
            clocks.exchange(current, published.entry(address).or_default(), done.is_ok());
        }
        let (Ok(old) | Err(old)) = done;
        // An atomic that changes nothing counts as polling, as in a loop that waits for a bit to be set.
        if apply(operation, old, value, compare).is_some_and(|new| new != old) {
            return Some((old, Then::GoOn));
        }
        self.threads[current].status = Status::Spinning;
        Some((old, Then::Wait))
    }
}
