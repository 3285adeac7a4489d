//! Options of the emulator. Every schedule that they select is one that hardware might choose.

use super::report::Site;
use super::watch::Watch;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

/// The order in which the threads of a block run in each round, and the blocks of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// In ascending order of their indices.
    #[default]
    Forward,
    /// In descending order of their indices.
    Reverse,
    /// Threads are shuffled again in every round.
    Random,
}

/// When asynchronous copies move their bytes, and when wgmmas are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Arrival {
    /// At once, when they are issued.
    #[default]
    Eager,
    /// As late as possible: at the wait for them. TMA loads arrive only when no thread can go on without one.
    Lazy,
    /// At random, early or late.
    Random,
}

/// The options of an emulator.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The order in which threads and blocks run.
    pub order: Order,
    /// When asynchronous copies and wgmmas take effect.
    pub arrival: Arrival,
    /// Checks every access for bounds, initialisation and races. This is slower, and blocks run one after another.
    pub checks: bool,
    /// Seeds random orders and arrivals.
    pub seed: u64,
    /// A barrier, fence, wait or commit that is to do nothing.
    pub drop: Option<Site>,
    /// The number of host threads that run blocks; 0: one for each core.
    pub threads: usize,
    /// Records what was run.
    pub log: Option<Arc<Mutex<Log>>>,
    /// Records launches, or swaps two of their parameters. Swapping requires `checks`, which keep a wrong kernel from
    /// corrupting the process.
    pub watch: Option<Arc<Mutex<Watch>>>,
}

/// What was run.
#[derive(Debug, Default)]
pub struct Log {
    /// The names of the kernels.
    pub kernels: BTreeSet<&'static str>,
    /// The barriers, fences, waits and commits that were reached, each with the kernels that reached it.
    pub sites: BTreeMap<Site, BTreeSet<&'static str>>,
}

/// A schedule: everything that is needed to reproduce a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Schedule {
    /// The order in which threads and blocks run.
    pub order: Order,
    /// When asynchronous copies and wgmmas take effect.
    pub arrival: Arrival,
    /// Seed of random orders and arrivals; has no effect if neither is random.
    pub seed: u64,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let copies = match self.arrival {
            Arrival::Eager => "at once",
            Arrival::Lazy => "late",
            Arrival::Random => "at random",
        };
        let order = match self.order {
            Order::Forward => "forward",
            Order::Reverse => "reverse",
            Order::Random => "random",
        };
        write!(f, "order {order}, copies {copies}")?;
        match self.order == Order::Random || self.arrival == Arrival::Random {
            true => write!(f, ", seed {:#x}", self.seed),
            false => Ok(()),
        }
    }
}

impl Options {
    /// Returns the schedule that these options select.
    pub fn schedule(&self) -> Schedule {
        Schedule { order: self.order, arrival: self.arrival, seed: self.seed }
    }

    /// Returns options for the three schedules of every parity test.
    pub fn schedules(checks: bool) -> [Options; 3] {
        [(Order::Forward, Arrival::Lazy), (Order::Reverse, Arrival::Eager), (Order::Random, Arrival::Random)]
            .map(|(order, arrival)| Options { order, arrival, checks, seed: 0x5eed, ..Options::default() })
    }
}

/// Pseudorandom numbers: SplitMix64 (Steele et al., OOPSLA 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns true with probability 1/2.
    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// Returns the numbers 0..n in random order (Fisher-Yates shuffle).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            all.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
        all
    }
}
