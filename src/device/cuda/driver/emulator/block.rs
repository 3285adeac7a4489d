//! One block, or the blocks of one cluster: its threads as coroutines, and the scheduler that runs them.

use super::barriers::{Barrier, Exchange};
use super::clocks::{Actor, Clocks, Party, Stamp, Who};
use super::cp_async::CpAsync;
use super::ffi;
use super::mbarriers::Mbarrier;
use super::memory::Memory;
use super::operands;
use super::options::{Options, Order, Random};
use super::registry::Kernel;
use super::report::{At, Fault, Here, Pc};
use super::shadow::{Defect, How};
use super::shared::Shared;
use super::tma_load::TmaLoads;
use super::tma_store::TmaStores;
use super::wgmma::{Lane, Warp};
use crate::device::cuda::launch::Launch;
use crate::error::{Error, Result};
use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::any::Any;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::{NonNull, null};

/// How many accesses a thread may make without waiting for others before it is reported as an endless loop.
const FUEL: i64 = 1 << 27;
/// How many rounds without progress, in which some thread polls, count as a deadlock.
const SPINS: u32 = 10_000;
/// How many rounds a block may take before it is reported as an endless loop. In a round, every ready thread runs.
const ROUNDS: u32 = 1 << 19;
/// Address space of a thread's stack in bytes; pages that it does not touch take no memory.
const STACK: usize = 256 << 10;

/// Named barriers of a block, including barrier 0, which is `__syncthreads`.
pub const BARRIERS: usize = 16;

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Ready,
    /// Waits at the named barrier of this number.
    AtBarrier(usize),
    /// Waits at the barrier of its cluster.
    AtCluster,
    /// Waits for a phase to end of the mbarrier with this index in [`Block::mbarriers`].
    AtMbarrier(usize),
    /// Waits for other lanes of its warp.
    AtWarp,
    /// Polls a word in memory.
    Spinning,
    Done,
    /// Has been reported; never runs again.
    Faulty,
}

type Thread = Coroutine<(), (), (), DefaultStack>;

/// The state of one thread.
pub struct State {
    pub status: Status,
    /// Suspends the thread; null until it has started.
    pub yielder: *const Yielder<(), ()>,
    /// The addresses of its stack.
    pub stack: Range<usize>,
    coroutine: Option<Thread>,
    pub cp_async: CpAsync,
    pub wgmma: Lane,
}

/// One block, or the blocks of one cluster, whose threads are numbered block after block. Coroutines reach it through a
/// pointer (`ffi`), so no reference to it is held across a switch of coroutines.
pub struct Block {
    pub kernel: Kernel,
    pub options: Options,
    /// Index in the grid of the cluster's first block.
    first: [u32; 3],
    /// Dimensions of the grid, in blocks.
    pub grid: [u32; 3],
    /// Dimensions of a block, in threads.
    pub block: [u32; 3],
    /// Number of the thread that is running.
    pub current: usize,
    pub threads: Vec<State>,
    /// Shared memory of each block of the cluster.
    pub shared: Vec<Shared>,
    /// Global memory. Its shadow memory is used only while blocks run one after another.
    pub memory: NonNull<Memory>,
    /// Present if checks are on.
    pub clocks: Option<Clocks>,
    /// Named barriers of each block of the cluster.
    pub barriers: Vec<[Barrier; BARRIERS]>,
    pub cluster: Barrier,
    /// For each warp, the operations in which lanes wait.
    pub warps: Vec<Vec<Exchange>>,
    /// The mbarriers of all blocks of the cluster, in the order of their initialisation.
    pub mbarriers: Vec<Mbarrier>,
    pub tma_loads: TmaLoads,
    pub tma_stores: TmaStores,
    pub wgmma: Vec<Warp>,
    pub random: Random,
    pub fault: Option<Fault>,
    /// Barriers, fences, waits and commits that were reached.
    pub sites: BTreeSet<Here>,
    spins: u32,
    rounds: u32,
    stacks: Vec<DefaultStack>,
}

