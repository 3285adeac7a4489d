//! mbarriers: barriers in shared memory that count the arrivals of threads and the bytes of TMA loads, phase by phase.

use super::barriers::Then;
use super::block::{Block, Status};
use super::clocks::{Actor, Knowledge, MBARRIERS};
use super::report::{At, Here, Pc};
use super::shadow::How;

/// The largest count of arrivals, and of bytes, that the hardware supports.
const MOST: u32 = (1 << 20) - 1;

/// The state of an mbarrier.
pub struct Mbarrier {
    /// The rank of its block in the cluster, and its shared address there.
    place: (usize, usize),
    /// Where it was initialised.
    init: Here,
    /// Arrivals per phase.
    count: u32,
    /// Arrivals that the current phase still waits for.
    missing: u32,
    /// Bytes that the current phase still waits for. Negative if bytes have arrived before they were expected.
    bytes: i64,
    /// The number of phases that have ended.
    phase: u32,
    /// The thread that initialised it, until that thread has run `mbarrier_fence`.
    unfenced: Option<usize>,
    /// The latest load to arrive: its thread, its line, and the number of phases that have ended once it is complete.
    copied: Option<(usize, Here, u32)>,
    /// The number of phases that some thread has waited for.
    waited: u32,
    /// The threads that wait for the current phase: number, line and parity.
    waiting: Vec<(usize, Here, u32)>,
    /// What the arrivals and loads of the current phase make known.
    now: Knowledge,
    /// The same for the previous phase.
    last: Knowledge,
}

impl Mbarrier {
    /// Returns the line at which a thread waits.
    pub fn waits_at(&self, thread: usize) -> At {
        self.waiting.iter().find(|(t, ..)| *t == thread).map_or(At::Kernel, |(_, site, _)| site.at())
    }

    /// Describes which threads wait in a deadlock, and what the mbarrier lacks; `None` if no thread waits.
    pub fn describe(&self) -> Option<String> {
        let (_, site, parity) = self.waiting.first()?;
        let bytes = match self.bytes {
            n if n < 0 => format!("has received {} bytes more than expected", -n),
            n => format!("{n} bytes"),
        };
        let threads = match self.waiting.len() {
            1 => "1 thread waits".to_string(),
            n => format!("{n} threads wait"),
        };
        Some(format!(
            "{threads} in {} for parity {parity} of {}, whose phase {} still waits for {} of {} arrivals and {bytes}",
            site.site(),
            self.name(),
            self.phase,
            self.missing,
            self.count,
        ))
    }

    /// Returns its description for messages: address, block and the line of its initialisation.
    pub fn name(&self) -> String {
        let (rank, offset) = self.place;
        let block = if rank > 0 { format!(" of block {rank} of the cluster") } else { String::new() };
        format!("the mbarrier at shared address {offset:#x}{block} (initialised in {})", self.init.site())
    }

    /// Returns the number of the current phase.
    pub fn phase(&self) -> u32 {
        self.phase
    }
}

impl Block {
    /// The current thread initialises an mbarrier for `count` arrivals. Returns false if it was reported.
    pub fn mbarrier_init(&mut self, (site, pc): (Here, Pc), address: u64, count: u32) -> bool {
        let Some(offset) = self.mbarrier_offset(site, address) else { return false };
        let place = (self.rank(self.current), offset);
        if !(1..=MOST).contains(&count) {
            self.report(site.at(), format!("an mbarrier for {count} arrivals: the count must be 1 to {MOST}"));
            return false;
        }
        if let Some(old) = self.mbarriers.iter().find(|b| b.place == place) {
            let what = format!("{} is initialised again", old.name());
            self.report(site.at(), what);
            return false;
        }
        if self.mbarriers.len() == MBARRIERS {
            self.report(site.at(), format!("more than {MBARRIERS} mbarriers: the emulator can track no more"));
            return false;
        }
        if self.options.checks && !self.access(Actor::Thread, (address, 8), How::Write, pc) {
            return false;
        }
        self.mbarriers.push(Mbarrier {
            place,
            init: site,
            count,
            missing: count,
            bytes: 0,
            phase: 0,
            unfenced: Some(self.current),
            copied: None,
            waited: 0,
            waiting: Vec::new(),
            now: Knowledge::default(),
            last: Knowledge::default(),
        });
        true
    }

