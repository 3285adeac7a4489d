//! wgmma: products of tiles in shared memory, which run beside the warps (`kernels/ptx/wgmma.cuh`). Each warp of a warpgroup
//! makes its own 16 rows, so that nothing but barriers keeps the four together.

use super::block::Block;
use super::clocks::{Actor, Who};
use super::options::Arrival;
use super::report::{At, Here, Pc};
use super::shadow::How;
use super::shared::Shared;
use std::collections::VecDeque;
use std::ops::Range;

/// Rows of a warp, and steps of K of one instruction.
const ROWS: usize = 16;
const STEPS: usize = 16;

/// Where a byte of a tile with "swizzle 128B" lies: pieces of 16 bytes change places by the row of 128 bytes that they are in.
pub fn swizzled(address: usize) -> usize {
    address ^ (address >> 3 & 0x70)
}

/// The number that a bf16 is.
fn widened(x: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(x) << 16))
}

/// One operand: what its descriptor says, and whether its other axis than K lies along rows of 128 bytes.
#[derive(Clone, Copy, PartialEq)]
struct Tile {
    start: usize,
    leading: usize,
    stride: usize,
    transposed: bool,
}

impl Tile {
    /// # Errors
    /// What no tile here has.
    fn new(descriptor: u64, transposed: bool) -> Result<Self, String> {
        let field = |shift: u32| (descriptor >> shift & 0x3fff) as usize * 16;
        let tile = Tile { start: field(0), leading: field(16), stride: field(32), transposed };
        if descriptor >> 62 != 1 || descriptor >> 49 & 7 != 0 {
            return Err(format!("the descriptor {descriptor:#018x} is not one of swizzle 128B"));
        }
        if tile.start & 0x380 != 0 {
            return Err("misaligned: the tile of a descriptor begins at a multiple of 1024 bytes".into());
        }
        Ok(tile)
    }

    /// The pieces of 16 bytes that hold `count` rows of a (or columns of b) from `first` on, by the first of their elements:
    /// address, row from `first` on, step of K.
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

/// Where the left operand is: in a tile, or in four registers of each of the warp's lanes.
enum Left {
    Shared(Tile),
    Registers(Box<[*const u32; 32]>),
}

/// A product as one warp makes it.
struct Product {
    group: u32,
    a: Left,
    b: Tile,
    columns: usize,
    add: bool,
    /// Registers of the warp's lanes.
    d: [*mut f32; 32],
}

/// What is known of one warp.
#[derive(Default)]
pub struct Warp {
    pending: VecDeque<Product>,
    /// What it has started that other warps of its warpgroup have not; and how many came before.
    ahead: VecDeque<(Here, [u64; 3])>,
    started: usize,
    /// Elements of b, step by step of K.
    b: Vec<f64>,
}

/// Registers of results, or of a left operand, which may be read while the product is made.
struct Registers {
    range: Range<usize>,
    group: u32,
    operand: bool,
}

/// What is known of one thread.
#[derive(Default)]
pub struct Lane {
    /// Nothing has touched results since `wgmma_fence`.
    fenced: bool,
    /// Groups that it has closed, and waited for.
    committed: u32,
    waited: u32,
    registers: Vec<Registers>,
}

impl Lane {
    /// Watches registers until the group is waited for.
    fn watch(&mut self, start: usize, bytes: usize, group: u32, operand: bool) {
        let now = Registers { range: start..start + bytes, group, operand };
        match self.registers.iter_mut().find(|r| r.range.start == start) {
            Some(known) => *known = now,
            None => self.registers.push(now),
        }
    }
}

/// What the lanes of a warp bring to a product: descriptors (or where the left operand's registers are), registers, and in one word
/// whether there are such, columns, TB, TA, and `add`.
pub struct Operands<'a> {
    pub site: Here,
    pub pc: Pc,
    pub words: &'a [u64; 128],
}

impl Block {
    /// The current thread, the last of its warp to come, starts the product of all; false when it was reported.
    pub fn product(&mut self, operands: &Operands) -> bool {
        match self.start_product(operands) {
            Ok(fine) => fine,
            Err(what) => {
                self.report(operands.site.at(), what);
                false
            }
        }
    }