/// The arguments of [`Block::new`]: what stays the same for all blocks of a launch that a worker runs.
pub struct Setup<'a> {
    pub kernel: Kernel,
    pub launch: &'a Launch,
    pub options: &'a Options,
    pub memory: NonNull<Memory>,
    pub stacks: Vec<DefaultStack>,
}

impl Block {
    /// Allocates stacks and shared memory; fails if there is not enough memory.
    pub fn new(setup: Setup) -> Result<Self> {
        let Setup { kernel, launch, options, memory, mut stacks } = setup;
        let blocks = kernel.cluster as usize;
        let threads = launch.block.iter().product::<u32>() as usize * blocks;
        while stacks.len() < threads {
            let stack = DefaultStack::new(STACK).map_err(|e| {
                Error::new(format!("cannot allocate the stacks of {threads} emulated threads: {e}; is memory limited?"))
            })?;
            stacks.push(stack);
        }
        Ok(Block {
            kernel,
            options: options.clone(),
            first: [0; 3],
            grid: launch.grid,
            block: launch.block,
            current: 0,
            threads: Vec::with_capacity(threads),
            shared: (0..blocks).map(|_| Shared::new(options.checks)).collect::<Result<_>>()?,
            memory,
            clocks: None,
            barriers: Vec::new(),
            cluster: Barrier::default(),
            warps: Vec::new(),
            mbarriers: Vec::new(),
            tma_loads: TmaLoads::default(),
            tma_stores: TmaStores::default(),
            wgmma: Vec::new(),
            random: Random::new(options.seed),
            fault: None,
            sites: BTreeSet::new(),
            spins: 0,
            rounds: 0,
            stacks,
        })
    }

    /// Returns the stacks, to be used again by the next launch.
    pub fn into_stacks(self) -> Vec<DefaultStack> {
        self.stacks
    }

    /// Returns the number of threads of a block.
    pub fn count(&self) -> usize {
        self.block.iter().product::<u32>() as usize
    }

    /// Returns the number of threads of all blocks of the cluster.
    pub fn total(&self) -> usize {
        self.count() * self.shared.len()
    }

    /// Returns the rank of a thread's block in its cluster.
    pub fn rank(&self, thread: usize) -> usize {
        thread / self.count()
    }

    /// Returns the index in the grid of a thread's block (`blockIdx`).
    pub fn id(&self, thread: usize) -> [u32; 3] {
        let [x, y, z] = self.first;
        [x + self.rank(thread) as u32, y, z]
    }

    /// Returns the shared memory of the current thread's block.
    pub fn own(&mut self) -> &mut Shared {
        let rank = self.rank(self.current);
        &mut self.shared[rank]
    }

    /// Returns whether an address lies in the shared memory of a block of the cluster.
    pub fn is_shared(&self, address: u64) -> bool {
        self.shared.iter().any(|shared| shared.contains(address))
    }

    /// Returns the index of a thread in its block (`threadIdx`).
    pub fn coordinates(&self, thread: usize) -> [u32; 3] {
        let ([x, y, _], t) = (self.block, (thread % self.count()) as u32);
        [t % x, t / x % y, t / (x * y)]
    }