    /// Makes the mbarriers that the current thread has initialised visible to TMA.
    pub fn mbarrier_fence(&mut self) {
        let current = self.current;
        self.mbarriers.iter_mut().filter(|b| b.unfenced == Some(current)).for_each(|b| b.unfenced = None);
    }

    /// Returns the shared address of an mbarrier, given its address in the current thread's own block.
    fn mbarrier_offset(&mut self, site: Here, address: u64) -> Option<usize> {
        let Some(offset) = self.own().offset(address) else {
            self.report(site.at(), "the mbarrier is not in shared memory");
            return None;
        };
        if !offset.is_multiple_of(8) {
            self.report(site.at(), "misaligned: the address of an mbarrier must be a multiple of 8");
            return None;
        }
        if let Err(what) = self.own().inside(offset, 8) {
            self.report(site.at(), format!("out of bounds: an mbarrier: {what}"));
            return None;
        }
        Some(offset)
    }

    /// Returns the index of an initialised mbarrier that the current thread uses: the one in the block of this rank
    /// that has the shared address that `address` has in the thread's own block.
    fn mbarrier(&mut self, (site, pc): (Here, Pc), (address, rank): (u64, usize)) -> Option<usize> {
        let offset = self.mbarrier_offset(site, address)?;
        if !self.reaches(site, rank) {
            return None;
        }
        let Some(number) = self.mbarriers.iter().position(|b| b.place == (rank, offset)) else {
            self.report(site.at(), format!("the mbarrier at shared address {offset:#x} is not initialised"));
            return None;
        };
        // Its initialisation, a plain write, must happen before this access.
        let there = self.shared[rank].at(offset) as u64;
        let fine = !self.options.checks || self.access(Actor::Thread, (there, 8), How::Atomic, pc);
        fine.then_some(number)
    }

    /// Returns whether the cluster has a block of this rank whose shared memory still exists. If not, that was
    /// reported.
    pub fn reaches(&mut self, site: Here, rank: usize) -> bool {
        let (count, blocks) = (self.count(), self.shared.len());
        if rank >= blocks {
            self.report(site.at(), format!("there is no block {rank} in a cluster of {blocks} blocks"));
            return false;
        }
        let ended = self.threads[rank * count..][..count].iter().all(|t| t.status == Status::Done);
        if ended {
            let what = format!(
                "block {rank} of the cluster has ended, and its shared memory with it: call cluster_barrier first"
            );
            self.report(site.at(), what);
        }
        !ended
    }

    /// Returns the index of the mbarrier that is to count the bytes of a TMA load.
    pub fn counting_mbarrier(&mut self, place: (Here, Pc), at: (u64, usize)) -> Option<usize> {
        let number = self.mbarrier(place, at)?;
        let barrier = &self.mbarriers[number];
        if barrier.unfenced.is_some() {
            let what = format!("{} is not visible to TMA: call mbarrier_fence after mbarrier_init", barrier.name());
            self.report(place.0.at(), what);
            return None;
        }
        Some(number)
    }

