//! Vector clocks for race detection: which accesses of a block's threads, and of the asynchronous operations that they
//! start, happen before which others.
//!
//! An access is stamped with its party and that party's clock. It happens before an access of another thread if a
//! barrier, fence or wait has carried a clock at least as high to that thread. The parties of a cluster of n threads,
//! in order:
//!
//! - 0..n: the threads;
//! - n..2n: the cp.async copies of thread i - n, with the group as the clock;
//! - the wgmmas of each warp, with the group as the clock;
//! - for each mbarrier, the TMA loads that it counts, with the phase (plus 1) as the clock;
//! - for each thread that issues TMA stores, two: the reads and the writes of its stores, with the group as the clock.
//!
//! What a barrier of the whole cluster makes known is stored once, in `base`. What a warp or a part of a block knows
//! beyond that is stored per thread, and only where there is any.

use std::collections::BTreeMap;
use std::rc::Rc;

/// One access in shadow memory, packed into 64 bits: the cluster that made it (`instance`), the party, its clock, the
/// bytes of the word, and whether it was atomic.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp(u64);

impl Stamp {
    /// The number of instances that fit. When they are used up, all accesses in shadow memory must be forgotten.
    pub const INSTANCES: u32 = 1 << 20;
    /// Bits of the clock.
    const CLOCK: u32 = 26;
    /// The number of parties that fit.
    pub const PARTIES: usize = 1 << 12;

    /// Packs a stamp. `mask` has one bit for each byte of the word; a clock that is too large is clamped.
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

    /// Returns the number of the party.
    pub fn who(self) -> usize {
        (self.0 >> 5) as usize & 0xfff
    }

    /// Returns one bit for each byte of the word; 0 if the stamp stands for no access.
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

/// The most mbarriers that a block or cluster may have.
pub const MBARRIERS: usize = 64;

/// The most threads of a block or cluster that may issue TMA stores.
pub const STORERS: usize = 32;

/// What accesses memory: a thread, or an asynchronous operation that it has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    Thread,
    /// A cp.async copy in the thread's current group.
    CpAsync,
    /// A TMA load whose bytes an mbarrier counts in this phase.
    TmaLoads {
        mbarrier: usize,
        phase: u32,
    },
    /// A wgmma of the thread's warp, in this group.
    Wgmma {
        group: u32,
    },
    /// The read of its tile by a TMA store. `storer` is the number of the thread among those that issue TMA stores,
    /// `group` the thread's group of stores.
    StoreReads {
        storer: usize,
        group: u32,
    },
    /// The write of its box by a TMA store.
    StoreWrites {
        storer: usize,
        group: u32,
    },
}

impl Actor {
    /// Returns whether the access is made through the async proxy, by TMA or wgmma: it sees the writes of threads and
    /// of cp.async only after a proxy fence.
    pub fn asynchronous(self) -> bool {
        !matches!(self, Actor::Thread | Actor::CpAsync)
    }
}

/// A thread, or an operation that it started.
#[derive(Clone, Copy)]
pub struct Who {
    pub thread: usize,
    pub actor: Actor,
}

/// The party of a stamp.
pub enum Party {
    Thread(usize),
    /// The cp.async copies of this thread.
    CpAsync(usize),
    /// The wgmmas of this warp.
    Wgmma(usize),
    /// The TMA loads that this mbarrier counts.
    TmaLoads(usize),
    /// The TMA stores of the thread with this number among those that issue TMA stores.
    Store(usize),
}

/// A thread's `fence_async`.
struct ProxyFence {
    /// The thread's clock at the fence: its writes up to this clock are fenced.
    clock: u32,
    /// The last cp.async group that it had waited for: copies up to this group are fenced.
    waited: u32,
}

/// What the arrivals at a barrier, and the loads that it counts, make known to the threads that wait for it.
#[derive(Default)]
pub struct Knowledge {
    clocks: Option<Box<[u32]>>,
    seen: Seen,
}

/// What is known of other instances: for each, the clocks of its parties.
pub type Seen = BTreeMap<u32, Rc<[u32]>>;

/// The vector clocks of one cluster.
pub struct Clocks {
    /// The number of this cluster, counted over launches.
    pub instance: u32,
    /// The first instance of this launch. Accesses of earlier ones happen before everything in it.
    pub first: u32,
    threads: usize,
    /// The clock of each thread.
    own: Vec<u32>,
    /// The cp.async group that each thread is filling.
    group: Vec<u32>,
    /// The last cp.async group that each thread has waited for.
    waited: Vec<u32>,
    /// The last wgmma group of its warp that each thread has waited for.
    wgmma: Vec<u32>,
    /// The proxy fences of each thread, the earliest first.
    proxy_fences: Vec<Vec<ProxyFence>>,
    /// For each party, the clock that all threads know.
    base: Vec<u32>,
    /// For each thread, the clocks of all parties that it knows beyond `base`.
    known: Vec<Option<Box<[u32]>>>,
    /// What each thread's last `__threadfence` covers; its next atomic publishes it.
    fenced: Vec<Option<Rc<[u32]>>>,
    /// What each thread knows of other instances, beyond `seen_by_all`.
    seen: Vec<Seen>,
    seen_by_all: Seen,
}

