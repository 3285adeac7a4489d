//! wgmma: asynchronous matrix products of tiles in shared memory (`kernels/ptx/wgmma.cuh`). Each warp of a warpgroup
//! computes its own 16 rows, at its own time: only barriers keep the four warps together.

use super::block::Block;
use super::clocks::{Actor, Who};
use super::options::Arrival;
use super::report::{At, Here, Pc};
use super::shadow::How;
use super::shared::Shared;
use std::collections::VecDeque;
use std::ops::Range;

/// Rows of the result per warp.
const ROWS: usize = 16;
/// Elements along K per instruction.
const STEPS: usize = 16;

/// Returns where a byte of a tile is stored with "swizzle 128B": pieces of 16 bytes are permuted depending on their row
/// of 128 bytes.
pub fn swizzled(address: usize) -> usize {
    address ^ (address >> 3 & 0x70)
}

/// Converts the bits of a bf16.
fn widened(x: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(x) << 16))
}

/// An operand in shared memory: the fields of its descriptor in bytes, and its orientation.
#[derive(Clone, Copy, PartialEq)]
struct Tile {
    start: usize,
    leading: usize,
    stride: usize,
    /// Whether M or N, and not K, lies along the rows of 128 bytes.
    transposed: bool,
}

impl Tile {
    /// Decodes a descriptor.
    ///
    /// # Errors
    /// Another swizzle mode, a base offset, or a misaligned start.
    fn new(descriptor: u64, transposed: bool) -> Result<Self, String> {
        let field = |shift: u32| (descriptor >> shift & 0x3fff) as usize * 16;
        let tile = Tile { start: field(0), leading: field(16), stride: field(32), transposed };
        if descriptor >> 62 != 1 || descriptor >> 49 & 7 != 0 {
            return Err(format!("the descriptor {descriptor:#018x} is not for swizzle 128B with base offset 0"));
        }
        if tile.start & 0x380 != 0 {
            return Err("misaligned: the tile of a descriptor must begin at a multiple of 1024 bytes".into());
        }
        Ok(tile)
    }

    /// Iterates over the pieces of 16 bytes that hold `count` rows of a (or columns of b), beginning with row `first`.
    /// For each piece it returns the shared address and the position of its first element: the row, relative to
    /// `first`, and the index along K.
    fn pieces(self, first: usize, count: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let Tile { start, leading, stride, transposed } = self;
        let (outer, inner) = if transposed { (STEPS, count / 8) } else { (count, STEPS / 8) };
        (0..outer).flat_map(move |o| {
            (0..inner).map(move |i| match transposed {
                true => {
                    let (m, k) = (first + 8 * i, o);
                    let address = start + m / 64 * leading + m % 64 * 2 + k / 8 * stride + k % 8 * 128;
                    (swizzled(address), 8 * i, k)
                }
                false => {
                    let m = first + o;
                    (swizzled(start + m / 8 * stride + m % 8 * 128 + 16 * i), o, 8 * i)
                }
            })
        })
    }
}

/// The left operand.
enum Left {
    /// A tile in shared memory.
    Shared(Tile),
    /// Four registers in each lane of the warp.
    Registers(Box<[*const u32; 32]>),
}

/// One warp's part of a wgmma.
struct Instruction {
    group: u32,
    a: Left,
    b: Tile,
    columns: usize,
    /// Whether the result is added to the accumulators.
    add: bool,
    /// The accumulators of each lane.
    d: [*mut f32; 32],
}

/// The wgmma state of a warp.
#[derive(Default)]
pub struct Warp {
    /// Instructions that have not been computed yet.
    pending: VecDeque<Instruction>,
    /// Instructions that this warp has issued and some other warp of its warpgroup has not: their lines and operands.
    ahead: VecDeque<(Here, [u64; 3])>,
    /// The number of instructions issued so far.
    started: usize,
    /// Buffer for the elements of b, `[16, columns]`.
    b: Vec<f64>,
}