    /// Runs the cluster whose first block is `first` to its end, or to its first fault, with `shared` bytes of dynamic
    /// shared memory per block. `args` are the addresses of the parameters.
    ///
    /// # Safety
    /// `args` match the kernel's parameters, and the memory outlives the call.
    pub unsafe fn run(&mut self, first: [u32; 3], shared: u32, clocks: Option<Clocks>, args: &[*const c_void]) {
        let count = self.total();
        self.first = first;
        self.clocks = clocks;
        self.shared.iter_mut().for_each(|one| one.begin(shared as usize));
        if self.options.checks {
            let shared = &self.shared;
            // SAFETY: with checks on, blocks run one after another.
            let published = unsafe { &mut self.memory.as_mut().published };
            published.retain(|word, _| !shared.iter().any(|one| one.contains(*word)));
        }
        let none = || std::array::from_fn(|_| Barrier::default());
        self.barriers = self.shared.iter().map(|_| none()).collect();
        self.cluster = Barrier::default();
        self.warps = (0..count.div_ceil(32)).map(|_| Vec::new()).collect();
        self.mbarriers.clear();
        self.tma_loads = TmaLoads::default();
        self.tma_stores = TmaStores::default();
        self.wgmma = (0..count.div_ceil(32)).map(|_| Warp::default()).collect();
        (self.spins, self.rounds) = (0, 0);
        let (run, args) = (self.kernel.run, args.as_ptr());
        for _ in 0..count {
            let Some(stack) = self.stacks.pop() else { return };
            let body = move |yielder: &Yielder<(), ()>, ()| {
                ffi::started(yielder);
                // SAFETY: guaranteed by the caller.
                unsafe { run(args) };
            };
            let range = stack.limit().get()..stack.base().get();
            let coroutine = Some(Coroutine::with_stack(stack, body));
            let (cp_async, wgmma) = (CpAsync::default(), Lane::default());
            let (status, yielder) = (Status::Ready, null());
            self.threads.push(State { status, yielder, stack: range, coroutine, cp_async, wgmma });
        }
        // SAFETY: this block outlives the call of `schedule`, and is only accessed through this pointer meanwhile.
        unsafe { schedule(self) };
        for mut state in self.threads.drain(..) {
            let Some(mut coroutine) = state.coroutine.take() else { continue };
            if !coroutine.done() {
                // SAFETY: kernels own nothing that needs to be dropped.
                unsafe { coroutine.force_reset() };
            }
            self.stacks.push(coroutine.into_stack());
        }
    }

    fn order(&mut self) -> Vec<usize> {
        let n = self.total();
        match self.options.order {
            Order::Forward => (0..n).collect(),
            Order::Reverse => (0..n).rev().collect(),
            Order::Random => self.random.permutation(n),
        }
    }

    /// Records a fault of the current thread, which then never runs again. Only the first fault of a block is kept.
    pub fn report(&mut self, at: At, what: impl Into<String>) {
        let thread = self.current;
        self.report_for(thread, at, what);
        if let Some(state) = self.threads.get_mut(thread) {
            state.status = Status::Faulty;
        }
    }

    /// Reports a panic of the emulator itself, in a function that the current thread called.
    pub fn panicked(&mut self, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        self.report(At::Kernel, format!("the emulator panicked: {}", text.unwrap_or("no message")));
    }

    /// Records a fault of a thread, unless there has been one already.
    pub fn report_for(&mut self, thread: usize, at: At, what: impl Into<String>) {
        if self.fault.is_none() {
            let (kernel, block, thread) = (self.kernel.name, self.id(thread), self.coordinates(thread));
            let schedule = self.options.schedule();
            self.fault = Some(Fault { kernel, block, thread, at, what: what.into(), there: None, schedule });
        }
    }

    /// Checks an access by the current thread, or by an asynchronous operation that it starts. Returns false if it was
    /// reported. `place` is the address and the number of bytes.
    pub fn access(&mut self, actor: Actor, place: (u64, u64), how: How, pc: Pc) -> bool {
        self.access_by(Who { thread: self.current, actor }, place, how, pc)
    }

