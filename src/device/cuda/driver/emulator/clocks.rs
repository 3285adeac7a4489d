//! Who has seen what: vector clocks of one block's threads and of their asynchronous copies.
//!
//! An access is stamped with its thread and that thread's clock. It lies before another thread's access when a barrier, fence
//! or wait has carried a clock at least as high to that thread. Threads are 0..n; n..2n stands for the copies of thread
//! i - n, which run beside it. A barrier of the whole block is kept once, in `base`; what a warp or a part of the block shares
//! beyond that is kept per thread and only where it happens.

use std::collections::BTreeMap;
use std::rc::Rc;

/// One access in shadow memory: which block of which launch (`instance`), thread, clock, bytes of the word, atomic or not.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp(u64);

impl Stamp {
    /// Instances that fit; then all shadow memory must be forgotten.
    pub const INSTANCES: u32 = 1 << 20;
    const CLOCK: u32 = 26;

    pub fn new(instance: u32, clock: u32, who: usize, mask: u8, atomic: bool) -> Self {
        let clock = u64::from(clock.min((1 << Self::CLOCK) - 1));
        Stamp(
            u64::from(instance) << 43
                | clock << 17
                | (who as u64 & 0xfff) << 5
                | u64::from(mask & 15) << 1
                | u64::from(atomic),
        )
    }

    pub fn instance(self) -> u32 {
        (self.0 >> 43) as u32
    }

    pub fn clock(self) -> u32 {
        (self.0 >> 17) as u32 & ((1 << Self::CLOCK) - 1)
    }

    pub fn who(self) -> usize {
        (self.0 >> 5) as usize & 0xfff
    }

    /// One bit for each byte of the word; none for a stamp that is no access.
    pub fn mask(self) -> u8 {
        (self.0 >> 1) as u8 & 15
    }

    pub fn atomic(self) -> bool {
        self.0 & 1 == 1
    }

    pub fn with_mask(self, mask: u8) -> Self {
        Stamp(self.0 & !(15 << 1) | u64::from(mask & 15) << 1)
    }
}

/// What was published of other blocks: for each, the clocks of its threads.
pub type Seen = BTreeMap<u32, Rc<[u32]>>;

/// See the module.
pub struct Clocks {
    /// Number of this block since the emulator began.
    pub instance: u32,
    /// The first of this launch: older ones lie before everything.
    pub first: u32,
    threads: usize,
    own: Vec<u32>,
    /// The group of copies that a thread fills.
    group: Vec<u32>,
    /// The last group that a thread has waited for.
    waited: Vec<u32>,
    base: Vec<u32>,
    known: Vec<Option<Box<[u32]>>>,
    /// What a thread has published by a fence, for its next atomic.
    fenced: Vec<Option<Rc<[u32]>>>,
    seen: Vec<Seen>,
    seen_by_all: Seen,
}

impl Clocks {
    pub fn new(instance: u32, first: u32, threads: usize) -> Self {
        Clocks {
            instance,
            first,
            threads,
            own: vec![1; threads],
            group: vec![1; threads],
            waited: vec![0; threads],
            base: vec![0; 2 * threads],
            known: vec![None; threads],
            fenced: vec![None; threads],
            seen: vec![Seen::new(); threads],
            seen_by_all: Seen::new(),
        }
    }

    /// The stamp of an access by a thread, or by a copy that it starts.
    pub fn stamp(&self, me: usize, copy: bool, mask: u8, atomic: bool) -> Stamp {
        let (clock, who) = if copy { (self.group[me], self.threads + me) } else { (self.own[me], me) };
        Stamp::new(self.instance, clock, who, mask, atomic)
    }

    /// True when the access lies before what thread `me` does now.
    pub fn before(&self, old: Stamp, me: usize) -> bool {
        let (instance, who, clock) = (old.instance(), old.who(), old.clock());
        if instance < self.first {
            return true;
        }
        if instance != self.instance {
            let told = |seen: &Seen| seen.get(&instance).is_some_and(|c| c.get(who).is_some_and(|c| *c >= clock));
            return told(&self.seen_by_all) || told(&self.seen[me]);
        }
        clock <= self.base[who]
            || who == me
            || who == self.threads + me && clock <= self.waited[me]
            || self.known[me].as_ref().is_some_and(|k| clock <= k[who])
    }

    /// All threads of the block have met.
    pub fn meet_all(&mut self) {
        for t in 0..self.threads {
            self.base[t] = self.base[t].max(self.own[t]);
            self.base[self.threads + t] = self.base[self.threads + t].max(self.waited[t]);
            self.own[t] += 1;
            if let Some(known) = self.known[t].take() {
                self.base.iter_mut().zip(&known).for_each(|(b, k)| *b = (*b).max(*k));
            }
            merge(&mut self.seen_by_all, std::mem::take(&mut self.seen[t]));
        }
    }