    fn start_product(&mut self, &Operands { site, pc, words }: &Operands) -> Result<bool, String> {
        let (warp, lane) = (self.current / 32, self.current % 32);
        let of = |word: usize| &words[32 * word..][..32];
        let [mut left, right, shape] = [0, 1, 3].map(|word| of(word)[lane]);
        let in_registers = shape >> 12 & 1 == 1;
        let alike: &[usize] = if in_registers { &[1, 3] } else { &[0, 1, 3] };
        if alike.iter().any(|&word| of(word).iter().any(|w| *w != of(word)[lane])) {
            return Err("divergent warp: lanes give different descriptors to one wgmma".into());
        }
        let columns = (shape >> 3 & 0x1ff) as usize;
        let [add, ta, tb] = [0, 1, 2].map(|bit| shape >> bit & 1 == 1);
        let (rank, of_block) = (self.rank(self.current), self.current % self.count() / 128);
        if (of_block + 1) * 128 > self.count() {
            return Err("wgmma by a warp whose warpgroup has fewer than four".into());
        }
        if self.shared.len() > 1 && !self.count().is_multiple_of(128) {
            return Err(
                "wgmma in a cluster whose blocks are not whole warpgroups, which the emulator does not have".into()
            );
        }
        let b = Tile::new(right, tb)?;
        let mut tiles = vec![(b, 0, columns)];
        let a = if in_registers {
            // Each warp has registers of its own.
            left = 0;
            Left::Registers(Box::new(std::array::from_fn(|lane| of(0)[lane] as *const u32)))
        } else {
            let a = Tile::new(left, ta)?;
            // The four warps' rows, whoever of them reads which.
            tiles.push((a, 0, 4 * ROWS));
            Left::Shared(a)
        };
        for &(tile, first, count) in &tiles {
            for (address, ..) in tile.pieces(first, count) {
                self.shared[rank]
                    .inside(address, 16)
                    .map_err(|what| format!("out of bounds: a tile of wgmma, {what}"))?;
            }
        }
        let lanes = warp * 32..warp * 32 + 32;
        let group = self.threads[self.current].products.committed + 1;
        let registers = std::array::from_fn(|lane| of(2)[lane] as *mut f32);
        for (thread, d) in lanes.zip(registers) {
            let lane = &mut self.threads[thread].products;
            if lane.committed + 1 != group {
                return Err("divergent warp: lanes have closed different numbers of groups of products".into());
            }
            if !lane.fenced {
                let when = "before the first product, after a wait, and after results were touched";
                return Err(format!("wgmma_fence is missing: it comes {when}"));
            }
            lane.watch(d as usize, columns * 2, group, false);
            if in_registers {
                lane.watch(of(0)[thread % 32] as usize, 16, group, true);
            }
        }
        self.in_step(site, warp, [left, right, shape])?;
        if self.options.checks && !self.read_tiles(pc, warp, group, &tiles) {
            return Ok(false);
        }
        let now = match self.options.arrival {
            Arrival::Eager => true,
            Arrival::Lazy => false,
            Arrival::Random => self.random.coin(),
        };
        self.products[warp].pending.push_back(Product { group, a, b, columns, add, d: registers });
        if now {
            self.finish_products(warp, group);
        }
        Ok(true)
    }

    /// The warps of a warpgroup start the same products.
    fn in_step(&mut self, site: Here, warp: usize, product: [u64; 3]) -> Result<(), String> {
        let started = self.products[warp].started;
        let group = warp / 4 * 4..warp / 4 * 4 + 4;
        for other in group.clone().filter(|w| *w != warp) {
            let theirs = &self.products[other];
            let Some(back) = theirs.started.checked_sub(started + 1) else { continue };
            let index = theirs.ahead.len().checked_sub(back + 1);
            if let Some((at, same)) = index.and_then(|i| theirs.ahead.get(i)).filter(|one| **one != (site, product)) {
                let how = if *same == product { "the same" } else { "another" };
                return Err(format!("divergent warpgroup: warp {other} makes {how} product in {}", at.site()));
            }
        }
        let mine = &mut self.products[warp];
        mine.started += 1;
        mine.ahead.push_back((site, product));
        let least = group.clone().map(|w| self.products[w].started).min().unwrap_or(0);
        for warp in group {
            let one = &mut self.products[warp];
            let keep = one.started - least;
            one.ahead.drain(..one.ahead.len().saturating_sub(keep));
        }
        Ok(())
    }

    /// Remembers that tiles are read until the group is waited for. What was written must be visible to all lanes: each answers
    /// for some words.
    fn read_tiles(&mut self, pc: Pc, warp: usize, group: u32, tiles: &[(Tile, usize, usize)]) -> bool {
        for &(tile, first, count) in tiles {
            for (number, (address, ..)) in tile.pieces(first, count).enumerate() {
                let who = Who { thread: warp * 32 + number % 32, actor: Actor::Products { group } };
                let place = (self.shared[self.rank(warp * 32)].at(address) as u64, 16);
                if !self.access_by(who, place, How::Read, pc) {
                    return false;
                }
            }
        }
        true
    }

    /// Carries out a warp's products up to this group.
    fn finish_products(&mut self, warp: usize, group: u32) {
        while self.products[warp].pending.front().is_some_and(|p| p.group <= group) {
            let Some(product) = self.products[warp].pending.pop_front() else { return };
            let mut b = std::mem::take(&mut self.products[warp].b);
            // SAFETY: tiles were checked when it was started; lanes have left the addresses of their registers, which live until
            // they wait for it.
            unsafe { self.multiply(warp, &product, &mut b) }
            self.products[warp].b = b;
        }
    }

