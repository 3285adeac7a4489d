//! Where threads wait for each other: barriers of the block, and the lanes of a warp.

use super::block::{BARRIERS, Block, Status};
use super::report::{At, Here};
use std::ops::Range;

/// A barrier that some threads have reached.
#[derive(Default)]
pub struct Barrier {
    /// Threads that it waits for; 0: nobody has come yet.
    expected: usize,
    site: Option<Here>,
    waiting: Vec<usize>,
}

impl Barrier {
    /// `name`: what threads of these numbers meet at.
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

/// Lanes of a warp that meet: for a shuffle, a vote, or to order memory.
pub struct Exchange {
    mask: u32,
    what: &'static str,
    site: Here,
    arrived: u32,
    words: [Option<Words>; 32],
}

/// What a lane gives to the others of its warp, and where it wants what all give.
#[derive(Clone, Copy)]
pub struct Words {
    pub mine: *const u64,
    pub count: usize,
    /// `count` words of 32 lanes, those of one number together.
    pub all: *mut u64,
}

impl Exchange {
    fn hand_out(&self) {
        let mut all = [0; 32 * Words::MOST];
        let mut count = 0;
        for (lane, words) in self.words.iter().enumerate() {
            let Some(words) = words else { continue };
            count = words.count;
            for word in 0..count {
                // SAFETY: each lane waits in the call whose argument this is.
                all[32 * word + lane] = unsafe { *words.mine.add(word) };
            }
        }
        for words in self.words.iter().flatten() {
            // SAFETY: as above; the caller's array has 32 words for each of `count`.
            unsafe { std::ptr::copy_nonoverlapping(all.as_ptr(), words.all, 32 * count) };
        }
    }
}

impl Words {
    /// Most words of a lane.
    pub const MOST: usize = 4;
}

pub fn describe_warp(block: &Block, thread: usize) -> (At, String) {
    let lane = thread % 32;
    let Some(meeting) = block.warps[thread / 32].iter().find(|m| m.arrived >> lane & 1 == 1) else {
        return (At::Kernel, "a lane waits for nobody".into());
    };
    let what = format!(
        "{} with mask {:#010x} waits for lanes {:#010x} that never come",
        meeting.what,
        meeting.mask,
        meeting.mask & !meeting.arrived
    );
    (meeting.site.at(), what)
}

/// What a thread does after it has come to a meeting.
#[derive(PartialEq, Eq)]
pub enum Then {
    GoOn,
    /// Suspend; it is called again when it may go on, or never.
    Wait,
}

impl Block {
    /// The current thread comes to a barrier of `threads` threads; a negative number: all of the block.
    pub fn barrier(&mut self, site: Here, id: i32, threads: i32) -> Then {
        let all = self.count();
        let expected = usize::try_from(threads).unwrap_or(all);
        let Some(number) = usize::try_from(id).ok().filter(|id| *id < BARRIERS) else {
            self.report(site.at(), format!("there is no barrier {id}: barriers are 0 to 15"));
            return Then::Wait;
        };
        if expected != all && !expected.is_multiple_of(32) || expected == 0 || expected > all {
            let what = format!("barrier {id} for {expected} threads of {all}: whole warps of the block are needed");
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
            let what = format!("barrier {id} for {expected} threads, which others meet at for {}", barrier.expected);
            self.report(site.at(), what);
            return Then::Wait;
        }
        if let Some(other) = other {
            let what = format!("divergent barrier: other threads of the block are at the one in {}", other.site());
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
            if expected == total { clocks.meet_all() } else { clocks.meet(&waiting) }
        }
        waiting.iter().for_each(|&t| self.threads[t].status = Status::Ready);
        Then::GoOn
    }

    /// The current thread comes to the barrier of its cluster, where all threads of all its blocks meet.
    pub fn cluster_barrier(&mut self, site: Here) -> Then {
        let (current, total) = (self.current, self.total());
        if let Some(other) = self.meeting.site.filter(|other| *other != site) {
            let what = format!("divergent barrier: other threads of the cluster are at the one in {}", other.site());
            self.report(site.at(), what);
            return Then::Wait;
        }
        (self.meeting.expected, self.meeting.site) = (total, Some(site));
        self.meeting.waiting.push(current);
        if self.meeting.waiting.len() < total {
            self.threads[current].status = Status::AtCluster;
            return Then::Wait;
        }
        self.meeting = Barrier::default();
        if let Some(clocks) = &mut self.clocks {
            clocks.meet_all();
        }
        self.threads.iter_mut().for_each(|t| t.status = Status::Ready);
        Then::GoOn
    }

    /// The current thread comes to a meeting of its warp. Without `words` the meeting orders memory.
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
            self.report(site.at(), format!("{what}: mask {mask:#010x} names lanes that this warp of {lanes} has not"));
            return Then::Wait;
        }
        let meetings = &mut self.warps[warp];
        let index = match meetings.iter().position(|m| m.mask & mask != 0) {
            Some(index) => index,
            None => {
                let meeting = Exchange { mask, what, site, arrived: 0, words: [None; 32] };
                meetings.push(meeting);
                meetings.len() - 1
            }
        };
        let meeting = &mut meetings[index];
        if (meeting.mask, meeting.what) != (mask, what) || meeting.site != site {
            let what = format!(
                "divergent warp: {what} with mask {mask:#010x}, while other lanes are at {} with mask {:#010x} in {}",
                meeting.what,
                meeting.mask,
                meeting.site.site()
            );
            self.report(site.at(), what);
            return Then::Wait;
        }
        meeting.arrived |= 1 << lane;
        meeting.words[lane] = words;
        if meeting.arrived != mask {
            self.threads[current].status = Status::AtWarp;
            return Then::Wait;
        }
        let meeting = self.warps[warp].swap_remove(index);
        let members: Vec<usize> = (0..32).filter(|l| mask >> l & 1 == 1).map(|l| warp * 32 + l).collect();
        meeting.hand_out();
        if let Some(clocks) = self.clocks.as_mut().filter(|_| words.is_none()) {
            clocks.meet(&members);
        }
        members.iter().for_each(|&t| self.threads[t].status = Status::Ready);
        Then::GoOn
    }
}
