//! The copy engine: boxes of matrices in global memory to tiles in shared memory (`kernels/ptx/tma.cuh`). The other way
//! is in `stores`.

use super::block::{Block, Status};
use super::clocks::Actor;
use super::options::Arrival;
use super::report::{Here, Pc};
use super::shadow::How;
use super::wgmma::swizzled;
use crate::device::cuda::launch::TensorMap;

/// Bytes of a row of a box, and of its pieces that change places.
pub const ROW: usize = 128;
pub const PIECE: usize = 16;

/// A box of a matrix in global memory, and its tile in shared memory.
#[derive(Clone, Copy)]
pub struct Window {
    map: TensorMap,
    column: i64,
    row: i64,
    /// Bytes from the map's first element to that of the matrix; none where there is no such matrix.
    matrix: Option<u64>,
    /// The block of the cluster whose tile it is.
    pub rank: usize,
    /// Shared address of the tile.
    tile: usize,
}

impl Window {
    pub fn bytes(&self) -> usize {
        self.rows() * ROW
    }

    /// Rows of the box.
    pub fn rows(&self) -> usize {
        self.map.box_rows as usize
    }

    /// The part of row `r` of the box that lies in the matrix: byte of the row, address, bytes.
    pub fn inside(&self, r: usize) -> Option<(usize, u64, usize)> {
        let matrix = self.matrix?;
        let row = u64::try_from(self.row + r as i64).ok().filter(|row| *row < self.map.rows)?;
        let first = self.column.max(0);
        let end = (self.column + self.map.box_columns() as i64).min(self.map.columns as i64);
        let bytes = |elements: i64| elements as u64 * self.map.element;
        let address = self.map.address + matrix + row * self.map.pitch + bytes(first);
        (first < end).then(|| (bytes(first - self.column) as usize, address, bytes(end - first) as usize))
    }

    /// Shared address of the piece of row `r` that begins with this byte of the row.
    pub fn piece(&self, r: usize, byte: usize) -> usize {
        swizzled(self.tile + r * ROW + byte)
    }
}

/// A copy that was started.
#[derive(Clone, Copy)]
struct Load {
    /// Who has started it, and where.
    thread: usize,
    site: Here,
    window: Window,
    mbarrier: usize,
}

/// Copies that have not moved their bytes yet, the oldest first.
#[derive(Default)]
pub struct TmaLoads {
    pending: Vec<Load>,
}

impl TmaLoads {
    /// Thread and place of the first copy on its way.
    pub fn first(&self) -> Option<(usize, Here)> {
        self.pending.first().map(|load| (load.thread, load.site))
    }

    /// The same of those that count towards a barrier.
    pub fn late(&self, mbarrier: usize) -> Option<(usize, Here)> {
        self.pending.iter().find(|load| load.mbarrier == mbarrier).map(|load| (load.thread, load.site))
    }
}

impl Block {
    /// The box at (batch, head, row, column) and its tile; none when it was reported. Of a single matrix batch and head are -1.
    pub fn window(&mut self, site: Here, tile: u64, map: TensorMap, first: [i32; 4]) -> Option<Window> {
        let [batch, head, row, column] = first.map(i64::from);
        let Some(tile) = self.own().offset(tile) else {
            self.report(site.at(), "a tile of the copy engine that is not in shared memory");
            return None;
        };
        if !tile.is_multiple_of(1024) {
            self.report(site.at(), "misaligned: a tile of the copy engine begins at a multiple of 1024 bytes");
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
                    "a box is asked for by row and column of a single matrix, by head and batch too of many",
                );
                return None;
            }
        };
        let window = Window { map, column, row, matrix, rank: self.rank(self.current), tile };
        if let Err(what) = self.own().inside(tile, window.bytes()) {
            self.report(site.at(), format!("out of bounds: a tile of the copy engine, {what}"));
            return None;
        }
        Some(window)
    }

    /// The current thread starts a copy of the box at `first`, as [`Block::window`] has it; false when it was reported. `to`: tile
    /// and barrier, in the thread's own block; `blocks`: a bit for each block of the cluster that gets it, where the tile lies in
    /// this one and counted by its own barrier; none: the thread's block alone.
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
            self.start(place, Load { thread: self.current, site: place.0, window, mbarrier })
        })
    }

    fn start(&mut self, (_, pc): (Here, Pc), load: Load) -> bool {
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
            self.engine.pending.push(load)
        }
        true
    }

    /// Moves the bytes, and counts them.
    fn arrive(&mut self, load: &Load) {
        let window = &load.window;
        for r in 0..window.rows() {
            let mut row = [0u8; ROW];
            if let Some((start, from, bytes)) = window.inside(r) {
                // SAFETY: inside the matrix, which lies in device memory: checked in `start` with checks on, else the promise of who
                // launches.
                unsafe { std::ptr::copy_nonoverlapping(from as *const u8, row[start..].as_mut_ptr(), bytes) }
            }
            for (p, piece) in row.chunks_exact(PIECE).enumerate() {
                let to = self.shared[window.rank].at(window.piece(r, p * PIECE));
                // SAFETY: the tile lies in an array of shared memory; swizzling stays in its 1024 bytes.
                unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len()) }
            }
        }
        self.count_bytes(load.mbarrier, window.bytes() as i64, (load.thread, load.site));
    }

    /// After every thread had its turn: whether a copy has arrived. One does where nobody can go on without, and at random at
    /// other times too.
    pub fn deliver(&mut self, progress: bool) -> bool {
        let random = self.options.arrival == Arrival::Random;
        if self.engine.pending.is_empty() || progress && !(random && self.random.coin()) {
            return false;
        }
        let awaited = |load: &Load| self.threads.iter().any(|t| t.status == Status::AtMbarrier(load.mbarrier));
        let index = match random {
            true => (self.random.next() % self.engine.pending.len() as u64) as usize,
            false => self.engine.pending.iter().position(awaited).unwrap_or(0),
        };
        let load = self.engine.pending.remove(index);
        self.arrive(&load);
        true
    }
}
