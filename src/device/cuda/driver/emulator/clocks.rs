//! Who has seen what: vector clocks of one block's threads and of their asynchronous copies.
//!
//! An access is stamped with its thread and that thread's clock. It lies before another thread's access when a barrier, fence
//! or wait has carried a clock at least as high to that thread. Threads are 0..n; n..2n stands for the copies of thread
//! i - n, which run beside it. Behind them come the products of each warp, then for each mbarrier the copies that it
//! counts, with its phase as the clock, then for each thread that stores by the copy engine what its stores read, and
//! what they write. A barrier of the whole block is kept once, in `base`; what a warp or a part of the block shares
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
    /// Whom it tells apart.
    pub const PARTIES: usize = 1 << 12;

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

/// Mbarriers of a block that the clocks tell apart.
pub const MBARRIERS: usize = 64;

/// Threads of a block whose stores by the copy engine the clocks tell apart.
pub const STORERS: usize = 32;

/// Who accesses memory: a thread, or what runs beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    Thread,
    /// The copies by which the thread fills its current group.
    Copy,
    /// The copy engine, whose bytes an mbarrier counts in this phase.
    TmaLoads {
        mbarrier: usize,
        phase: u32,
    },
    /// Products of the thread's warp, in the group of this number.
    Products {
        group: u32,
    },
    /// A store by the copy engine, in this group of a thread, which has a number among those that store: it reads its
    /// tile ...
    StoreReads {
        storer: usize,
        group: u32,
    },
    /// ... and writes its box.
    StoreWrites {
        storer: usize,
        group: u32,
    },
}

impl Actor {
    /// Not a thread, nor a copy of its own: it sees what they have written only after a proxy fence.
    pub fn asynchronous(self) -> bool {
        !matches!(self, Actor::Thread | Actor::Copy)
    }
}

/// A thread, or what it started.
#[derive(Clone, Copy)]
pub struct Who {
    pub thread: usize,
    pub actor: Actor,
}

/// Whom a stamp names.
pub enum Party {
    Thread(usize),
    /// Copies of this thread.
    CpAsync(usize),
    /// Products of this warp.
    Products(usize),
    /// The copy engine for this mbarrier.
    TmaLoads(usize),
    /// A store of the thread of this number among those that store.
    Store(usize),
}

/// A thread's `fence_async`.
struct ProxyFence {
    /// Its clock then: what it wrote up to here is fenced.
    clock: u32,
    /// The same of its copies, by the group that it had waited for.
    waited: u32,
}

