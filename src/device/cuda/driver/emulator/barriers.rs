//! Synchronisation of threads: named barriers of a block, the barrier of a cluster, and exchanges between the lanes of
//! a warp.

use super::block::{BARRIERS, Block, Status};
use super::report::{At, Here};
use std::ops::Range;

/// The state of a barrier.
#[derive(Default)]
pub struct Barrier {
    /// How many threads the barrier waits for; 0 if none has arrived yet.
    expected: usize,
    /// The source line at which the first thread arrived.
    site: Option<Here>,
    /// The threads that have arrived.
    waiting: Vec<usize>,
}

impl Barrier {
    /// Describes a barrier that is deadlocked, and what up to three of the missing threads do. `name` is the name of
    /// the barrier, `threads` the numbers of the threads that take part in it.
    pub fn describe(&self, block: &Block, name: &str, threads: Range<usize>) -> (At, String) {
        let site = self.site.map_or(At::Kernel, Here::at);
        let missing = threads.filter(|t| !self.waiting.contains(t));
        let mut others = String::new();
        for t in missing.take(3) {
            let [x, y, z] = block.coordinates(t);
            let does = match block.threads[t].status {
                Status::Done => "has returned".to_string(),
                Status::AtCluster => "waits for its cluster".to_string(),
                Status::AtBarrier(other) => match &block.barriers[block.rank(t)][other].site {
                    Some(site) => format!("waits at barrier {other}, {}", site.site()),
                    None => format!("waits at barrier {other}"),
                },
                Status::AtMbarrier(_) => "waits at an mbarrier".to_string(),
                Status::AtWarp => "waits for lanes of its warp".to_string(),
                _ => "polls a word".to_string(),
            };
            others += &format!("; thread ({x}, {y}, {z}) {does}");
        }
        (site, format!("{} of {} threads are at {name}{others}", self.waiting.len(), self.expected))
    }
}

/// A warp-level operation that some lanes have reached, such as a shuffle, a vote, an `mma` or `__syncwarp`.
pub struct Exchange {
    mask: u32,
    /// The name of the operation, for messages.
    what: &'static str,
    site: Here,
    /// One bit for each lane that has arrived.
    arrived: u32,
    words: [Option<Words>; 32],
}

/// The words that a lane passes to its warp, and the buffer that receives the words of all lanes.
#[derive(Clone, Copy)]
pub struct Words {
    /// This lane's `count` words.
    pub mine: *const u64,
    /// At most [`Words::MOST`].
    pub count: usize,
    /// `[count][32]` words: word w of lane l at index 32 w + l.
    pub all: *mut u64,
}

impl Exchange {
    /// Copies the words of all lanes to every lane. Words of lanes outside of the mask are 0.
    fn hand_out(&self) {
        let mut all = [0; 32 * Words::MOST];
        let mut count = 0;
        for (lane, words) in self.words.iter().enumerate() {
            let Some(words) = words else { continue };
            count = words.count;
            for word in 0..count {
                // SAFETY: the words are an argument of the call in which the lane waits, so they live.
                all[32 * word + lane] = unsafe { *words.mine.add(word) };
            }
        }
        for words in self.words.iter().flatten() {
            // SAFETY: as above; the caller's array has room for 32 words for each of `count`.
            unsafe { std::ptr::copy_nonoverlapping(all.as_ptr(), words.all, 32 * count) };
        }
    }
}

impl Words {
    /// The most words that a lane can pass.
    pub const MOST: usize = 4;
}

/// Describes the warp-level operation in which a deadlocked thread waits.
pub fn describe_warp(block: &Block, thread: usize) -> (At, String) {
    let lane = thread % 32;
    let Some(exchange) = block.warps[thread / 32].iter().find(|e| e.arrived >> lane & 1 == 1) else {
        return (At::Kernel, "a lane waits, but in no operation of its warp".into());
    };
    let what = format!(
        "{} with mask {:#010x} waits for lanes {:#010x}, which never arrive",
        exchange.what,
        exchange.mask,
        exchange.mask & !exchange.arrived
    );
    (exchange.site.at(), what)
}

/// What a thread does after it has reached a point of synchronisation.
#[derive(PartialEq, Eq)]
pub enum Then {
    GoOn,
    /// Suspend the thread. It is resumed when it may go on, or never.
    Wait,
}