    /// The current thread arrives and expects `bytes` more bytes of TMA loads (`expect_tx`). Returns false if it was
    /// reported.
    pub fn mbarrier_arrive(&mut self, place: (Here, Pc), at: (u64, usize), bytes: u32) -> bool {
        let Some(number) = self.mbarrier(place, at) else { return false };
        let (current, barrier) = (self.current, &mut self.mbarriers[number]);
        if barrier.missing == 0 {
            let what = format!(
                "too many arrivals: phase {} of {} already has all {}",
                barrier.phase,
                barrier.name(),
                barrier.count
            );
            self.report(place.0.at(), what);
            return false;
        }
        barrier.bytes += i64::from(bytes);
        if barrier.bytes > i64::from(MOST) {
            let what = format!("{} bytes are expected by {}, which can count {MOST}", barrier.bytes, barrier.name());
            self.report(place.0.at(), what);
            return false;
        }
        barrier.missing -= 1;
        if let Some(clocks) = &mut self.clocks {
            clocks.publish(current, &mut barrier.now);
        }
        self.end_phase(number);
        true
    }

    /// Counts the bytes of a TMA load that has arrived; `(thread, site)` says which thread started it, and where.
    pub fn count_bytes(&mut self, number: usize, bytes: i64, (thread, site): (usize, Here)) {
        let barrier = &mut self.mbarriers[number];
        barrier.bytes -= bytes;
        barrier.copied = Some((thread, site, barrier.phase + 1));
        self.end_phase(number);
    }

    /// Starts the next phase if everything that the current one waits for has arrived.
    fn end_phase(&mut self, number: usize) {
        let barrier = &mut self.mbarriers[number];
        if barrier.missing > 0 || barrier.bytes != 0 {
            return;
        }
        if let Some(clocks) = &self.clocks {
            clocks.arrived(number, barrier.phase, &mut barrier.now);
        }
        barrier.last = std::mem::take(&mut barrier.now);
        (barrier.phase, barrier.missing) = (barrier.phase + 1, barrier.count);
        for (thread, ..) in barrier.waiting.drain(..) {
            self.threads[thread].status = Status::Ready;
        }
        if let Some((thread, site)) = self.tma_loads.pending_for(number) {
            let barrier = &self.mbarriers[number];
            let what = format!(
                "fewer bytes are expected than loaded: phase {} of {} ends while this load is in flight",
                barrier.phase - 1,
                barrier.name()
            );
            self.report_for(thread, site.at(), what);
        }
    }

    /// The current thread waits for the phase of this parity to end. After a wait it must be called again, because the
    /// phase may have changed.
    pub fn mbarrier_wait(&mut self, place: (Here, Pc), address: u64, parity: u32) -> Then {
        let rank = self.rank(self.current);
        let Some(number) = self.mbarrier(place, (address, rank)) else { return Then::Wait };
        if parity > 1 {
            self.report(place.0.at(), format!("the parity of a phase is {parity}: it must be 0 or 1"));
            return Then::Wait;
        }
        let (current, barrier) = (self.current, &mut self.mbarriers[number]);
        if barrier.phase & 1 == parity {
            barrier.waiting.push((current, place.0, parity));
            self.threads[current].status = Status::AtMbarrier(number);
            return Then::Wait;
        }
        barrier.waited = barrier.phase;
        if let Some(clocks) = &mut self.clocks {
            clocks.acquire(current, &barrier.last);
        }
        Then::GoOn
    }

    /// Reports TMA loads that have not arrived, or that no thread has waited for, when the block ends: its shared
    /// memory will belong to another block.
    pub fn check_tma_loads(&mut self) {
        if let Some((thread, site)) = self.tma_loads.oldest() {
            self.report_for(thread, site.at(), "the block ends while this TMA load is in flight");
        }
        let mut left = None;
        for barrier in &self.mbarriers {
            let unseen = barrier.copied.filter(|(.., phases)| *phases > barrier.waited);
            if let Some((thread, site, _)) = unseen {
                let what = format!(
                    "the block ends, but no thread has waited for this TMA load, counted by {}",
                    barrier.name()
                );
                left = left.or(Some((thread, site, what)));
            } else if barrier.bytes != 0 {
                let what = format!("the block ends, but {} still waits for {} bytes", barrier.name(), barrier.bytes);
                left = left.or(Some((0, barrier.init, what)));
            }
        }
        if let Some((thread, site, what)) = left {
            self.report_for(thread, site.at(), what);
        }
    }
}