/// What arrivals at a barrier, and the copies that it counts, pass on to those who wait.
#[derive(Default)]
pub struct Knowledge {
    clocks: Option<Box<[u32]>>,
    seen: Seen,
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
    /// The last group of its warp's products that a thread has waited for.
    products: Vec<u32>,
    /// Of each thread, the earliest first.
    proxy_fences: Vec<Vec<ProxyFence>>,
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
            products: vec![0; threads],
            proxy_fences: (0..threads).map(|_| Vec::new()).collect(),
            base: vec![0; Self::parties(threads)],
            known: vec![None; threads],
            fenced: vec![None; threads],
            seen: vec![Seen::new(); threads],
            seen_by_all: Seen::new(),
        }
    }

    /// All that a stamp may name, of so many threads.
    pub fn parties(threads: usize) -> usize {
        2 * threads + threads.div_ceil(32) + MBARRIERS + 2 * STORERS
    }

    /// The products of a thread's warp, as a stamp names them.
    fn products_of(&self, thread: usize) -> usize {
        2 * self.threads + thread / 32
    }

    /// The copies that an mbarrier counts, as a stamp names them.
    fn engine_of(&self, mbarrier: usize) -> usize {
        2 * self.threads + self.threads.div_ceil(32) + mbarrier
    }

    /// What stores of this thread read, as a stamp names it; behind it, what they write.
    fn stores_of(&self, storer: usize) -> usize {
        self.engine_of(MBARRIERS) + 2 * storer
    }

    pub fn party(&self, who: usize) -> Party {
        let n = self.threads;
        match who {
            _ if who < n => Party::Thread(who),
            _ if who < 2 * n => Party::CpAsync(who - n),
            _ if who < self.engine_of(0) => Party::Products(who - 2 * n),
            _ if who < self.stores_of(0) => Party::TmaLoads(who - self.engine_of(0)),
            _ => Party::Store((who - self.stores_of(0)) / 2),
        }
    }

    /// The stamp of an access.
    pub fn stamp(&self, Who { thread, actor }: Who, mask: u8, atomic: bool) -> Stamp {
        let (clock, who) = match actor {
            Actor::Thread => (self.own[thread], thread),
            Actor::Copy => (self.group[thread], self.threads + thread),
            Actor::TmaLoads { mbarrier, phase } => (phase + 1, self.engine_of(mbarrier)),
            Actor::Products { group } => (group, self.products_of(thread)),
            Actor::StoreReads { storer, group } => (group, self.stores_of(storer)),
            Actor::StoreWrites { storer, group } => (group, self.stores_of(storer) + 1),
        };
        Stamp::new(self.instance, clock, who, mask, atomic)
    }

    /// True when a thread of this launch, or a copy of its own (cp.async), made the access: not the copy engine, nor a product.
    pub fn generic(&self, stamp: Stamp) -> bool {
        stamp.instance() >= self.first && stamp.who() < 2 * self.threads
    }

    /// True when the thread of a [generic](Self::generic) access to shared memory has fenced it for the copy engine and
    /// products, and that fence lies before what thread `me` does now.
    pub fn proxied(&self, old: Stamp, me: usize) -> bool {
        let copy = old.who() >= self.threads;
        let fences = &self.proxy_fences[old.who() % self.threads];
        let first = fences.partition_point(|f| if copy { f.waited } else { f.clock } < old.clock());
        let fence = |f: &ProxyFence| Stamp::new(self.instance, f.clock, old.who() % self.threads, 0, false);
        old.instance() == self.instance && fences.get(first).is_some_and(|f| self.before(fence(f), me))
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
            || who == self.products_of(me) && clock <= self.products[me]
            || self.known[me].as_ref().is_some_and(|k| clock <= k[who])
    }

    /// All threads of the block have met.
    pub fn meet_all(&mut self) {
        for t in 0..self.threads {
            self.base[t] = self.base[t].max(self.own[t]);
            self.base[self.threads + t] = self.base[self.threads + t].max(self.waited[t]);
            let products = self.products_of(t);
            self.base[products] = self.base[products].max(self.products[t]);
            self.own[t] += 1;
            if let Some(known) = self.known[t].take() {
                self.base.iter_mut().zip(&known).for_each(|(b, k)| *b = (*b).max(*k));
            }
            merge(&mut self.seen_by_all, std::mem::take(&mut self.seen[t]));
        }
    }

    /// Some threads have met.
    pub fn meet(&mut self, threads: &[usize]) {
        let mut all = Knowledge::default();
        threads.iter().for_each(|&t| self.publish(t, &mut all));
        for &t in threads {
            self.known[t] = all.clocks.clone();
            self.seen[t] = all.seen.clone();
        }
    }

    /// What a thread knows beyond `base`.
    fn beyond(&self, me: usize) -> Box<[u32]> {
        let mut all = self.known[me].clone().unwrap_or_else(|| vec![0; self.base.len()].into());
        all[me] = all[me].max(self.own[me]);
        all[self.threads + me] = all[self.threads + me].max(self.waited[me]);
        let products = self.products_of(me);
        all[products] = all[products].max(self.products[me]);
        all
    }

    /// A thread passes on what it did and knows.
    pub fn publish(&mut self, me: usize, to: &mut Knowledge) {
        let mine = self.beyond(me);
        match &mut to.clocks {
            Some(clocks) => clocks.iter_mut().zip(&mine).for_each(|(c, m)| *c = (*c).max(*m)),
            None => to.clocks = Some(mine),
        }
        self.own[me] += 1;
        merge(&mut to.seen, self.seen[me].clone());
    }

    /// The copies that an mbarrier counted in a phase have arrived.
    pub fn arrived(&self, mbarrier: usize, phase: u32, to: &mut Knowledge) {
        let clocks = to.clocks.get_or_insert_with(|| vec![0; self.base.len()].into());
        clocks[self.engine_of(mbarrier)] = phase + 1;
    }

    /// A thread learns what was passed on.
    pub fn acquire(&mut self, me: usize, from: &Knowledge) {
        if let Some(clocks) = &from.clocks {
            let known = self.known[me].get_or_insert_with(|| vec![0; clocks.len()].into());
            known.iter_mut().zip(clocks).for_each(|(k, c)| *k = (*k).max(*c));
        }
        merge(&mut self.seen[me], from.seen.clone());
    }

    /// A thread has waited for products of its warp up to this group.
    pub fn wait_products(&mut self, me: usize, group: u32) {
        self.products[me] = self.products[me].max(group);
    }

    /// A thread has waited for its stores up to this group: for them to read, or to be complete.
    pub fn wait_stores(&mut self, me: usize, storer: usize, group: u32, complete: bool) {
        let (first, parties) = (self.stores_of(storer), 1 + usize::from(complete));
        let known = self.known[me].get_or_insert_with(|| vec![0; self.base.len()].into());
        known[first..first + parties].iter_mut().for_each(|k| *k = (*k).max(group));
    }

    /// `fence_async`: the copy engine and products may read what the thread wrote, and its copies that it waited for.
    pub fn fence_async(&mut self, me: usize) {
        self.proxy_fences[me].push(ProxyFence { clock: self.own[me], waited: self.waited[me] });
        self.own[me] += 1;
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
        all.iter_mut().zip(&self.beyond(me)).for_each(|(a, k)| *a = (*a).max(*k));
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
            let known = self.known[me].get_or_insert_with(|| vec![0; own.len()].into());
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
    use super::{Actor, Clocks, Knowledge, Seen, Stamp, Who};

    fn by(thread: usize, actor: Actor) -> Who {
        Who { thread, actor }
    }

    #[test]
    fn a_stamp_keeps_its_parts() {
        let stamp = Stamp::new(Stamp::INSTANCES - 1, 12_345_678, 2047, 0b1010, true);
        assert_eq!((stamp.instance(), stamp.clock(), stamp.who()), (Stamp::INSTANCES - 1, 12_345_678, 2047));
        assert_eq!((stamp.mask(), stamp.atomic(), stamp.with_mask(3).mask()), (0b1010, true, 3));
    }

    #[test]
    fn barriers_order_those_who_meet() {
        let mut clocks = Clocks::new(7, 5, 4);
        let old = clocks.stamp(by(1, Actor::Thread), 15, false);
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
        let copied = clocks.stamp(by(0, Actor::Copy), 15, false);
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
        let (early, mut word) = (writer.stamp(by(1, Actor::Thread), 15, false), Seen::new());
        writer.meet_all();
        let late = writer.stamp(by(1, Actor::Thread), 15, false);
        writer.fence(0);
        writer.exchange(0, &mut word, true);
        reader.exchange(0, &mut word, true);
        assert!(reader.before(early, 0) && !reader.before(early, 1));
        assert!(!reader.before(late, 0), "thread 1 has fenced nothing since the barrier");
        reader.meet_all();
        assert!(reader.before(early, 1));
    }

    #[test]
    fn mbarriers_pass_on_arrivals_and_the_copies_that_they_count() {
        let mut clocks = Clocks::new(1, 1, 64);
        let written = clocks.stamp(by(0, Actor::Thread), 15, false);
        let [early, late] = [0, 1].map(|phase| clocks.stamp(by(0, Actor::TmaLoads { mbarrier: 3, phase }), 15, false));
        let mut phase = Knowledge::default();
        clocks.publish(0, &mut phase);
        clocks.arrived(3, 0, &mut phase);
        assert!(!clocks.before(written, 40) && !clocks.before(early, 40));
        clocks.acquire(40, &phase);
        assert!(clocks.before(written, 40) && clocks.before(early, 40) && !clocks.before(late, 40));
        assert!(!clocks.before(early, 0), "who started a copy must wait for it too");
    }

    #[test]
    fn stores_read_first_and_are_complete_by_another_wait() {
        let mut clocks = Clocks::new(1, 1, 64);
        let (storer, group) = (3, 1);
        let read = clocks.stamp(by(5, Actor::StoreReads { storer, group }), 15, false);
        let written = clocks.stamp(by(5, Actor::StoreWrites { storer, group }), 15, false);
        clocks.meet_all();
        assert!(!clocks.before(read, 5) && !clocks.before(written, 5), "a barrier does not wait for stores");
        clocks.wait_stores(5, storer, group, false);
        assert!(clocks.before(read, 5) && !clocks.before(written, 5) && !clocks.before(read, 6));
        clocks.meet_all();
        assert!(clocks.before(read, 6) && !clocks.before(written, 6));
        clocks.wait_stores(5, storer, group, true);
        assert!(clocks.before(written, 5) && !clocks.before(written, 6));
    }

    #[test]
    fn a_proxy_fence_is_the_writers_and_lies_between() {
        let mut clocks = Clocks::new(1, 1, 2);
        let early = clocks.stamp(by(0, Actor::Thread), 15, false);
        let copied = clocks.stamp(by(0, Actor::Copy), 15, false);
        let group = clocks.commit(0);
        clocks.fence_async(1);
        clocks.meet_all();
        assert!(!clocks.proxied(early, 1), "another thread's fence");
        clocks.fence_async(0);
        let late = clocks.stamp(by(0, Actor::Thread), 15, false);
        assert!(clocks.proxied(early, 0) && !clocks.proxied(early, 1), "no barrier since the fence");
        clocks.meet_all();
        assert!(clocks.proxied(early, 1) && !clocks.proxied(late, 1) && !clocks.proxied(copied, 1));
        clocks.wait(0, group);
        clocks.fence_async(0);
        clocks.meet_all();
        assert!(clocks.proxied(late, 1) && clocks.proxied(copied, 1));
    }

    #[test]
    fn products_end_by_a_wait_and_for_others_by_what_follows_it() {
        let mut clocks = Clocks::new(1, 1, 64);
        let read = clocks.stamp(by(1, Actor::Products { group: 1 }), 15, false);
        let (mut early, mut late) = (Knowledge::default(), Knowledge::default());
        clocks.publish(1, &mut early);
        clocks.wait_products(1, 1);
        clocks.publish(1, &mut late);
        clocks.acquire(40, &early);
        assert!(clocks.before(read, 1) && !clocks.before(read, 2) && !clocks.before(read, 40));
        clocks.acquire(40, &late);
        assert!(clocks.before(read, 40));
    }
}