    /// The same as [`Block::access`], for any thread.
    pub fn access_by(&mut self, who: Who, (address, bytes): (u64, u64), how: How, pc: Pc) -> bool {
        let write = how != How::Read;
        let shared = self.is_shared(address);
        // SAFETY: with checks on, blocks run one after another, so this is the only user of the memory's shadows.
        let memory = unsafe { self.memory.as_mut() };
        let place = match self.shared.iter_mut().find_map(|one| one.locate(address, bytes)) {
            Some(place) => place,
            None => memory.locate(address, bytes, write),
        };
        let Some(clocks) = &self.clocks else { return true };
        let defect = match place {
            Ok((shadow, start)) => shadow.access(clocks, who, how, (start, bytes as usize), pc),
            Err(what) => {
                self.report(At::Access(pc), format!("out of bounds: {what}"));
                return false;
            }
        };
        let Some(defect) = defect else { return true };
        let kind = match self.place(address, bytes, write) {
            Some(place) if shared => format!("shared memory ({place})"),
            Some(place) => format!("global memory ({place})"),
            None if shared => "shared memory".into(),
            None => "global memory".into(),
        };
        let there = match defect {
            Defect::Uninitialised => None,
            Defect::Race { pc, .. } | Defect::Proxy { pc, .. } => Some(pc),
        };
        let what = match defect {
            Defect::Uninitialised => {
                format!("uninitialised: {bytes} bytes of {kind} are read but were never written")
            }
            Defect::Race { other, wrote, .. } => {
                let verb = match how {
                    How::Read => "read",
                    How::Write => "written",
                    How::Atomic if who.actor == Actor::Thread => "changed by an atomic",
                    How::Atomic => "added to",
                };
                let mine = match who.actor {
                    Actor::Thread => "this thread",
                    Actor::CpAsync => "a cp.async copy",
                    Actor::TmaLoads { .. } => "a TMA load",
                    Actor::StoreReads { .. } | Actor::StoreWrites { .. } => "a TMA store",
                    Actor::Wgmma { .. } => "a wgmma",
                };
                format!(
                    "race: {bytes} bytes of {kind} are {verb} by {mine} and {} by {} at {}, with no barrier, \
                     fence or wait that orders the two",
                    if wrote { "written" } else { "read" },
                    self.name(other),
                    Fault::THERE,
                )
            }
            Defect::Proxy { other, .. } => format!(
                "a proxy fence is missing: {bytes} bytes of {kind}, written by {} at {}, are accessed by TMA or wgmma, \
                 which see a thread's writes to shared memory only after the fence_async (fence.proxy.async) of that \
                 same thread, and its writes to global memory only in a later launch",
                self.name(other),
                Fault::THERE
            ),
        };
        self.report(At::Access(pc), what);
        if let Some(fault) = self.fault.as_mut().filter(|fault| fault.what.contains(Fault::THERE)) {
            fault.there = fault.there.or(there);
        }
        false
    }

    /// Describes where bytes lie that a kernel may access: the operand or shared array, the row and the column.
    fn place(&mut self, address: u64, bytes: u64, write: bool) -> Option<String> {
        match self.shared.iter().find(|one| one.contains(address)) {
            Some(shared) => shared.place(address),
            // SAFETY: as in `access_by`.
            None => operands::inside(unsafe { self.memory.as_ref() }.regions(), address, bytes, write),
        }
    }

    /// Describes who made the access of a stamp.
    fn name(&self, stamp: Stamp) -> String {
        let Some(clocks) = &self.clocks else { return "a thread".into() };
        let block = if clocks.instance == stamp.instance() { "" } else { " of another block" };
        let thread = |t: usize| {
            let ([x, y, z], [bx, by, bz]) = (self.coordinates(t), self.id(t));
            match self.rank(t) == self.rank(self.current) || !block.is_empty() {
                true => format!("thread ({x}, {y}, {z}){block}"),
                false => format!("thread ({x}, {y}, {z}) of block ({bx}, {by}, {bz})"),
            }
        };
        match clocks.party(stamp.who()) {
            Party::Thread(t) => thread(t),
            Party::CpAsync(t) => format!("a cp.async copy by {}", thread(t)),
            Party::Wgmma(warp) => format!("a wgmma of warp {warp}{block}"),
            Party::TmaLoads(number) => match self.mbarriers.get(number).filter(|_| block.is_empty()) {
                Some(barrier) => format!("a TMA load counted by {}", barrier.name()),
                None => format!("a TMA load{block}"),
            },
            Party::Store(number) => match self.tma_stores.thread(number).filter(|_| block.is_empty()) {
                Some(t) => format!("a TMA store started by {}", thread(t)),
                None => format!("a TMA store{block}"),
            },
        }
    }