impl Clocks {
    /// Creates the clocks of a cluster of `threads` threads.
    pub fn new(instance: u32, first: u32, threads: usize) -> Self {
        Clocks {
            instance,
            first,
            threads,
            own: vec![1; threads],
            group: vec![1; threads],
            waited: vec![0; threads],
            wgmma: vec![0; threads],
            proxy_fences: (0..threads).map(|_| Vec::new()).collect(),
            base: vec![0; Self::parties(threads)],
            known: vec![None; threads],
            fenced: vec![None; threads],
            seen: vec![Seen::new(); threads],
            seen_by_all: Seen::new(),
        }
    }

    /// Returns the number of parties of a cluster of `threads` threads.
    pub fn parties(threads: usize) -> usize {
        2 * threads + threads.div_ceil(32) + MBARRIERS + 2 * STORERS
    }

    /// Returns the party for the wgmmas of a thread's warp.
    fn wgmma_of(&self, thread: usize) -> usize {
        2 * self.threads + thread / 32
    }

    /// Returns the party for the TMA loads that an mbarrier counts.
    fn tma_loads_of(&self, mbarrier: usize) -> usize {
        2 * self.threads + self.threads.div_ceil(32) + mbarrier
    }

    /// Returns the party for the reads of a thread's TMA stores. The next party stands for their writes.
    fn stores_of(&self, storer: usize) -> usize {
        self.tma_loads_of(MBARRIERS) + 2 * storer
    }

    /// Returns the party with the number `who`.
    pub fn party(&self, who: usize) -> Party {
        let n = self.threads;
        match who {
            _ if who < n => Party::Thread(who),
            _ if who < 2 * n => Party::CpAsync(who - n),
            _ if who < self.tma_loads_of(0) => Party::Wgmma(who - 2 * n),
            _ if who < self.stores_of(0) => Party::TmaLoads(who - self.tma_loads_of(0)),
            _ => Party::Store((who - self.stores_of(0)) / 2),
        }
    }

    /// Returns the stamp of an access made now, to the bytes of a word in `mask`.
    pub fn stamp(&self, Who { thread, actor }: Who, mask: u8, atomic: bool) -> Stamp {
        let (clock, who) = match actor {
            Actor::Thread => (self.own[thread], thread),
            Actor::CpAsync => (self.group[thread], self.threads + thread),
            Actor::TmaLoads { mbarrier, phase } => (phase + 1, self.tma_loads_of(mbarrier)),
            Actor::Wgmma { group } => (group, self.wgmma_of(thread)),
            Actor::StoreReads { storer, group } => (group, self.stores_of(storer)),
            Actor::StoreWrites { storer, group } => (group, self.stores_of(storer) + 1),
        };
        Stamp::new(self.instance, clock, who, mask, atomic)
    }

    /// Returns whether the access was made through the generic proxy in this launch: by a thread or by cp.async, and
    /// not by TMA or wgmma.
    pub fn generic(&self, stamp: Stamp) -> bool {
        stamp.instance() >= self.first && stamp.who() < 2 * self.threads
    }

    /// Returns whether the thread that made a [generic](Self::generic) access to shared memory has run a proxy fence
    /// after it, and that fence happens before what thread `me` does now.
    pub fn proxied(&self, old: Stamp, me: usize) -> bool {
        let copy = old.who() >= self.threads;
        let fences = &self.proxy_fences[old.who() % self.threads];
        let first = fences.partition_point(|f| if copy { f.waited } else { f.clock } < old.clock());
        let fence = |f: &ProxyFence| Stamp::new(self.instance, f.clock, old.who() % self.threads, 0, false);
        old.instance() == self.instance && fences.get(first).is_some_and(|f| self.before(fence(f), me))
    }

    /// Returns whether the access happens before what thread `me` does now.
    pub fn before(&self, old: Stamp, me: usize) -> bool {
        let (instance, who, clock) = (old.instance(), old.who(), old.clock());
        if instance < self.first {
            return true;
        }
        if instance != self.instance {
            let has = |seen: &Seen| seen.get(&instance).is_some_and(|c| c.get(who).is_some_and(|c| *c >= clock));
            return has(&self.seen_by_all) || has(&self.seen[me]);
        }
        clock <= self.base[who]
            || who == me
            || who == self.threads + me && clock <= self.waited[me]
            || who == self.wgmma_of(me) && clock <= self.wgmma[me]
            || self.known[me].as_ref().is_some_and(|k| clock <= k[who])
    }

    /// All threads of the cluster have reached a barrier.
    pub fn sync_all(&mut self) {
        for t in 0..self.threads {
            self.base[t] = self.base[t].max(self.own[t]);
            self.base[self.threads + t] = self.base[self.threads + t].max(self.waited[t]);
            let wgmma = self.wgmma_of(t);
            self.base[wgmma] = self.base[wgmma].max(self.wgmma[t]);
            self.own[t] += 1;
            if let Some(known) = self.known[t].take() {
                self.base.iter_mut().zip(&known).for_each(|(b, k)| *b = (*b).max(*k));
            }
            merge(&mut self.seen_by_all, std::mem::take(&mut self.seen[t]));
        }
    }

