//! Atomics on words of global and shared memory, with real ones of the host: blocks may run on several cores.

use super::barriers::Then;
use super::block::{Block, Status};
use super::clocks::Actor;
use super::report::{Here, Pc};
use super::shadow::How;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// The numbers of `emu::Atomic` in `shim.h`.
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

/// Adds to a word that others may add to meanwhile.
///
/// # Safety
/// A word of emulated memory, at a multiple of 4, that nobody else accesses but by atomics.
pub unsafe fn add_float(word: *mut u32, value: f32) {
    // SAFETY: the caller's promise.
    let word = unsafe { AtomicU32::from_ptr(word) };
    let _ = word.fetch_update(SeqCst, SeqCst, |old| apply(1, old, value.to_bits(), 0));
}

impl Block {
    /// The old value, and whether the thread should let others run: it polls.
    pub fn atomic(
        &mut self,
        (site, pc): (Here, Pc),
        address: u64,
        operation: i32,
        value: u32,
        compare: u32,
    ) -> Option<(u32, Then)> {
        if !address.is_multiple_of(4) {
            self.report(site.at(), "misaligned: an atomic on an address that is no multiple of 4");
            return None;
        }
        if self.options.checks && !self.access(Actor::Thread, (address, 4), How::Atomic, pc) {
            return None;
        }
        // SAFETY: a word of emulated memory (`access` with checks on, else the promise of who launches), aligned, and accessed by
        // atomics alone while others may.
        let word = unsafe { AtomicU32::from_ptr(address as *mut u32) };
        let done = word.fetch_update(SeqCst, SeqCst, |old| apply(operation, old, value, compare));
        let current = self.current;
        if let Some(clocks) = &mut self.clocks {
            // SAFETY: with checks on, blocks run one after another.
            let published = unsafe { &mut self.memory.as_mut().published };
            clocks.exchange(current, published.entry(address).or_default(), done.is_ok());
        }
        let (Ok(old) | Err(old)) = done;
        // One that changes nothing polls, as in a loop until some bit is set.
        if apply(operation, old, value, compare).is_some_and(|new| new != old) {
            return Some((old, Then::GoOn));
        }
        self.threads[current].status = Status::Spinning;
        Some((old, Then::Wait))
    }
}