    /// `count` rows of a tile from `first` on, step of K by step.
    ///
    /// # Safety
    /// The tile lies in this shared memory.
    unsafe fn read_tile(shared: &Shared, tile: Tile, (first, count): (usize, usize), to: &mut [f64]) {
        let (row, step) = if tile.transposed { (1, 0) } else { (0, 1) };
        for (address, m, k) in tile.pieces(first, count) {
            // SAFETY: the caller's promise; pieces are aligned to their size.
            let piece = unsafe { *shared.at(address).cast::<[u16; 8]>() };
            for (i, x) in piece.into_iter().enumerate() {
                to[(k + step * i) * count + m + row * i] = widened(x);
            }
        }
    }

    /// # Safety
    /// Tiles lie in shared memory, and registers live.
    unsafe fn multiply(&self, warp: usize, product: &Product, b: &mut Vec<f64>) {
        let &Product { columns, add, ref d, .. } = product;
        let (first, shared) = (warp % 4 * ROWS, &self.shared[self.rank(warp * 32)]);
        let mut a = [0.0; ROWS * STEPS];
        b.resize(columns * STEPS, 0.0);
        // SAFETY: the caller's promise.
        unsafe {
            Self::read_tile(shared, product.b, (0, columns), b);
            match &product.a {
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
                // SAFETY: the caller's promise: a lane has columns / 2 registers.
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

    /// The current thread has touched its results for the last time before products.
    pub fn wgmma_fence(&mut self) {
        self.threads[self.current].products.fenced = true;
    }

    /// The products of the current thread since the last call are a group.
    pub fn wgmma_commit(&mut self) {
        self.threads[self.current].products.committed += 1;
    }

    /// All but the `in_flight` latest groups are complete.
    pub fn wgmma_wait(&mut self, in_flight: u32) {
        let current = self.current;
        let lane = &mut self.threads[current].products;
        let done = lane.committed.saturating_sub(in_flight);
        (lane.waited, lane.fenced) = (lane.waited.max(done), false);
        if let Some(clocks) = &mut self.clocks {
            clocks.wait_products(current, done);
        }
        self.finish_products(current / 32, done);
    }

    /// The current thread touches its own stack, with checks on; false when these are registers of products that are not
    /// complete.
    pub fn touch(&mut self, address: usize, write: bool, pc: Pc) -> bool {
        let lane = &mut self.threads[self.current].products;
        let touched = lane.registers.iter().find(|r| r.range.contains(&address) && (write || !r.operand));
        let Some(touched) = touched else { return true };
        lane.fenced = false;
        if touched.group <= lane.waited {
            return true;
        }
        let what = match touched.operand {
            true => "the left operand of a product is overwritten before wgmma_wait says that it is complete",
            false => "results of a product are touched before wgmma_wait says that it is complete",
        };
        self.report(At::Access(pc), what);
        false
    }

    /// When a block ends, the warps of a warpgroup have made as many products.
    pub fn check_products(&mut self) {
        let counts: Vec<usize> = self.products.iter().map(|warp| warp.started).collect();
        for (number, group) in counts.chunks(4).enumerate() {
            if group.iter().any(|n| *n != group[0]) {
                let site = self.products[4 * number..].iter().find_map(|w| w.ahead.front()).map(|(site, _)| *site);
                let what = format!("divergent warpgroup: its warps make {group:?} products, but each takes all four");
                self.report_for(128 * number, site.map_or(At::Kernel, Here::at), what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Tile;

    /// As `matrix_descriptor` of `kernels/ptx/wgmma.cuh` writes it.
    fn descriptor(start: u64, leading: u64, stride: u64) -> u64 {
        start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | 1 << 62
    }

    /// The canonical layouts of "swizzle 128B" (PTX ISA, matrix descriptors; CUTLASS, `mma_sm90_desc.hpp`), in elements of 2 bytes: along
    /// K `((8, n), (8, 2)) : ((64, stride), (1, 8))`, across it `((8, 8, n), (8, 2)) : ((1, 8, leading), (64, stride))`. Bits 4 to 6 of
    /// a byte's address are combined with bits 7 to 9.
    fn canonical(start: usize, leading: usize, stride: usize, across: bool, row: usize, k: usize) -> usize {
        let element = match across {
            false => row % 8 * 64 + row / 8 * (stride / 2) + k % 8 + k / 8 * 8,
            true => row % 8 + row / 8 % 8 * 8 + row / 64 * (leading / 2) + k % 8 * 64 + k / 8 * (stride / 2),
        };
        let address = start + 2 * element;
        address ^ (address / 128 % 8 * 16)
    }

    #[test]
    fn descriptors_say_the_canonical_layouts() {
        // Rows of a: 64. Columns of b: 64 to 256. Starts of the steps of K within and beyond a row of 128 bytes.
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