    /// These threads have reached a barrier that orders their memory accesses.
    pub fn sync(&mut self, threads: &[usize]) {
        let mut all = Knowledge::default();
        threads.iter().for_each(|&t| self.publish(t, &mut all));
        for &t in threads {
            self.known[t] = all.clocks.clone();
            self.seen[t] = all.seen.clone();
        }
    }

    /// Returns what a thread knows beyond `base`, its own accesses included.
    fn beyond(&self, me: usize) -> Box<[u32]> {
        let mut all = self.known[me].clone().unwrap_or_else(|| vec![0; self.base.len()].into());
        all[me] = all[me].max(self.own[me]);
        all[self.threads + me] = all[self.threads + me].max(self.waited[me]);
        let wgmma = self.wgmma_of(me);
        all[wgmma] = all[wgmma].max(self.wgmma[me]);
        all
    }

    /// A thread releases: it adds to `to` what it knows, its own accesses up to now included.
    pub fn publish(&mut self, me: usize, to: &mut Knowledge) {
        let mine = self.beyond(me);
        match &mut to.clocks {
            Some(clocks) => clocks.iter_mut().zip(&mine).for_each(|(c, m)| *c = (*c).max(*m)),
            None => to.clocks = Some(mine),
        }
        self.own[me] += 1;
        merge(&mut to.seen, self.seen[me].clone());
    }

    /// The TMA loads that an mbarrier counted in a phase have arrived.
    pub fn arrived(&self, mbarrier: usize, phase: u32, to: &mut Knowledge) {
        let clocks = to.clocks.get_or_insert_with(|| vec![0; self.base.len()].into());
        clocks[self.tma_loads_of(mbarrier)] = phase + 1;
    }

    /// A thread acquires: it learns what others have released.
    pub fn acquire(&mut self, me: usize, from: &Knowledge) {
        if let Some(clocks) = &from.clocks {
            let known = self.known[me].get_or_insert_with(|| vec![0; clocks.len()].into());
            known.iter_mut().zip(clocks).for_each(|(k, c)| *k = (*k).max(*c));
        }
        merge(&mut self.seen[me], from.seen.clone());
    }

    /// A thread has waited for the wgmmas of its warp up to this group.
    pub fn wait_wgmma(&mut self, me: usize, group: u32) {
        self.wgmma[me] = self.wgmma[me].max(group);
    }

    /// A thread has waited for its TMA stores up to this group: until they have read their tiles or, if `complete`,
    /// also written.
    pub fn wait_stores(&mut self, me: usize, storer: usize, group: u32, complete: bool) {
        let (first, parties) = (self.stores_of(storer), 1 + usize::from(complete));
        let known = self.known[me].get_or_insert_with(|| vec![0; self.base.len()].into());
        known[first..first + parties].iter_mut().for_each(|k| *k = (*k).max(group));
    }

    /// `fence_async`: makes visible to TMA and wgmma what the thread wrote, and what its cp.async copies wrote that it
    /// has waited for.
    pub fn fence_async(&mut self, me: usize) {
        self.proxy_fences[me].push(ProxyFence { clock: self.own[me], waited: self.waited[me] });
        self.own[me] += 1;
    }

    /// Closes the cp.async group that a thread is filling. Returns its number.
    pub fn commit(&mut self, me: usize) -> u32 {
        self.group[me] += 1;
        self.group[me] - 1
    }

    /// A thread has waited for its cp.async copies up to this group.
    pub fn wait(&mut self, me: usize, group: u32) {
        self.waited[me] = self.waited[me].max(group);
    }

    /// `__threadfence`: the thread's next atomic publishes what the thread knows now.
    pub fn fence(&mut self, me: usize) {
        let mut all = self.base.clone();
        all.iter_mut().zip(&self.beyond(me)).for_each(|(a, k)| *a = (*a).max(*k));
        self.own[me] += 1;
        self.fenced[me] = Some(all.into());
    }

    /// An atomic on a word: acquires what earlier atomics on the word have published. If it `writes` (a
    /// compare-and-swap may not), it also publishes what the thread's last fence covers.
    pub fn exchange(&mut self, me: usize, word: &mut Seen, writes: bool) {
        let mut published = word.clone();
        if let Some(fenced) = self.fenced[me].as_ref().filter(|_| writes) {
            let mut all = self.seen_by_all.clone();
            merge(&mut all, self.seen[me].clone());
            all.insert(self.instance, fenced.clone());
            merge(word, all);
        }
        // What was published by this cluster concerns its own clocks.
        if let Some(own) = published.remove(&self.instance) {
            let known = self.known[me].get_or_insert_with(|| vec![0; own.len()].into());
            known.iter_mut().zip(own.iter()).for_each(|(k, o)| *k = (*k).max(*o));
        }
        merge(&mut self.seen[me], published);
    }
}

/// Raises the clocks in `to` to those in `from`.
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
mod tests;
