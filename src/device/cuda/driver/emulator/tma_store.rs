//! Stores by the copy engine: tiles in shared memory to boxes of matrices in global memory (`kernels/ptx/tma.cuh`), in
//! place of what is there or added to it. A thread waits for its groups of them twice: until they have read shared memory,
//! and until they have written global memory.

use super::atomics::add_float;
use super::block::Block;
use super::clocks::{Actor, STORERS};
use super::options::Arrival;
use super::report::{Here, Pc};
use super::shadow::How;
use super::tma_load::{PIECE, ROW, Window};
use crate::device::cuda::launch::TensorMap;

/// How far a store has come.
enum Progress {
    Started,
    /// It holds what it has read.
    Read(Vec<u8>),
    Written,
}

/// A store that was started.
struct Store {
    /// To what is there.
    adds: bool,
    storer: usize,
    group: u32,
    site: Here,
    window: Window,
    progress: Progress,
    /// Its thread has waited for it to read.
    released: bool,
}

/// A thread that has started stores, and how many groups of them it has closed.
struct Storer {
    thread: usize,
    committed: u32,
}

/// Stores of a block that are not both written and waited for, the oldest first.
#[derive(Default)]
pub struct TmaStores {
    storers: Vec<Storer>,
    started: Vec<Store>,
}

impl TmaStores {
    /// The thread of a number among those that store.
    pub fn thread(&self, storer: usize) -> Option<usize> {
        self.storers.get(storer).map(|storer| storer.thread)
    }

    fn find(&self, thread: usize) -> Option<usize> {
        self.storers.iter().position(|storer| storer.thread == thread)
    }
}

impl Block {
    /// The current thread starts a store to the box at `first`, as [`Block::window`] has it, or adds to it; false when it was
    /// reported.
    pub fn tma_store(
        &mut self,
        (site, pc): (Here, Pc),
        adds: bool,
        from: u64,
        map: TensorMap,
        first: [i32; 4],
    ) -> bool {
        if adds && map.element != 4 {
            self.report(site.at(), "tma_add adds f32, to a matrix of another type");
            return false;
        }
        let Some(window) = self.window(site, from, map, first) else { return false };
        let thread = self.current;
        let storer = match self.stores.find(thread) {
            Some(storer) => storer,
            None if self.stores.storers.len() == STORERS => {
                let what = format!("more than {STORERS} threads store, which the emulator does not tell apart");
                self.report(site.at(), what);
                return false;
            }
            None => {
                self.stores.storers.push(Storer { thread, committed: 0 });
                self.stores.storers.len() - 1
            }
        };
        let group = self.stores.storers[storer].committed + 1;
        let how = if adds { How::Atomic } else { How::Write };
        if self.options.checks && !self.check_store(&window, how, (storer, group), pc) {
            return false;
        }
        let progress = Progress::Started;
        self.stores.started.push(Store { adds, storer, group, site, window, progress, released: false });
        let steps = match self.options.arrival {
            Arrival::Eager => 2,
            Arrival::Lazy => 0,
            Arrival::Random => self.random.next() % 3,
        };
        let last = self.stores.started.len() - 1;
        (0..steps).for_each(|_| self.move_on(last));
        true
    }

    /// Remembers that the tile is read, and the box written, until the group is waited for: the part in the matrix.
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

    /// A store reads its tile, or, if it has, writes its box.
    fn move_on(&mut self, index: usize) {
        let store = &mut self.stores.started[index];
        let window = &store.window;
        store.progress = match &store.progress {
            Progress::Started => {
                let mut bytes = vec![0u8; window.bytes()];
                for (i, piece) in bytes.chunks_exact_mut(PIECE).enumerate() {
                    let from = self.shared[window.rank].at(window.piece(i * PIECE / ROW, i * PIECE % ROW));
                    // SAFETY: the tile lies in an array of shared memory; swizzling stays in its 1024 bytes.
                    unsafe { std::ptr::copy_nonoverlapping(from, piece.as_mut_ptr(), piece.len()) }
                }
                Progress::Read(bytes)
            }
            Progress::Read(held) => {
                for (r, row) in held.chunks_exact(ROW).enumerate() {
                    let Some((start, to, bytes)) = window.inside(r) else { continue };
                    let row = &row[start..start + bytes];
                    // SAFETY: inside the matrix, which lies in device memory: `check_store` with checks on, else the promise of
                    // who launches. Its elements are aligned, since the driver accepts no other address or pitch.
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

    /// The stores of the current thread since the last call are a group.
    pub fn tma_store_commit(&mut self) {
        if let Some(storer) = self.stores.find(self.current) {
            self.stores.storers[storer].committed += 1;
        }
    }

    /// All but the current thread's `in_flight` latest groups have read shared memory; `complete`: and written global
    /// memory.
    pub fn tma_store_wait(&mut self, in_flight: u32, complete: bool) {
        let Some(storer) = self.stores.find(self.current) else { return };
        let done = self.stores.storers[storer].committed.saturating_sub(in_flight);
        for index in 0..self.stores.started.len() {
            let store = &mut self.stores.started[index];
            if store.storer != storer || store.group > done {
                continue;
            }
            store.released = true;
            if matches!(store.progress, Progress::Started) {
                self.move_on(index);
            }
            if complete {
                self.move_on(index);
            }
        }
        self.stores.started.retain(|store| !store.released || !matches!(store.progress, Progress::Written));
        let current = self.current;
        if let Some(clocks) = &mut self.clocks {
            clocks.wait_stores(current, storer, done, complete);
        }
    }

    /// After every thread had its turn: some store may have moved on.
    pub fn drift(&mut self) {
        if self.options.arrival == Arrival::Random && !self.stores.started.is_empty() && self.random.coin() {
            let index = (self.random.next() % self.stores.started.len() as u64) as usize;
            self.move_on(index);
        }
    }

    /// When a block ends, its threads have waited for its stores to read its shared memory, which will be another
    /// block's. The stores write what they have read.
    pub fn check_stores(&mut self) {
        if let Some(store) = self.stores.started.iter().find(|store| !store.released) {
            let thread = self.stores.thread(store.storer).unwrap_or(0);
            let what = "the block ends, and its thread has not waited for this store to read shared memory: \
                        tma_store_commit, then tma_store_wait_read or tma_store_wait";
            self.report_for(thread, store.site.at(), what);
            return;
        }
        (0..self.stores.started.len()).for_each(|index| self.move_on(index));
    }
}
