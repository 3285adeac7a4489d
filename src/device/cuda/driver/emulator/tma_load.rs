//! TMA loads: copies of boxes of a matrix in global memory to tiles in shared memory (`kernels/ptx/tma.cuh`). The
//! opposite direction is in `tma_store`.

use super::block::{Block, Status};
use super::clocks::Actor;
use super::options::Arrival;
use super::report::{Here, Pc};
use super::shadow::How;
use super::wgmma::swizzled;
use crate::device::cuda::launch::TensorMap;

/// Bytes of a row of a box.
pub const ROW: usize = 128;
/// Bytes of the pieces of a row that swizzling permutes.
pub const PIECE: usize = 16;

/// A box of a matrix in global memory, and the tile in shared memory that it is copied to or from.
#[derive(Clone, Copy)]
pub struct Window {
    map: TensorMap,
    /// Coordinates of the box's first element; the box may extend beyond the matrix.
    column: i64,
    row: i64,
    /// Bytes from the map's first element to the first element of the matrix; `None` if there is no such matrix.
    matrix: Option<u64>,
    /// The rank in the cluster of the block that the tile belongs to.
    pub rank: usize,
    /// Shared address of the tile.
    tile: usize,
}

impl Window {
    /// Returns the size of the tile in bytes.
    pub fn bytes(&self) -> usize {
        self.rows() * ROW
    }

    /// Returns the number of rows of the box.
    pub fn rows(&self) -> usize {
        self.map.box_rows as usize
    }

    /// Returns the part of row `r` of the box that lies inside the matrix: its first byte in the row, its address and
    /// its size.
    pub fn inside(&self, r: usize) -> Option<(usize, u64, usize)> {
        let matrix = self.matrix?;
        let row = u64::try_from(self.row + r as i64).ok().filter(|row| *row < self.map.rows)?;
        let first = self.column.max(0);
        let end = (self.column + self.map.box_columns() as i64).min(self.map.columns as i64);
        let bytes = |elements: i64| elements as u64 * self.map.element;
        let address = self.map.address + matrix + row * self.map.pitch + bytes(first);
        (first < end).then(|| (bytes(first - self.column) as usize, address, bytes(end - first) as usize))
    }

    /// Returns the shared address of the piece that begins at byte `byte` of row `r`, swizzled.
    pub fn piece(&self, r: usize, byte: usize) -> usize {
        swizzled(self.tile + r * ROW + byte)
    }
}

/// A load that was started.
#[derive(Clone, Copy)]
struct Load {
    /// The thread that started it, and the line.
    thread: usize,
    site: Here,
    window: Window,
    /// The index of the mbarrier that counts its bytes.
    mbarrier: usize,
}

/// Loads that have not moved their bytes yet, the oldest first.
#[derive(Default)]
pub struct TmaLoads {
    pending: Vec<Load>,
}

impl TmaLoads {
    /// Returns the thread and the line of the oldest load in flight.
    pub fn oldest(&self) -> Option<(usize, Here)> {
        self.pending.first().map(|load| (load.thread, load.site))
    }

    /// Returns the same for the oldest load in flight that this mbarrier counts.
    pub fn pending_for(&self, mbarrier: usize) -> Option<(usize, Here)> {
        self.pending.iter().find(|load| load.mbarrier == mbarrier).map(|load| (load.thread, load.site))
    }
}

impl Block {
    /// Returns the box at `[batch, head, row, column]` and its tile; `None` if it was reported. For a single matrix,
    /// batch and head are -1.
    pub fn window(&mut self, site: Here, tile: u64, map: TensorMap, first: [i32; 4]) -> Option<Window> {
        let [batch, head, row, column] = first.map(i64::from);
        let Some(tile) = self.own().offset(tile) else {
            self.report(site.at(), "a TMA tile is not in shared memory");
            return None;
        };
        if !tile.is_multiple_of(1024) {
            self.report(site.at(), "misaligned: a TMA tile must begin at a multiple of 1024 bytes");
            return None;
        }
        let matrix = match (map.heads, (batch, head)) {
            (0, (-1, -1)) => Some(0),
            (1.., _) if batch != -1 => {
                let inside = (0..map.heads as i64).contains(&head) && (0..map.batches as i64).contains(&batch);
                inside.then(|| head as u64 * map.head_pitch + batch as u64 * map.batch_pitch)
            }
            _ => {
                self.report(
                    site.at(),
                    "a box takes row and column for a single matrix, and also head and batch for many matrices",
                );
                return None;
            }
        };
        let window = Window { map, column, row, matrix, rank: self.rank(self.current), tile };
        if let Err(what) = self.own().inside(tile, window.bytes()) {
            self.report(site.at(), format!("out of bounds: a TMA tile: {what}"));
            return None;
        }
        Some(window)
    }