/// Registers that an instruction uses asynchronously.
struct Registers {
    /// Their addresses on the thread's stack.
    range: Range<usize>,
    group: u32,
    /// Whether they hold the left operand, which may be read while the instruction runs. If not, they are accumulators.
    operand: bool,
}

/// The wgmma state of a thread.
#[derive(Default)]
pub struct Lane {
    /// Whether it has run `wgmma_fence` since it last accessed registers of an instruction, or waited.
    fenced: bool,
    /// The number of groups that it has committed.
    committed: u32,
    /// The last group that it has waited for.
    waited: u32,
    registers: Vec<Registers>,
}

impl Lane {
    /// Watches registers, which must not be accessed until the group is waited for.
    fn watch(&mut self, start: usize, bytes: usize, group: u32, operand: bool) {
        let now = Registers { range: start..start + bytes, group, operand };
        match self.registers.iter_mut().find(|r| r.range.start == start) {
            Some(known) => *known = now,
            None => self.registers.push(now),
        }
    }
}

/// The arguments that the lanes of a warp pass to a wgmma: `words` is `[4][32]`, one word of each lane for
///
/// - the descriptor of the left operand, or the address of its registers;
/// - the descriptor of the right operand;
/// - the address of the accumulators;
/// - the shape: whether the left operand is in registers (bit 12), columns (bits 3 to 11), TB, TA and `add`.
pub struct Operands<'a> {
    pub site: Here,
    pub pc: Pc,
    pub words: &'a [u64; 128],
}

impl Block {
    /// The current thread, the last of its warp to arrive, issues the warp's wgmma. Returns false if it was reported.
    pub fn issue_wgmma(&mut self, operands: &Operands) -> bool {
        match self.start_wgmma(operands) {
            Ok(fine) => fine,
            Err(what) => {
                self.report(operands.site.at(), what);
                false
            }
        }
    }

    /// Checks a wgmma and issues it. Returns false if it was reported, or an error to report.
    fn start_wgmma(&mut self, &Operands { site, pc, words }: &Operands) -> Result<bool, String> {
        let (warp, lane) = (self.current / 32, self.current % 32);
        let of = |word: usize| &words[32 * word..][..32];
        let [mut left, right, shape] = [0, 1, 3].map(|word| of(word)[lane]);
        let in_registers = shape >> 12 & 1 == 1;
        let alike: &[usize] = if in_registers { &[1, 3] } else { &[0, 1, 3] };
        if alike.iter().any(|&word| of(word).iter().any(|w| *w != of(word)[lane])) {
            return Err("divergent warp: lanes pass different descriptors or flags to one wgmma".into());
        }
        let columns = (shape >> 3 & 0x1ff) as usize;
        let [add, ta, tb] = [0, 1, 2].map(|bit| shape >> bit & 1 == 1);
        let (rank, of_block) = (self.rank(self.current), self.current % self.count() / 128);
        if (of_block + 1) * 128 > self.count() {
            return Err("wgmma in a warpgroup of fewer than four warps".into());
        }
        if self.shared.len() > 1 && !self.count().is_multiple_of(128) {
            return Err("the emulator does not support wgmma in a cluster whose blocks are not whole warpgroups".into());
        }
        let b = Tile::new(right, tb)?;
        let mut tiles = vec![(b, 0, columns)];
        let a = if in_registers {
            // Each warp has its own registers, so the warps need not agree on their address.
            left = 0;
            Left::Registers(Box::new(std::array::from_fn(|lane| of(0)[lane] as *const u32)))
        } else {
            let a = Tile::new(left, ta)?;
            // The rows of all four warps, whichever warp this is.
            tiles.push((a, 0, 4 * ROWS));
            Left::Shared(a)
        };
        for &(tile, first, count) in &tiles {
            for (address, ..) in tile.pieces(first, count) {
                self.shared[rank].inside(address, 16).map_err(|what| format!("out of bounds: a wgmma tile: {what}"))?;
            }
        }
        let lanes = warp * 32..warp * 32 + 32;
        let group = self.threads[self.current].wgmma.committed + 1;
        let registers = std::array::from_fn(|lane| of(2)[lane] as *mut f32);
        for (thread, d) in lanes.zip(registers) {
            let lane = &mut self.threads[thread].wgmma;
            if lane.committed + 1 != group {
                return Err("divergent warp: lanes have committed different numbers of wgmma groups".into());
            }
            if !lane.fenced {
                let when = "before the first wgmma, after a wait, and after its registers were accessed";
                return Err(format!("wgmma_fence is missing: it must be called {when}"));
            }
            lane.watch(d as usize, columns * 2, group, false);
            if in_registers {
                lane.watch(of(0)[thread % 32] as usize, 16, group, true);
            }
        }
        self.check_warpgroup(site, warp, [left, right, shape])?;
        if self.options.checks && !self.read_tiles(pc, warp, group, &tiles) {
            return Ok(false);
        }
        let now = match self.options.arrival {
            Arrival::Eager => true,
            Arrival::Lazy => false,
            Arrival::Random => self.random.coin(),
        };
        self.wgmma[warp].pending.push_back(Instruction { group, a, b, columns, add, d: registers });
        if now {
            self.finish_wgmma(warp, group);
        }
        Ok(true)
    }

