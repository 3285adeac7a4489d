//! mbarrier: barriers in shared memory that count arrivals, and bytes of the copy engine, phase by phase.

use super::barriers::Then;
use super::block::{Block, Status};
use super::clocks::{Actor, Knowledge, MBARRIERS};
use super::report::{At, Here, Pc};
use super::shadow::How;

/// Arrivals and bytes that the hardware can count.
const MOST: u32 = (1 << 20) - 1;

/// See the module.
pub struct Mbarrier {
    /// The block of the cluster that it belongs to, and its shared address there.
    place: (usize, usize),
    init: Here,
    count: u32,
    /// Arrivals, and bytes of copies, that the phase waits for. Copies may come before they are announced.
    missing: u32,
    bytes: i64,
    /// Phases that have ended.
    phase: u32,
    /// The thread that initialised it, until it has run `mbarrier_fence`.
    unfenced: Option<usize>,
    /// The latest copy: who has started it, where, and after how many phases it was complete.
    copied: Option<(usize, Here, u32)>,
    /// How many phases somebody has waited for.
    waited: u32,
    /// Who waits for the phase: thread, place, parity.
    waiting: Vec<(usize, Here, u32)>,
    /// What was passed on in this phase, and in the last one.
    now: Knowledge,
    last: Knowledge,
}

impl Mbarrier {
    /// Where a thread waits for ever.
    pub fn waits_at(&self, thread: usize) -> At {
        self.waiting.iter().find(|(t, ..)| *t == thread).map_or(At::Kernel, |(_, site, _)| site.at())
    }

    /// Who waits for ever, and why.
    pub fn describe(&self) -> Option<String> {
        let (_, site, parity) = self.waiting.first()?;
        let bytes = match self.bytes {
            n if n < 0 => format!("has {} bytes more than were announced", -n),
            n => format!("misses {n} bytes"),
        };
        let threads = match self.waiting.len() {
            1 => "1 thread waits".to_string(),
            n => format!("{n} threads wait"),
        };
        Some(format!(
            "{threads} in {} for parity {parity} of {}, whose phase {} misses {} of {} arrivals and {bytes}",
            site.site(),
            self.name(),
            self.phase,
            self.missing,
            self.count,
        ))
    }

    /// Words for a report.
    pub fn name(&self) -> String {
        let (rank, offset) = self.place;
        let block = if rank > 0 { format!(" of block {rank} of the cluster") } else { String::new() };
        format!("the mbarrier at shared address {offset:#x}{block} (initialised in {})", self.init.site())
    }

    /// The number of its phase.
    pub fn phase(&self) -> u32 {
        self.phase
    }
}

