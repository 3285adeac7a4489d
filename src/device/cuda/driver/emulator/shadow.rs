//! Shadow memory: for every word, which bytes have been written, which threads last wrote and read it, and from which
//! line.
//!
//! A race is two accesses to a byte, at least one of them a write and not both atomic, neither of which happens before
//! the other according to [`Clocks`]. A word remembers two writers and four readers. If there are more unordered
//! readers, it keeps readers of different warps: a writer that races with a reader then races with one of those, unless
//! it is ordered after the four warps that are kept but not after a fifth.

use super::clocks::{Clocks, Stamp, Who};
use super::report::Pc;

/// An access that is remembered.
#[derive(Clone, Copy, Default)]
struct Slot {
    stamp: Stamp,
    /// The packed [`Pc`] of the access.
    pc: u32,
}

/// The accesses to a word that are remembered.
#[derive(Clone, Copy, Default)]
struct Cell {
    writes: [Slot; 2],
    reads: [Slot; 4],
}

/// The kind of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Read,
    Write,
    /// An atomic read-modify-write.
    Atomic,
}

/// What is wrong with an access.
pub enum Defect {
    /// It reads bytes that were never written.
    Uninitialised,
    /// It races with another access.
    Race {
        other: Stamp,
        /// Whether the other access was a write.
        wrote: bool,
        /// Where the other access was made.
        pc: Pc,
    },
    /// TMA or wgmma accesses what a thread has written, without a proxy fence in between.
    Proxy { other: Stamp, pc: Pc },
}

/// The shadow memory of one allocation.
pub struct Shadow {
    cells: Vec<Cell>,
    /// For each word, one bit for each byte that has been written.
    written: Vec<u8>,
    /// Shared memory: accesses of other instances are ignored, because each has its own.
    private: bool,
}

impl Shadow {
    /// Creates shadow memory for `bytes` bytes of global memory, all marked as written.
    pub fn global(bytes: usize) -> Self {
        let words = bytes.div_ceil(4);
        Shadow { cells: vec![Cell::default(); words], written: vec![15; words], private: false }
    }

    /// Creates shadow memory for `bytes` bytes of shared memory, none marked as written.
    pub fn shared(bytes: usize) -> Self {
        let words = bytes.div_ceil(4);
        Shadow { cells: vec![Cell::default(); words], written: vec![0; words], private: true }
    }

    /// Forgets all accesses, but not which bytes have been written.
    pub fn forget(&mut self) {
        self.cells.fill(Cell::default());
    }

    /// Marks bytes as written or unwritten.
    pub fn mark(&mut self, start: usize, bytes: usize, written: bool) {
        for_words(start, bytes, |word, mask| {
            let old = &mut self.written[word];
            *old = if written { *old | mask } else { *old & !mask };
        });
    }

    /// Checks and remembers an access of `bytes` bytes at `start`. If it has several defects, returns one of them.
    pub fn access(
        &mut self,
        clocks: &Clocks,
        who: Who,
        how: How,
        (start, bytes): (usize, usize),
        pc: Pc,
    ) -> Option<Defect> {
        let mut defect = None;
        for_words(start, bytes, |word, mask| {
            if how != How::Write && self.written[word] & mask != mask {
                defect.get_or_insert(Defect::Uninitialised);
            }
            if how != How::Read {
                self.written[word] |= mask;
            }
            let cell = &mut self.cells[word];
            if self.private {
                cell.retain(clocks.instance);
            }
            let found = cell.access(clocks, who, how, mask, pc, self.private);
            if defect.is_none() {
                defect = found;
            }
        });
        defect
    }
}

/// Calls `each` for every word that an access touches, with the number of the word and one bit for each of its bytes.
fn for_words(start: usize, bytes: usize, mut each: impl FnMut(usize, u8)) {
    let mut at = start;
    while at < start + bytes {
        let (word, first) = (at / 4, at % 4);
        let n = (4 - first).min(start + bytes - at);
        each(word, ((1u8 << n) - 1) << first);
        at += n;
    }
}

