//! Shadow memory: for every word what was written, by whom it was last written and read, and from which line.
//!
//! A race is two accesses to a byte, at least one of them a write and not both atomic, neither of which lies before the other
//! by [`Clocks`]. Two writers and four readers of a word are remembered, the readers of different warps where there are more that
//! are in no order: a writer then races with one of them, unless it is ordered after those four warps and not after a fifth.

use super::clocks::{Clocks, Stamp, Who};
use super::report::Pc;

#[derive(Clone, Copy, Default)]
struct Slot {
    stamp: Stamp,
    pc: u32,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    writes: [Slot; 2],
    reads: [Slot; 4],
}

/// How an access touches memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Read,
    Write,
    /// Reads and writes at once.
    Atomic,
}

/// What is wrong with an access.
pub enum Defect {
    Uninitialised,
    Race {
        other: Stamp,
        wrote: bool,
        pc: Pc,
    },
    /// What a thread has written meets the copy engine or a product with no proxy fence between them.
    Proxy {
        other: Stamp,
        pc: Pc,
    },
}

/// The shadow of one allocation.
pub struct Shadow {
    cells: Vec<Cell>,
    /// For each word one bit for each byte that was written.
    written: Vec<u8>,
    /// Each block has its own memory here: what another one did is of no concern.
    private: bool,
}

impl Shadow {
    /// Of global memory, all of it written.
    pub fn global(bytes: usize) -> Self {
        let words = bytes.div_ceil(4);
        Shadow { cells: vec![Cell::default(); words], written: vec![15; words], private: false }
    }

    /// Of shared memory, none of it written.
    pub fn shared(bytes: usize) -> Self {
        let words = bytes.div_ceil(4);
        Shadow { cells: vec![Cell::default(); words], written: vec![0; words], private: true }
    }

    /// Forgets all accesses, not what was written.
    pub fn forget(&mut self) {
        self.cells.fill(Cell::default());
    }

    /// Bytes count as written, or as not.
    pub fn mark(&mut self, start: usize, bytes: usize, written: bool) {
        for_words(start, bytes, |word, mask| {
            let old = &mut self.written[word];
            *old = if written { *old | mask } else { *old & !mask };
        });
    }

    /// Checks and remembers an access of `bytes` bytes at `start`. Of more than one defect, one.
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
                cell.keep(clocks.instance);
            }
            let found = cell.access(clocks, who, how, mask, pc, self.private);
            if defect.is_none() {
                defect = found;
            }
        });
        defect
    }
}

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
    /// Forgets what other blocks did.
    fn keep(&mut self, instance: u32) {
        for slot in self.reads.iter_mut().chain(&mut self.writes).filter(|s| s.stamp.instance() != instance) {
            *slot = Slot::default();
        }
    }

    /// `shared`: of shared memory, which `fence_async` is for.
    fn access(&mut self, clocks: &Clocks, who: Who, how: How, mask: u8, pc: Pc, shared: bool) -> Option<Defect> {
        let atomic = how == How::Atomic;
        // An asynchronous copy knows what its thread knew when it was started, but lies beside it afterwards.
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
        // Bytes that the same thread read earlier keep their time.
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
        // What lies before this write and wholly under it needs no memory: a race with it is one with this write too. So does
        // what the same store has added before, be it on its way still.
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