    /// The current thread starts a load of the box at `first`, as for [`Block::window`]. Returns false if it was
    /// reported. `to` holds the addresses of the tile and of the mbarrier in the thread's own block. `blocks` has one
    /// bit for each block of the cluster that receives the box, at the same shared address and counted by its own
    /// mbarrier; 0: only the thread's own block.
    pub fn tma_load(
        &mut self,
        place: (Here, Pc),
        to: (u64, u64),
        blocks: u32,
        map: TensorMap,
        first: [i32; 4],
    ) -> bool {
        let Some(window) = self.window(place.0, to.0, map, first) else { return false };
        let blocks = if blocks == 0 { 1 << window.rank } else { blocks };
        (0..32).filter(|rank| blocks >> rank & 1 == 1).all(|rank| {
            let window = Window { rank, ..window };
            let Some(mbarrier) = self.counting_mbarrier(place, (to.1, rank)) else { return false };
            self.start_load(place, Load { thread: self.current, site: place.0, window, mbarrier })
        })
    }

    /// Checks a load and starts it. Returns false if it was reported.
    fn start_load(&mut self, (_, pc): (Here, Pc), load: Load) -> bool {
        let Load { window, mbarrier, .. } = load;
        if self.options.checks {
            let actor = Actor::TmaLoads { mbarrier, phase: self.mbarriers[mbarrier].phase() };
            let mut rows = (0..window.rows()).filter_map(|r| window.inside(r));
            let to = self.shared[window.rank].at(window.tile) as u64;
            let fine = self.access(actor, (to, window.bytes() as u64), How::Write, pc)
                && rows.all(|(_, from, bytes)| self.access(actor, (from, bytes as u64), How::Read, pc));
            if !fine {
                return false;
            }
        }
        let now = match self.options.arrival {
            Arrival::Eager => true,
            Arrival::Lazy => false,
            Arrival::Random => self.random.coin(),
        };
        if now {
            self.arrive(&load)
        } else {
            self.tma_loads.pending.push(load)
        }
        true
    }

    /// Moves the bytes of a load and counts them at its mbarrier.
    fn arrive(&mut self, load: &Load) {
        let window = &load.window;
        for r in 0..window.rows() {
            let mut row = [0u8; ROW];
            if let Some((start, from, bytes)) = window.inside(r) {
                // SAFETY: inside the matrix, which lies in device memory: with checks on, `start_load` has verified
                // that; otherwise the caller of the launch guarantees it.
                unsafe { std::ptr::copy_nonoverlapping(from as *const u8, row[start..].as_mut_ptr(), bytes) }
            }
            for (p, piece) in row.chunks_exact(PIECE).enumerate() {
                let to = self.shared[window.rank].at(window.piece(r, p * PIECE));
                // SAFETY: the tile lies in an array of shared memory; swizzling moves bytes only within blocks of 1024.
                unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len()) }
            }
        }
        self.count_bytes(load.mbarrier, window.bytes() as i64, (load.thread, load.site));
    }

    /// Lets a load arrive at the end of a round, if no thread made progress, or in some rounds if arrival is random.
    /// Returns whether one arrived.
    pub fn advance_tma_loads(&mut self, progress: bool) -> bool {
        let random = self.options.arrival == Arrival::Random;
        if self.tma_loads.pending.is_empty() || progress && !(random && self.random.coin()) {
            return false;
        }
        let awaited = |load: &Load| self.threads.iter().any(|t| t.status == Status::AtMbarrier(load.mbarrier));
        let index = match random {
            true => (self.random.next() % self.tma_loads.pending.len() as u64) as usize,
            false => self.tma_loads.pending.iter().position(awaited).unwrap_or(0),
        };
        let load = self.tma_loads.pending.remove(index);
        self.arrive(&load);
        true
    }
}