impl Cell {
    /// Forgets the accesses of other instances.
    fn retain(&mut self, instance: u32) {
        for slot in self.reads.iter_mut().chain(&mut self.writes).filter(|s| s.stamp.instance() != instance) {
            *slot = Slot::default();
        }
    }

    /// Checks and remembers an access to the bytes in `mask`. `shared`: the word is in shared memory, to which
    /// `fence_async` applies.
    fn access(&mut self, clocks: &Clocks, who: Who, how: How, mask: u8, pc: Pc, shared: bool) -> Option<Defect> {
        let atomic = how == How::Atomic;
        // An asynchronous operation is ordered after what its thread knew when starting it, but not with what the
        // thread does later.
        let conflict = |slot: &Slot| {
            slot.stamp.mask() & mask != 0 && !(atomic && slot.stamp.atomic()) && !clocks.before(slot.stamp, who.thread)
        };
        let race = |slot: &Slot, wrote| Defect::Race { other: slot.stamp, wrote, pc: Pc::unpack(slot.pc) };
        let mut defect = self.writes.iter().find(|s| conflict(s)).map(|s| race(s, true));
        if how != How::Read && defect.is_none() {
            defect = self.reads.iter().find(|s| conflict(s)).map(|s| race(s, false));
        }
        if defect.is_none() && who.actor.asynchronous() {
            let fenced = |stamp| shared && clocks.proxied(stamp, who.thread);
            let unfenced = |s: &&Slot| s.stamp.mask() & mask != 0 && clocks.generic(s.stamp) && !fenced(s.stamp);
            defect = self.writes.iter().find(unfenced).map(|s| Defect::Proxy { other: s.stamp, pc: Pc::unpack(s.pc) });
        }
        let new = Slot { stamp: clocks.stamp(who, mask, atomic), pc: pc.pack() };
        match how {
            How::Read => self.read(clocks, who, new),
            _ => self.write(clocks, who, new),
        }
        defect
    }

    fn read(&mut self, clocks: &Clocks, who: Who, new: Slot) {
        let covered = |s: &Slot| s.stamp.mask() & !new.stamp.mask() == 0;
        let actor = |s: &Slot| (s.stamp.instance(), s.stamp.who());
        // A later read of other bytes must not replace an earlier one of the same thread: those bytes keep their clock.
        let same = |s: &Slot| actor(s) == actor(&new) && (covered(s) || s.stamp.clock() == new.stamp.clock());
        let gone = |s: &Slot| covered(s) && clocks.before(s.stamp, who.thread);
        let warp = |s: &Slot| s.stamp.who() / 32;
        if let Some(slot) = self.reads.iter_mut().find(|s| same(s)) {
            let both = slot.stamp.mask() | new.stamp.mask();
            *slot = Slot { stamp: new.stamp.with_mask(both), ..new };
        } else if let Some(slot) = self.reads.iter_mut().find(|s| gone(s)) {
            *slot = new;
        } else if self.reads.iter().all(|s| warp(s) != warp(&new)) {
            let double = |i: usize| self.reads[..i].iter().any(|s| warp(s) == warp(&self.reads[i]));
            if let Some(i) = (1..self.reads.len()).find(|&i| double(i)) {
                self.reads[i] = new;
            }
        }
    }

    fn write(&mut self, clocks: &Clocks, who: Who, new: Slot) {
        // An access that happens before this write and is covered by it can be forgotten: whatever races with it races
        // with this write, too. The same holds for earlier accesses of the same party, such as a TMA store that is
        // still in flight.
        let actor = |s: &Slot| (s.stamp.instance(), s.stamp.who());
        let gone = |s: &Slot| {
            let before = clocks.before(s.stamp, who.thread) || actor(s) == actor(&new);
            s.stamp.mask() & !new.stamp.mask() == 0 && before
        };
        for slot in self.reads.iter_mut().chain(&mut self.writes).filter(|s| gone(s)) {
            *slot = Slot::default();
        }
        let free = self.writes.iter().position(|s| s.stamp.mask() == 0).unwrap_or(1);
        self.writes[free] = new;
    }
}
