//! TMA stores: copies of tiles in shared memory to boxes of a matrix in global memory (`kernels/ptx/tma.cuh`), which
//! overwrite the box or are added to it. A thread can wait for its groups of stores in two steps: until they have read
//! shared memory, and until they have written global memory.

use super::atomics::add_float;
use super::block::Block;
use super::clocks::{Actor, STORERS};
use super::options::Arrival;
use super::report::{Here, Pc};
use super::shadow::How;
use super::tma_load::{PIECE, ROW, Window};
use crate::device::cuda::launch::TensorMap;

/// The progress of a store.
enum Progress {
    Started,
    /// It has read its tile, whose bytes it holds.
    Read(Vec<u8>),
    Written,
}

/// A store that was started, and is not yet both written and waited for.
struct Store {
    /// Whether it adds to the box.
    adds: bool,
    /// The index of its thread in [`TmaStores::storers`].
    storer: usize,
    /// The number of its group among those of its thread, from 1.
    group: u32,
    site: Here,
    window: Window,
    progress: Progress,
    /// Whether its thread has waited for it to read its tile.
    released: bool,
}

/// A thread that has started stores, and the number of groups that it has committed.
struct Storer {
    thread: usize,
    committed: u32,
}

/// The TMA stores of a block or cluster.
#[derive(Default)]
pub struct TmaStores {
    storers: Vec<Storer>,
    /// The oldest first.
    started: Vec<Store>,
}

impl TmaStores {
    /// Returns the thread with this index among those that have started stores.
    pub fn thread(&self, storer: usize) -> Option<usize> {
        self.storers.get(storer).map(|storer| storer.thread)
    }

    /// Returns the index of a thread among those that have started stores.
    fn find(&self, thread: usize) -> Option<usize> {
        self.storers.iter().position(|storer| storer.thread == thread)
    }
}

impl Block {
    /// The current thread starts a store to the box at `first`, as for [`Block::window`], or an addition to it if
    /// `adds`. `from` is the address of the tile. Returns false if it was reported.
    pub fn tma_store(
        &mut self,
        (site, pc): (Here, Pc),
        adds: bool,
        from: u64,
        map: TensorMap,
        first: [i32; 4],
    ) -> bool {
        if adds && map.element != 4 {
            self.report(site.at(), "tma_add adds f32, but the matrix has another type");
            return false;
        }
        let Some(window) = self.window(site, from, map, first) else { return false };
        let thread = self.current;
        let storer = match self.tma_stores.find(thread) {
            Some(storer) => storer,
            None if self.tma_stores.storers.len() == STORERS => {
                let what = format!("more than {STORERS} threads store by TMA: the emulator can track no more");
                self.report(site.at(), what);
                return false;
            }
            None => {
                self.tma_stores.storers.push(Storer { thread, committed: 0 });
                self.tma_stores.storers.len() - 1
            }
        };
        let group = self.tma_stores.storers[storer].committed + 1;
        let how = if adds { How::Atomic } else { How::Write };
        if self.options.checks && !self.check_store(&window, how, (storer, group), pc) {
            return false;
        }
        let progress = Progress::Started;
        self.tma_stores.started.push(Store { adds, storer, group, site, window, progress, released: false });
        let steps = match self.options.arrival {
            Arrival::Eager => 2,
            Arrival::Lazy => 0,
            Arrival::Random => self.random.next() % 3,
        };
        let last = self.tma_stores.started.len() - 1;
        (0..steps).for_each(|_| self.advance(last));
        true
    }

    /// Checks the read of the tile and the write of the box, as far as the box lies inside the matrix. Both accesses
    /// remain unordered until the group is waited for.
    fn check_store(&mut self, window: &Window, how: How, (storer, group): (usize, u32), pc: Pc) -> bool {
        for r in 0..window.rows() {
            let Some((start, to, bytes)) = window.inside(r) else { continue };
            let end = start + bytes;
            for piece in (0..ROW).step_by(PIECE) {
                let (from, until) = (start.max(piece), end.min(piece + PIECE));
                let address = self.shared[window.rank].at(window.piece(r, piece)) as u64;
                let place = (address + from.saturating_sub(piece) as u64, until.saturating_sub(from) as u64);
                if from < until && !self.access(Actor::StoreReads { storer, group }, place, How::Read, pc) {
                    return false;
                }
            }
            if !self.access(Actor::StoreWrites { storer, group }, (to, bytes as u64), how, pc) {
                return false;
            }
        }
        true
    }