impl Block {
    /// The current thread initialises a barrier; false when it was reported.
    pub fn mbarrier_init(&mut self, (site, pc): (Here, Pc), address: u64, count: u32) -> bool {
        let Some(offset) = self.mbarrier_offset(site, address) else { return false };
        let place = (self.rank(self.current), offset);
        if !(1..=MOST).contains(&count) {
            self.report(site.at(), format!("an mbarrier for {count} arrivals: it counts 1 to {MOST}"));
            return false;
        }
        if let Some(old) = self.mbarriers.iter().find(|b| b.place == place) {
            let what = format!("{} is initialised again", old.name());
            self.report(site.at(), what);
            return false;
        }
        if self.mbarriers.len() == MBARRIERS {
            self.report(site.at(), format!("more than {MBARRIERS} mbarriers, which the emulator does not tell apart"));
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

    /// The copy engine knows what the current thread has initialised.
    pub fn mbarrier_fence(&mut self) {
        let current = self.current;
        self.mbarriers.iter_mut().filter(|b| b.unfenced == Some(current)).for_each(|b| b.unfenced = None);
    }

    /// The shared address of a barrier, which the current thread names as one of its own block.
    fn mbarrier_offset(&mut self, site: Here, address: u64) -> Option<usize> {
        let Some(offset) = self.own().offset(address) else {
            self.report(site.at(), "an mbarrier that is not in shared memory");
            return None;
        };
        if !offset.is_multiple_of(8) {
            self.report(site.at(), "misaligned: the address of an mbarrier is a multiple of 8");
            return None;
        }
        if let Err(what) = self.own().inside(offset, 8) {
            self.report(site.at(), format!("out of bounds: an mbarrier, {what}"));
            return None;
        }
        Some(offset)
    }

    /// The number of an initialised barrier that the current thread uses: the one of this block of the cluster that lies where
    /// `address` does in the thread's own.
    fn mbarrier(&mut self, (site, pc): (Here, Pc), (address, rank): (u64, usize)) -> Option<usize> {
        let offset = self.mbarrier_offset(site, address)?;
        if !self.reaches(site, rank) {
            return None;
        }
        let Some(number) = self.mbarriers.iter().position(|b| b.place == (rank, offset)) else {
            self.report(site.at(), format!("the mbarrier at shared address {offset:#x} is not initialised"));
            return None;
        };
        // Its initialisation, a plain write, must lie before.
        let there = self.shared[rank].at(offset) as u64;
        let fine = !self.options.checks || self.access(Actor::Thread, (there, 8), How::Atomic, pc);
        fine.then_some(number)
    }

    /// Whether there is such a block in the cluster, and its shared memory is still there; if not, it was reported.
    pub fn reaches(&mut self, site: Here, rank: usize) -> bool {
        let (count, blocks) = (self.count(), self.shared.len());
        if rank >= blocks {
            self.report(site.at(), format!("there is no block {rank} in a cluster of {blocks}"));
            return false;
        }
        let ended = self.threads[rank * count..][..count].iter().all(|t| t.status == Status::Done);
        if ended {
            let what =
                format!("block {rank} of the cluster has ended, and its shared memory with it: blocks meet before");
            self.report(site.at(), what);
        }
        !ended
    }

    /// The number of the barrier that is to count bytes of a copy.
    pub fn counting_mbarrier(&mut self, place: (Here, Pc), at: (u64, usize)) -> Option<usize> {
        let number = self.mbarrier(place, at)?;
        let barrier = &self.mbarriers[number];
        if barrier.unfenced.is_some() {
            let what = format!("{} is not known to the copy engine: mbarrier_fence comes first", barrier.name());
            self.report(place.0.at(), what);
            return None;
        }
        Some(number)
    }

    /// The current thread arrives, and announces `bytes` of copies; false when it was reported.
    pub fn mbarrier_arrive(&mut self, place: (Here, Pc), at: (u64, usize), bytes: u32) -> bool {
        let Some(number) = self.mbarrier(place, at) else { return false };
        let (current, barrier) = (self.current, &mut self.mbarriers[number]);
        if barrier.missing == 0 {
            let what = format!(
                "too many arrivals: phase {} of {} has had all {}",
                barrier.phase,
                barrier.name(),
                barrier.count
            );
            self.report(place.0.at(), what);
            return false;
        }
        barrier.bytes += i64::from(bytes);
        if barrier.bytes > i64::from(MOST) {
            let what = format!("{} bytes are announced to {}, which counts {MOST}", barrier.bytes, barrier.name());
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

    /// Bytes of a copy have arrived that counts towards a barrier, started by this thread in this place.
    pub fn count_bytes(&mut self, number: usize, bytes: i64, (thread, site): (usize, Here)) {
        let barrier = &mut self.mbarriers[number];
        barrier.bytes -= bytes;
        barrier.copied = Some((thread, site, barrier.phase + 1));
        self.end_phase(number);
    }

    /// The next phase, where everything has come that this one waits for.
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
        if let Some((thread, site)) = self.engine.late(number) {
            let barrier = &self.mbarriers[number];
            let what = format!(
                "fewer bytes are announced than copied: phase {} of {} ends while this copy is on its way",
                barrier.phase - 1,
                barrier.name()
            );
            self.report_for(thread, site.at(), what);
        }
    }

    /// The current thread wants the phase of this parity to have ended. It asks again after a wait: the phase may be another.
    pub fn mbarrier_wait(&mut self, place: (Here, Pc), address: u64, parity: u32) -> Then {
        let rank = self.rank(self.current);
        let Some(number) = self.mbarrier(place, (address, rank)) else { return Then::Wait };
        if parity > 1 {
            self.report(place.0.at(), format!("a phase of parity {parity}: parities are 0 and 1"));
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

    /// When a block ends, every copy has arrived and was waited for: the memory will be another block's.
    pub fn check_copies(&mut self) {
        if let Some((thread, site)) = self.engine.first() {
            self.report_for(thread, site.at(), "the block ends while this copy of the copy engine is on its way");
        }
        let mut left = None;
        for barrier in &self.mbarriers {
            let unseen = barrier.copied.filter(|(.., phases)| *phases > barrier.waited);
            if let Some((thread, site, _)) = unseen {
                let what =
                    format!("the block ends, and nobody has waited for this copy, which {} counts", barrier.name());
                left = left.or(Some((thread, site, what)));
            } else if barrier.bytes != 0 {
                let what = format!("the block ends, and {} misses {} bytes of copies", barrier.name(), barrier.bytes);
                left = left.or(Some((0, barrier.init, what)));
            }
        }
        if let Some((thread, site, what)) = left {
            self.report_for(thread, site.at(), what);
        }
    }
}