    /// Reports asynchronous work that is left over when all threads have returned.
    fn check_end(&mut self) {
        self.check_tma_loads();
        self.check_wgmma();
        self.check_tma_stores();
    }

    fn deadlock(&mut self) {
        let Some(first) = self.threads.iter().position(|t| t.status != Status::Done) else { return };
        let (at, what) = match self.threads[first].status {
            Status::AtBarrier(id) => {
                let rank = self.rank(first);
                let block = rank * self.count()..(rank + 1) * self.count();
                self.barriers[rank][id].describe(self, &format!("barrier {id}"), block)
            }
            Status::AtCluster => self.cluster.describe(self, "the barrier of the cluster", 0..self.total()),
            Status::AtMbarrier(number) => (self.mbarriers[number].waits_at(first), String::new()),
            Status::AtWarp => super::barriers::describe_warp(self, first),
            _ => (At::Kernel, format!("polls a word that no other thread changes, for {SPINS} rounds")),
        };
        let others = self.mbarriers.iter().filter_map(Mbarrier::describe);
        let what = Some(what).filter(|what| !what.is_empty()).into_iter().chain(others).collect::<Vec<_>>().join("; ");
        self.report_for(first, at, format!("deadlock: {what}"));
    }
}

/// Runs the threads of a block until all have returned or one is reported.
///
/// # Safety
/// `block` outlives the call, and nothing else uses it meanwhile.
unsafe fn schedule(block: *mut Block) {
    let outer = ffi::enter(block);
    // SAFETY: references to the block end before a coroutine is resumed; only the running coroutine uses the block.
    unsafe {
        loop {
            let mut progress = false;
            for i in (*block).order() {
                let Some(mut coroutine) = (*block).take(i) else { continue };
                ffi::identify(&*block, FUEL);
                let done = matches!(coroutine.resume(()), CoroutineResult::Return(()));
                progress |= (*block).put(i, coroutine, done);
                if (*block).fault.is_some() {
                    break;
                }
            }
            if !(*block).next_round(progress) {
                break;
            }
        }
    }
    ffi::leave(outer);
}

impl Block {
    /// Makes a thread the current one. Returns its coroutine if it can run.
    fn take(&mut self, i: usize) -> Option<Thread> {
        self.current = i;
        let state = &mut self.threads[i];
        (state.status == Status::Ready).then(|| state.coroutine.take()).flatten()
    }

    /// Takes back the coroutine of a thread that has returned or waits. Returns false if the thread only polled.
    fn put(&mut self, i: usize, coroutine: Thread, done: bool) -> bool {
        let state = &mut self.threads[i];
        state.coroutine = Some(coroutine);
        if done {
            state.status = Status::Done;
        }
        state.status != Status::Spinning
    }

    /// Ends a round: moves asynchronous work on and wakes polling threads. Returns whether there is another round.
    fn next_round(&mut self, progress: bool) -> bool {
        if self.fault.is_some() {
            return false;
        }
        if self.threads.iter().all(|t| t.status == Status::Done) {
            self.check_end();
            return false;
        }
        self.rounds += 1;
        if self.rounds > ROUNDS {
            let what = format!("an endless loop: its threads are still running after {ROUNDS} rounds");
            self.report_for(self.current, At::Kernel, what);
            return false;
        }
        self.advance_tma_stores();
        let progress = self.advance_tma_loads(progress) || progress;
        if self.fault.is_some() {
            return false;
        }
        self.spins = if progress { 0 } else { self.spins + 1 };
        let mut spinning = false;
        for state in self.threads.iter_mut().filter(|t| t.status == Status::Spinning) {
            (state.status, spinning) = (Status::Ready, true);
        }
        if !progress && (!spinning || self.spins > SPINS) {
            self.deadlock();
            return false;
        }
        true
    }
}