    /// Checks that the warps of a warpgroup issue the same sequence of instructions, whose operands are `words`.
    fn check_warpgroup(&mut self, site: Here, warp: usize, words: [u64; 3]) -> Result<(), String> {
        let started = self.wgmma[warp].started;
        let group = warp / 4 * 4..warp / 4 * 4 + 4;
        for other in group.clone().filter(|w| *w != warp) {
            let theirs = &self.wgmma[other];
            let Some(back) = theirs.started.checked_sub(started + 1) else { continue };
            let index = theirs.ahead.len().checked_sub(back + 1);
            if let Some((at, same)) = index.and_then(|i| theirs.ahead.get(i)).filter(|one| **one != (site, words)) {
                let how = if *same == words { "the same" } else { "a different" };
                return Err(format!("divergent warpgroup: warp {other} issues {how} wgmma in {}", at.site()));
            }
        }
        let mine = &mut self.wgmma[warp];
        mine.started += 1;
        mine.ahead.push_back((site, words));
        let least = group.clone().map(|w| self.wgmma[w].started).min().unwrap_or(0);
        for warp in group {
            let one = &mut self.wgmma[warp];
            let keep = one.started - least;
            one.ahead.drain(..one.ahead.len().saturating_sub(keep));
        }
        Ok(())
    }

    /// Checks the reads of tiles, which remain unordered until the group is waited for. What was written must be
    /// visible to all lanes, so each lane is charged with a part of the reads.
    fn read_tiles(&mut self, pc: Pc, warp: usize, group: u32, tiles: &[(Tile, usize, usize)]) -> bool {
        for &(tile, first, count) in tiles {
            for (number, (address, ..)) in tile.pieces(first, count).enumerate() {
                let who = Who { thread: warp * 32 + number % 32, actor: Actor::Wgmma { group } };
                let place = (self.shared[self.rank(warp * 32)].at(address) as u64, 16);
                if !self.access_by(who, place, How::Read, pc) {
                    return false;
                }
            }
        }
        true
    }

    /// Computes a warp's pending instructions up to this group.
    fn finish_wgmma(&mut self, warp: usize, group: u32) {
        while self.wgmma[warp].pending.front().is_some_and(|p| p.group <= group) {
            let Some(instruction) = self.wgmma[warp].pending.pop_front() else { return };
            let mut b = std::mem::take(&mut self.wgmma[warp].b);
            // SAFETY: tiles were checked when the instruction was issued; the lanes' registers live until they have
            // waited for it.
            unsafe { self.multiply(warp, &instruction, &mut b) }
            self.wgmma[warp].b = b;
        }
    }