    /// Some threads have met.
    pub fn meet(&mut self, threads: &[usize]) {
        let mut all: Box<[u32]> = vec![0; 2 * self.threads].into();
        let mut seen = Seen::new();
        for &t in threads {
            if let Some(known) = &self.known[t] {
                all.iter_mut().zip(known).for_each(|(a, k)| *a = (*a).max(*k));
            }
            all[t] = all[t].max(self.own[t]);
            all[self.threads + t] = all[self.threads + t].max(self.waited[t]);
            self.own[t] += 1;
            merge(&mut seen, self.seen[t].clone());
        }
        for &t in threads {
            self.known[t] = Some(all.clone());
            self.seen[t] = seen.clone();
        }
    }

    /// Closes the group of copies that a thread fills; its number.
    pub fn commit(&mut self, me: usize) -> u32 {
        self.group[me] += 1;
        self.group[me] - 1
    }

    /// A thread has waited for its copies up to this group.
    pub fn wait(&mut self, me: usize, group: u32) {
        self.waited[me] = self.waited[me].max(group);
    }

    /// `__threadfence`: what the thread knows may be passed on by its next atomic.
    pub fn fence(&mut self, me: usize) {
        let mut all = self.base.clone();
        if let Some(known) = &self.known[me] {
            all.iter_mut().zip(known).for_each(|(a, k)| *a = (*a).max(*k));
        }
        all[me] = self.own[me];
        all[self.threads + me] = all[self.threads + me].max(self.waited[me]);
        self.own[me] += 1;
        self.fenced[me] = Some(all.into());
    }

    /// An atomic on a word: takes what earlier atomics on it published, and publishes what this thread has fenced where it
    /// writes (a compare-and-swap may not).
    pub fn exchange(&mut self, me: usize, word: &mut Seen, writes: bool) {
        let mut told = word.clone();
        if let Some(fenced) = self.fenced[me].as_ref().filter(|_| writes) {
            let mut all = self.seen_by_all.clone();
            merge(&mut all, self.seen[me].clone());
            all.insert(self.instance, fenced.clone());
            merge(word, all);
        }
        // What threads of this block published is knowledge of this block's clocks.
        if let Some(own) = told.remove(&self.instance) {
            let known = self.known[me].get_or_insert_with(|| vec![0; 2 * self.threads].into());
            known.iter_mut().zip(own.iter()).for_each(|(k, o)| *k = (*k).max(*o));
        }
        merge(&mut self.seen[me], told);
    }
}

fn merge(to: &mut Seen, from: Seen) {
    for (instance, clocks) in from {
        match to.get_mut(&instance) {
            Some(old) if **old == *clocks => {}
            Some(old) => *old = old.iter().zip(clocks.iter()).map(|(a, b)| *a.max(b)).collect(),
            None => {
                to.insert(instance, clocks);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clocks, Seen, Stamp};

    #[test]
    fn a_stamp_keeps_its_parts() {
        let stamp = Stamp::new(Stamp::INSTANCES - 1, 12_345_678, 2047, 0b1010, true);
        assert_eq!((stamp.instance(), stamp.clock(), stamp.who()), (Stamp::INSTANCES - 1, 12_345_678, 2047));
        assert_eq!((stamp.mask(), stamp.atomic(), stamp.with_mask(3).mask()), (0b1010, true, 3));
    }

    #[test]
    fn barriers_order_those_who_meet() {
        let mut clocks = Clocks::new(7, 5, 4);
        let old = clocks.stamp(1, false, 15, false);
        assert!(!clocks.before(old, 0) && clocks.before(old, 1));
        clocks.meet(&[1, 2]);
        assert!(!clocks.before(old, 0) && clocks.before(old, 2));
        // What thread 2 was told it can tell on.
        clocks.meet(&[2, 3]);
        assert!(clocks.before(old, 3) && !clocks.before(old, 0));
        clocks.meet_all();
        assert!(clocks.before(old, 0));
        assert!(clocks.before(Stamp::new(4, 9, 3, 15, false), 0), "an earlier launch");
        assert!(!clocks.before(Stamp::new(6, 1, 3, 15, false), 0), "another block of this launch");
    }

    #[test]
    fn copies_arrive_by_a_wait_and_for_others_by_a_barrier_after_it() {
        let mut clocks = Clocks::new(1, 1, 2);
        let copied = clocks.stamp(0, true, 15, false);
        let group = clocks.commit(0);
        clocks.meet_all();
        assert!(!clocks.before(copied, 0), "a barrier does not wait for copies");
        clocks.wait(0, group);
        assert!(clocks.before(copied, 0) && !clocks.before(copied, 1));
        clocks.meet_all();
        assert!(clocks.before(copied, 1));
    }

    #[test]
    fn atomics_pass_on_what_was_fenced() {
        let (mut writer, mut reader) = (Clocks::new(1, 1, 2), Clocks::new(2, 1, 2));
        let (early, mut word) = (writer.stamp(1, false, 15, false), Seen::new());
        writer.meet_all();
        let late = writer.stamp(1, false, 15, false);
        writer.fence(0);
        writer.exchange(0, &mut word, true);
        reader.exchange(0, &mut word, true);
        assert!(reader.before(early, 0) && !reader.before(early, 1));
        assert!(!reader.before(late, 0), "thread 1 has fenced nothing since the barrier");
        reader.meet_all();
        assert!(reader.before(early, 1));
    }
}
