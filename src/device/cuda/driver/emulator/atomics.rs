//! Atomics on words of global and shared memory, with real ones of the host: blocks may run on several cores.

use super::block::{Block, Status};
use super::meeting::Then;
use super::report::{At, Here};
use super::shadow::How;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// The numbers of `emu::Atomic` in `shim.h`.
fn apply(operation: i32, old: u32, value: u32, compare: u32) -> Option<u32> {
    Some(match operation {
        0 => old.wrapping_add(value),
        1 => (f32::from_bits(old) + f32::from_bits(value)).to_bits(),
        2 => old.max(value),
        3 => old.min(value),
        4 | 7 => value,
        5 if old == compare => value,
        8 => old | value,
        _ => return None,
    })
}

impl Block {
    /// The old value, and whether the thread should let others run: it polls.
    pub fn atomic(
        &mut self,
        site: Here,
        address: u64,
        operation: i32,
        value: u32,
        compare: u32,
    ) -> Option<(u32, Then)> {
        if !address.is_multiple_of(4) {
            self.report(site.at(), "misaligned: an atomic on an address that is no multiple of 4");
            return None;
        }
        if self.options.checks {
            if !self.access(address, 4, How::Atomic, false, At::Here(site)) {
                return None;
            }
            let current = self.current;
            // SAFETY: with checks on, blocks run one after another.
            let memory = unsafe { self.memory.as_mut() };
            if let Some(clocks) = &mut self.clocks {
                clocks.exchange(current, memory.published.entry(address).or_default());
            }
        }
        // SAFETY: a word of emulated memory that is accessed by atomics while others may.
        let word = unsafe { AtomicU32::from_ptr(address as *mut u32) };
        let (old, changed) = match word.fetch_update(SeqCst, SeqCst, |old| apply(operation, old, value, compare)) {
            Ok(old) => (old, true),
            Err(old) => (old, false),
        };
        if changed {
            return Some((old, Then::GoOn));
        }
        self.threads[self.current].status = Status::Spinning;
        Some((old, Then::Wait))
    }
}