    /// Reads `count` rows of a tile, beginning with row `first`, into `to`, `[16, count]` (K first).
    ///
    /// # Safety
    /// The tile lies in this shared memory.
    unsafe fn read_tile(shared: &Shared, tile: Tile, (first, count): (usize, usize), to: &mut [f64]) {
        let (row, step) = if tile.transposed { (1, 0) } else { (0, 1) };
        for (address, m, k) in tile.pieces(first, count) {
            // SAFETY: guaranteed by the caller; pieces are aligned to their size.
            let piece = unsafe { *shared.at(address).cast::<[u16; 8]>() };
            for (i, x) in piece.into_iter().enumerate() {
                to[(k + step * i) * count + m + row * i] = widened(x);
            }
        }
    }

    /// Computes one warp's part of a wgmma in f64, rounding the result to f32.
    ///
    /// # Safety
    /// Tiles lie in shared memory, and registers are alive.
    unsafe fn multiply(&self, warp: usize, instruction: &Instruction, b: &mut Vec<f64>) {
        let &Instruction { columns, add, ref d, .. } = instruction;
        let (first, shared) = (warp % 4 * ROWS, &self.shared[self.rank(warp * 32)]);
        let mut a = [0.0; ROWS * STEPS];
        b.resize(columns * STEPS, 0.0);
        // SAFETY: guaranteed by the caller.
        unsafe {
            Self::read_tile(shared, instruction.b, (0, columns), b);
            match &instruction.a {
                Left::Shared(tile) => Self::read_tile(shared, *tile, (first, ROWS), &mut a),
                Left::Registers(lanes) => {
                    for (lane, registers) in lanes.iter().enumerate() {
                        for (i, half) in (0..4).flat_map(|i| [(i, 0), (i, 1)]) {
                            let (row, k) = (lane / 4 + i % 2 * 8, i / 2 * 8 + lane % 4 * 2 + half);
                            let pair = registers.add(i).read_unaligned();
                            a[k * ROWS + row] = widened((pair >> (16 * half)) as u16);
                        }
                    }
                }
            }
        }
        for (j, row) in (0..columns / 8).flat_map(|j| (0..ROWS).map(move |row| (j, row))) {
            let at = |i: usize| d[row % 8 * 4 + i / 2].wrapping_add(4 * j + row / 8 * 2 + i % 2);
            let mut sums = [0.0; 8];
            if add {
                // SAFETY: guaranteed by the caller; a lane has columns / 2 accumulators.
                sums = std::array::from_fn(|i| f64::from(unsafe { *at(i) }));
            }
            for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(columns)) {
                sums.iter_mut().zip(&b[8 * j..]).for_each(|(sum, b)| *sum += a[row] * b);
            }
            for (i, sum) in sums.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { *at(i) = sum as f32 };
            }
        }
    }

    /// Orders the current thread's earlier accesses to registers before its next wgmmas.
    pub fn wgmma_fence(&mut self) {
        self.threads[self.current].wgmma.fenced = true;
    }

    /// Closes the current thread's group of wgmmas.
    pub fn wgmma_commit(&mut self) {
        self.threads[self.current].wgmma.committed += 1;
    }

    /// The current thread waits for all but its `in_flight` latest groups.
    pub fn wgmma_wait(&mut self, in_flight: u32) {
        let current = self.current;
        let lane = &mut self.threads[current].wgmma;
        let done = lane.committed.saturating_sub(in_flight);
        (lane.waited, lane.fenced) = (lane.waited.max(done), false);
        if let Some(clocks) = &mut self.clocks {
            clocks.wait_wgmma(current, done);
        }
        self.finish_wgmma(current / 32, done);
    }

    /// Checks an access of the current thread to its own stack, with checks on. Returns false if it was reported: the
    /// address belongs to registers of a wgmma that is not complete.
    pub fn touch(&mut self, address: usize, write: bool, pc: Pc) -> bool {
        let lane = &mut self.threads[self.current].wgmma;
        let touched = lane.registers.iter().find(|r| r.range.contains(&address) && (write || !r.operand));
        let Some(touched) = touched else { return true };
        lane.fenced = false;
        if touched.group <= lane.waited {
            return true;
        }
        let what = match touched.operand {
            true => "the left operand of a wgmma is overwritten before wgmma_wait has waited for it",
            false => "accumulators of a wgmma are accessed before wgmma_wait has waited for it",
        };
        self.report(At::Access(pc), what);
        false
    }

    /// Reports warps of a warpgroup that have issued different numbers of wgmmas when the block ends.
    pub fn check_wgmma(&mut self) {
        let counts: Vec<usize> = self.wgmma.iter().map(|warp| warp.started).collect();
        for (number, group) in counts.chunks(4).enumerate() {
            if group.iter().any(|n| *n != group[0]) {
                let site = self.wgmma[4 * number..].iter().find_map(|w| w.ahead.front()).map(|(site, _)| *site);
                let what = format!(
                    "divergent warpgroup: its warps issued {group:?} wgmmas, but each wgmma takes all four warps"
                );
                self.report_for(128 * number, site.map_or(At::Kernel, Here::at), what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tile;

    /// Encodes a descriptor like `matrix_descriptor` of `kernels/ptx/wgmma.cuh`.
    fn descriptor(start: u64, leading: u64, stride: u64) -> u64 {
        start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | 1 << 62
    }

    /// Returns the address of an element in the canonical layouts of "swizzle 128B" (PTX ISA, matrix descriptors;
    /// CUTLASS, `mma_sm90_desc.hpp`). In elements of 2 bytes these are `((8, n), (8, 2)) : ((64, stride), (1, 8))` for
    /// K-major tiles and `((8, 8, n), (8, 2)) : ((1, 8, leading), (64, stride))` for transposed ones (`across`). Bits 4
    /// to 6 of a byte's address are XORed with bits 7 to 9.
    fn canonical(start: usize, leading: usize, stride: usize, across: bool, row: usize, k: usize) -> usize {
        let element = match across {
            false => row % 8 * 64 + row / 8 * (stride / 2) + k % 8 + k / 8 * 8,
            true => row % 8 + row / 8 % 8 * 8 + row / 64 * (leading / 2) + k % 8 * 64 + k / 8 * (stride / 2),
        };
        let address = start + 2 * element;
        address ^ (address / 128 % 8 * 16)
    }

    #[test]
    fn descriptors_describe_the_canonical_layouts() {
        // a has 64 rows, b 64 to 256 columns. Starts of the slices along K, within a row of 128 bytes and beyond.
        for (across, starts) in [(false, [1024, 1056, 1088, 1120]), (true, [1024, 3072, 5120, 7168])] {
            for start in starts {
                for (leading, stride) in [(8192, 1024), (16384, 1024), (1024, 8192)] {
                    let tile = Tile::new(descriptor(start, leading, stride), across).expect("a descriptor");
                    for (first, count) in [(0, 64), (16, 16), (48, 16), (0, 128), (0, 192), (0, 256)] {
                        let mut seen = vec![0; count * 16];
                        for (address, row, k) in tile.pieces(first, count) {
                            for i in 0..8 {
                                let (row, k) = if across { (row + i, k) } else { (row, k + i) };
                                let place = (start as usize, leading as usize, stride as usize);
                                let expected = canonical(place.0, place.1, place.2, across, first + row, k);
                                assert_eq!(
                                    address + 2 * i,
                                    expected,
                                    "{across} {place:?} row {row} of {first}, step {k}"
                                );
                                seen[row * 16 + k] += 1;
                            }
                        }
                        assert!(seen.iter().all(|n| *n == 1), "every element once");
                    }
                }
            }
        }
        let good = descriptor(1024, 8192, 1024);
        for bad in [good ^ 1 << 62, good | 1 << 63, good | 1 << 49, descriptor(1024 + 128, 8192, 1024)] {
            assert!(Tile::new(bad, false).is_err(), "{bad:#x}");
        }
    }
}