    /// Performs the next step of a store: it reads its tile or, if it has done that, writes its box.
    fn advance(&mut self, index: usize) {
        let store = &mut self.tma_stores.started[index];
        let window = &store.window;
        store.progress = match &store.progress {
            Progress::Started => {
                let mut bytes = vec![0u8; window.bytes()];
                for (i, piece) in bytes.chunks_exact_mut(PIECE).enumerate() {
                    let from = self.shared[window.rank].at(window.piece(i * PIECE / ROW, i * PIECE % ROW));
                    // SAFETY: the tile lies in an array of shared memory; swizzling moves bytes only within blocks of
                    // 1024.
                    unsafe { std::ptr::copy_nonoverlapping(from, piece.as_mut_ptr(), piece.len()) }
                }
                Progress::Read(bytes)
            }
            Progress::Read(held) => {
                for (r, row) in held.chunks_exact(ROW).enumerate() {
                    let Some((start, to, bytes)) = window.inside(r) else { continue };
                    let row = &row[start..start + bytes];
                    // SAFETY: inside the matrix, which lies in device memory: with checks on, `check_store` has
                    // verified that; otherwise the caller of the launch guarantees it. Elements are aligned, because
                    // the driver accepts no other address or pitch.
                    unsafe {
                        if store.adds {
                            let words = row.chunks_exact(4).map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]]));
                            words.zip(0..).for_each(|(word, i)| add_float((to as *mut u32).add(i), word));
                        } else {
                            std::ptr::copy_nonoverlapping(row.as_ptr(), to as *mut u8, bytes);
                        }
                    }
                }
                Progress::Written
            }
            Progress::Written => Progress::Written,
        };
    }

    /// Closes the current thread's group of stores.
    pub fn tma_store_commit(&mut self) {
        if let Some(storer) = self.tma_stores.find(self.current) {
            self.tma_stores.storers[storer].committed += 1;
        }
    }

    /// The current thread waits until all but its `in_flight` latest groups have read shared memory and, if `complete`,
    /// have also written global memory.
    pub fn tma_store_wait(&mut self, in_flight: u32, complete: bool) {
        let Some(storer) = self.tma_stores.find(self.current) else { return };
        let done = self.tma_stores.storers[storer].committed.saturating_sub(in_flight);
        for index in 0..self.tma_stores.started.len() {
            let store = &mut self.tma_stores.started[index];
            if store.storer != storer || store.group > done {
                continue;
            }
            store.released = true;
            if matches!(store.progress, Progress::Started) {
                self.advance(index);
            }
            if complete {
                self.advance(index);
            }
        }
        self.tma_stores.started.retain(|store| !store.released || !matches!(store.progress, Progress::Written));
        let current = self.current;
        if let Some(clocks) = &mut self.clocks {
            clocks.wait_stores(current, storer, done, complete);
        }
    }

    /// Lets a random store make progress at the end of some rounds, if arrival is random.
    pub fn advance_tma_stores(&mut self) {
        if self.options.arrival == Arrival::Random && !self.tma_stores.started.is_empty() && self.random.coin() {
            let index = (self.random.next() % self.tma_stores.started.len() as u64) as usize;
            self.advance(index);
        }
    }

    /// Reports a store that its thread has not waited for when the block ends: it may still have to read shared memory,
    /// which will belong to another block. All other stores write what they have read.
    pub fn check_tma_stores(&mut self) {
        if let Some(store) = self.tma_stores.started.iter().find(|store| !store.released) {
            let thread = self.tma_stores.thread(store.storer).unwrap_or(0);
            let what = "the block ends, but its thread has not waited for this store to read shared memory: call \
                        tma_store_commit, then tma_store_wait_read or tma_store_wait";
            self.report_for(thread, store.site.at(), what);
            return;
        }
        (0..self.tma_stores.started.len()).for_each(|index| self.advance(index));
    }
}
