//! How the emulator runs kernels. Any of these schedules is one that hardware might choose.

use super::report::Site;
use super::watch::Watch;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

/// In which order threads of a block get their turn between two meetings, and blocks of a grid theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    Forward,
    Reverse,
    /// Shuffled anew in every round.
    Random,
}

/// When an asynchronous copy moves its bytes, and when a product that runs beside its warp is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Arrival {
    /// At once.
    #[default]
    Eager,
    /// Not before a wait asks for it; of the copy engine, not before nobody can go on without it.
    Lazy,
    /// Either, at random.
    Random,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub order: Order,
    pub arrival: Arrival,
    /// Checks every access for bounds, initialisation and races. Slower, and blocks run one after another.
    pub checks: bool,
    pub seed: u64,
    /// A barrier, fence, wait or commit that does nothing.
    pub drop: Option<Site>,
    /// Threads of the host that run blocks; 0: as many as the machine has.
    pub threads: usize,
    /// Where to write down what was run.
    pub log: Option<Arc<Mutex<Log>>>,
    /// Sees every launch, and may have parameters exchanged; needs `checks`, which keep such a kernel from damaging the process.
    pub watch: Option<Arc<Mutex<Watch>>>,
}

/// What was run.
#[derive(Debug, Default)]
pub struct Log {
    pub kernels: BTreeSet<&'static str>,
    /// Barriers, fences, waits and commits that were reached, and by which kernels.
    pub sites: BTreeMap<Site, BTreeSet<&'static str>>,
}

/// In which order things have happened: enough to make them happen again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Schedule {
    pub order: Order,
    pub arrival: Arrival,
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
    pub fn schedule(&self) -> Schedule {
        Schedule { order: self.order, arrival: self.arrival, seed: self.seed }
    }

    /// The three schedules of every parity test.
    pub fn schedules(checks: bool) -> [Options; 3] {
        [(Order::Forward, Arrival::Lazy), (Order::Reverse, Arrival::Eager), (Order::Random, Arrival::Random)]
            .map(|(order, arrival)| Options { order, arrival, checks, seed: 0x5eed, ..Options::default() })
    }
}

/// SplitMix64 (Steele et al., OOPSLA 2014).
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

    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// The numbers below n in a random order (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            all.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
        all
    }
}