impl Block {
    /// The current thread arrives at barrier `id` for `threads` threads. If `threads` is negative, the barrier is for
    /// the whole block, and all threads must arrive at it from the same source line.
    pub fn barrier(&mut self, site: Here, id: i32, threads: i32) -> Then {
        let all = self.count();
        let expected = usize::try_from(threads).unwrap_or(all);
        let Some(number) = usize::try_from(id).ok().filter(|id| *id < BARRIERS) else {
            self.report(site.at(), format!("there is no barrier {id}: barrier numbers are 0 to 15"));
            return Then::Wait;
        };
        if expected != all && !expected.is_multiple_of(32) || expected == 0 || expected > all {
            let what = format!(
                "barrier {id} for {expected} threads in a block of {all}: it must be whole warps or the whole block"
            );
            self.report(site.at(), what);
            return Then::Wait;
        }
        let (current, rank) = (self.current, self.rank(self.current));
        let barrier = &mut self.barriers[rank][number];
        if barrier.expected == 0 {
            (barrier.expected, barrier.site) = (expected, Some(site));
        }
        let other = barrier.site.filter(|other| threads < 0 && *other != site);
        if barrier.expected != expected {
            let what = format!(
                "barrier {id} for {expected} threads, but the threads already waiting at it expect {}",
                barrier.expected
            );
            self.report(site.at(), what);
            return Then::Wait;
        }
        if let Some(other) = other {
            let what = format!("divergent barrier: other threads of the block wait at the one in {}", other.site());
            self.report(site.at(), what);
            return Then::Wait;
        }
        barrier.waiting.push(current);
        if barrier.waiting.len() < expected {
            self.threads[current].status = Status::AtBarrier(number);
            return Then::Wait;
        }
        let waiting = std::mem::take(&mut self.barriers[rank][number]).waiting;
        let total = self.total();
        if let Some(clocks) = &mut self.clocks {
            if expected == total { clocks.sync_all() } else { clocks.sync(&waiting) }
        }
        waiting.iter().for_each(|&t| self.threads[t].status = Status::Ready);
        Then::GoOn
    }

    /// The current thread arrives at the barrier of its cluster, which waits for all threads of all its blocks.
    pub fn cluster_barrier(&mut self, site: Here) -> Then {
        let (current, total) = (self.current, self.total());
        if let Some(other) = self.cluster.site.filter(|other| *other != site) {
            let what = format!("divergent barrier: other threads of the cluster wait at the one in {}", other.site());
            self.report(site.at(), what);
            return Then::Wait;
        }
        (self.cluster.expected, self.cluster.site) = (total, Some(site));
        self.cluster.waiting.push(current);
        if self.cluster.waiting.len() < total {
            self.threads[current].status = Status::AtCluster;
            return Then::Wait;
        }
        self.cluster = Barrier::default();
        if let Some(clocks) = &mut self.clocks {
            clocks.sync_all();
        }
        self.threads.iter_mut().for_each(|t| t.status = Status::Ready);
        Then::GoOn
    }

    /// The current thread arrives at the warp-level operation `what` for the lanes in `mask`. Without `words` the
    /// operation orders memory (`__syncwarp`); with `words` the lanes only exchange values.
    pub fn warp(&mut self, site: Here, mask: u32, what: &'static str, words: Option<Words>) -> Then {
        let (current, count) = (self.current, self.count());
        let (warp, lane) = (current / 32, current % 32);
        let lanes = count - warp * 32 % count;
        let exist = if lanes >= 32 { u32::MAX } else { (1 << lanes) - 1 };
        if mask >> lane & 1 == 0 {
            self.report(site.at(), format!("{what}: lane {lane} is not in its own mask {mask:#010x}"));
            return Then::Wait;
        }
        if mask & !exist != 0 {
            self.report(
                site.at(),
                format!("{what}: mask {mask:#010x} names lanes that this warp of {lanes} lanes does not have"),
            );
            return Then::Wait;
        }
        let pending = &mut self.warps[warp];
        let index = match pending.iter().position(|m| m.mask & mask != 0) {
            Some(index) => index,
            None => {
                pending.push(Exchange { mask, what, site, arrived: 0, words: [None; 32] });
                pending.len() - 1
            }
        };
        let exchange = &mut pending[index];
        if (exchange.mask, exchange.what) != (mask, what) || exchange.site != site {
            let what = format!(
                "divergent warp: {what} with mask {mask:#010x}, while other lanes are at {} with mask {:#010x} in {}",
                exchange.what,
                exchange.mask,
                exchange.site.site()
            );
            self.report(site.at(), what);
            return Then::Wait;
        }
        exchange.arrived |= 1 << lane;
        exchange.words[lane] = words;
        if exchange.arrived != mask {
            self.threads[current].status = Status::AtWarp;
            return Then::Wait;
        }
        let exchange = self.warps[warp].swap_remove(index);
        let members: Vec<usize> = (0..32).filter(|l| mask >> l & 1 == 1).map(|l| warp * 32 + l).collect();
        exchange.hand_out();
        if let Some(clocks) = self.clocks.as_mut().filter(|_| words.is_none()) {
            clocks.sync(&members);
        }
        members.iter().for_each(|&t| self.threads[t].status = Status::Ready);
        Then::GoOn
    }
}
