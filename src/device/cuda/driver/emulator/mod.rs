//! Emulates a GPU: runs the kernels of `kernels/`, compiled by the host's C++ compiler, thread by thread.
//!
//! Each thread of a block is a coroutine that runs until it must wait. The compiler's thread-sanitizer instrumentation
//! reports every load and store to this module. With [`Options::checks`], each access is checked for bounds, for
//! initialisation and for races, given the order that barriers, fences and waits establish. A defect is an error that
//! names the kernel, block, thread and source line.

mod atomics;
mod barriers;
mod block;
mod clocks;
mod cp_async;
pub mod crash;
mod ffi;
mod mbarriers;
mod memory;
pub mod operands;
mod options;
mod registry;
mod reload;
mod report;
mod shadow;
mod shared;
mod tma_load;
mod tma_store;
mod watch;
mod wgmma;

pub use options::{Arrival, Log, Options, Order, Schedule};
pub use registry::{Kernel, find, kernels};
pub use report::{Fault, Site};
pub use watch::{Exchange, Field, Watch};

use super::{Driver, Part, Rows};
use crate::bail;
use crate::device::PendingRead;
use crate::device::async_reads::AsyncReads;
use crate::device::cuda::gpu_spec::GpuSpec;
use crate::device::cuda::launch::{Launch, Region, TensorMap};
use crate::error::{Error, Result};
use block::{Block, Setup};
use clocks::{Clocks, Stamp};
use corosensei::stack::DefaultStack;
use memory::Memory;
use options::Random;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The driver that runs kernels on the host.
#[derive(Default)]
pub struct Emulator {
    /// Checks, schedule and hooks; they apply from the next launch on.
    pub options: Options,
    memory: Memory,
    async_reads: AsyncReads,
    /// Name and variant of the current operation.
    operation: [&'static str; 2],
    graphs: Vec<Option<Vec<Part>>>,
    stamps: Vec<Instant>,
    /// Stacks of emulated threads, for the next launch.
    stacks: Vec<DefaultStack>,
    /// All memory as it was before an operation with swapped parameters, to be restored.
    saved: Option<Vec<(Rows, Vec<u8>)>>,
    /// The number of clusters that have run with checks since shadow memory was last forgotten.
    instances: u32,
    launches: u64,
    /// The fault of the last launch.
    pub fault: Option<Fault>,
}

/// What the workers of a launch share and return.
#[derive(Default)]
struct Finished {
    fault: Option<Fault>,
    sites: BTreeSet<Site>,
    stacks: Vec<DefaultStack>,
}

/// The clusters of one launch (single blocks, unless the kernel has clusters), which workers take one after another.
struct Work<'a> {
    kernel: Kernel,
    launch: &'a Launch,
    options: &'a Options,
    operation: [&'static str; 2],
    clusters: usize,
    /// The order in which clusters run; `None`: by number.
    order: Option<Vec<usize>>,
    /// With checks on, the instance number of the first cluster.
    first: u32,
    memory: NonNull<Memory>,
    /// The next cluster to be taken.
    next: AtomicUsize,
    finished: Mutex<Finished>,
}

// SAFETY: workers access bytes of allocations through addresses, as the blocks of a GPU do. The map of allocations,
// shadow memory and `published` are accessed only with checks on, and then there is a single worker (`Emulator::run`).
unsafe impl Sync for Work<'_> {}

impl Work<'_> {
    fn finished(&self) -> MutexGuard<'_, Finished> {
        self.finished.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Runs all clusters on `workers` host threads.
    fn run(&self, workers: usize) -> Result<()> {
        if workers == 1 {
            return self.work();
        }
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..workers).map(|_| scope.spawn(|| self.work())).collect();
            let mine = self.work();
            let lost = || Err(Error::new("a worker thread of the emulator panicked"));
            others.into_iter().map(|w| w.join().unwrap_or_else(|_| lost())).fold(mine, |all, one| all.and(one))
        })
    }

    /// Runs clusters until none are left or one has a fault.
    fn work(&self) -> Result<()> {
        let (launch, options) = (self.launch, self.options);
        let cluster = self.kernel.cluster;
        let threads = (launch.block.iter().product::<u32>() * cluster) as usize;
        let stacks = {
            let all = &mut self.finished().stacks;
            all.split_off(all.len().saturating_sub(threads))
        };
        let mut block = Block::new(Setup { kernel: self.kernel, launch, options, memory: self.memory, stacks })?;
        let parameter = |(slot, bytes): (&u64, &u8)| match usize::from(*bytes) {
            TensorMap::BYTES => ptr::from_ref(&launch.args.maps()[*slot as usize]).cast::<c_void>(),
            _ => ptr::from_ref(slot).cast(),
        };
        let args: Vec<_> = launch.args.slots().iter().zip(launch.args.sizes()).map(parameter).collect();
        let [x, y] = [launch.grid[0] / cluster, launch.grid[1]];
        // SAFETY: the guard is dropped before the block.
        let running = unsafe { crash::begin(self.operation, &raw const block, &self.kernel, options.checks) };
        while block.fault.is_none() {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= self.clusters {
                break;
            }
            let number = self.order.as_ref().map_or(i, |order| order[i]) as u32;
            let first = [number % x * cluster, number / x % y, number / x / y];
            let clocks = options.checks.then(|| Clocks::new(self.first + i as u32, self.first, threads));
            // SAFETY: `Emulator::check` has compared the sizes of the parameters with those of the kernel; the memory
            // is borrowed from the emulator until all workers have ended.
            unsafe { block.run(first, launch.shared, clocks, &args) };
        }
        drop(running);
        if block.fault.is_some() {
            self.next.store(self.clusters, Ordering::Relaxed);
        }
        let mut finished = self.finished();
        finished.fault = finished.fault.take().or(block.fault.take());
        finished.sites.extend(block.sites.iter().map(|here| here.site()));
        finished.stacks.append(&mut block.into_stacks());
        Ok(())
    }
}

/// Compiles and loads the kernels whose sources have changed since the build. The first launch does the same.
///
/// # Errors
/// A changed kernel does not compile; the message is the compiler's.
pub fn compile_changed() -> Result<()> {
    reload::changed().map(|_| ())
}

impl Emulator {
    /// Creates an emulator without any memory allocated.
    pub fn new(options: Options) -> Self {
        Emulator { options, ..Emulator::default() }
    }

    /// Finds the kernel of a launch and checks the launch against its limits.
    fn check(launch: &Launch) -> Result<Kernel> {
        reload::changed()?;
        let Some(kernel) = find(launch.kernel) else { bail!("the emulator has no kernel {:?}", launch.kernel) };
        let (name, x) = (kernel.name, launch.grid[0]);
        let threads: u64 = launch.block.iter().map(|n| u64::from(*n)).product();
        if threads == 0 || threads > u64::from(kernel.threads) {
            bail!("{name}: {threads} threads per block, but the kernel takes 1 to {}", kernel.threads);
        }
        launch.check()?;
        if launch.is_empty() || launch.block[2] > 64 {
            bail!(
                "{name}: a grid of {:?} blocks of {:?} threads is empty or exceeds the limits of CUDA",
                launch.grid,
                launch.block
            );
        }
        let cluster = u64::from(kernel.cluster);
        if !x.is_multiple_of(kernel.cluster) || cluster > 1 && !threads.is_multiple_of(32) {
            bail!(
                "{name}: {x} blocks along x of {threads} threads each, but the kernel takes clusters of {cluster} \
                 blocks of whole warps"
            );
        }
        if Clocks::parties((threads * cluster) as usize) > Stamp::PARTIES {
            bail!("{name}: clusters of {cluster} blocks of {threads} threads are more than the checks can track");
        }
        if launch.shared as usize > shared::MOST {
            bail!("{name}: {} bytes of shared memory, but a block has at most {}", launch.shared, shared::MOST);
        }
        if launch.args.sizes() != kernel.sizes {
            let (given, wanted) = (launch.args.sizes(), kernel.sizes);
            bail!("{name}: the launch passes parameters of {given:?} bytes, but the kernel takes {wanted:?}");
        }
        for map in launch.args.maps() {
            let pitches = [map.address, map.pitch, map.head_pitch, map.batch_pitch];
            let aligned = pitches.iter().all(|n| n.is_multiple_of(16)) && map.address > 0;
            let empty = map.rows == 0 || map.columns == 0 || map.heads > 0 && map.batches == 0;
            if !aligned || empty || !(1..=256).contains(&map.box_rows) {
                bail!(
                    "{name}: TMA cannot access {map:?}: the address and pitches must be multiples of 16, no size may \
                     be 0, and a box must have 1 to 256 rows"
                );
            }
        }
        Ok(kernel)
    }

    /// Reserves instance numbers for the next clusters, with checks on. Returns the first.
    fn number(&mut self, blocks: u32) -> u32 {
        if self.instances > Stamp::INSTANCES - 2 - blocks.min(Stamp::INSTANCES / 2) {
            self.memory.forget();
            self.instances = 0;
        }
        let first = self.instances + 1;
        self.instances += blocks;
        first
    }

    /// Runs a launch.
    ///
    /// # Safety
    /// As for [`Driver::launch`]; and the parameters match the kernel's.
    unsafe fn run(&mut self, kernel: Kernel, launch: &Launch) -> Result<()> {
        let [x, y, z] = launch.grid;
        let clusters = x as usize * y as usize * z as usize / kernel.cluster as usize;
        let checks = self.options.checks;
        if checks && clusters > Stamp::INSTANCES as usize / 2 {
            bail!("{}: {clusters} blocks are more than the checks can track; use smaller shapes", kernel.name);
        }
        let first = if checks { self.number(clusters as u32) } else { 0 };
        if checks {
            self.memory.shadow_all();
            self.memory.published.clear();
        }
        self.launches += 1;
        let options = Options { seed: self.options.seed.wrapping_add(self.launches), ..self.options.clone() };
        let work = Work {
            kernel,
            launch,
            options: &options,
            operation: self.operation,
            clusters,
            order: block_order(&options, clusters),
            first,
            memory: NonNull::from(&mut self.memory),
            next: AtomicUsize::new(0),
            finished: Mutex::new(Finished { stacks: std::mem::take(&mut self.stacks), ..Finished::default() }),
        };
        let done = work.run(if checks {
            1
        } else {
            workers(&options, clusters, launch.block.iter().product::<u32>() * kernel.cluster)
        });
        let Finished { fault, sites, stacks } = std::mem::take(&mut *work.finished());
        self.stacks = stacks;
        if let Some(log) = &self.options.log {
            let mut log = log.lock().unwrap_or_else(|e| e.into_inner());
            log.kernels.insert(kernel.name);
            for site in sites {
                log.sites.entry(site).or_default().insert(kernel.name);
            }
        }
        self.fault = fault;
        done?;
        match &self.fault {
            Some(fault) => Err(Error::new(fault.to_string())),
            None => Ok(()),
        }
    }
}

/// Returns the order in which clusters run; `None`: by number.
fn block_order(options: &Options, blocks: usize) -> Option<Vec<usize>> {
    match options.order {
        Order::Forward => None,
        Order::Reverse => Some((0..blocks).rev().collect()),
        Order::Random => Some(Random::new(options.seed).permutation(blocks)),
    }
}

/// Returns the number of host threads for a launch of `clusters` clusters of `threads` threads.
fn workers(options: &Options, clusters: usize, threads: u32) -> usize {
    /// A launch of fewer threads than this is not worth a second worker.
    const WORTHWHILE: usize = 1_024;
    let most = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    // A stack takes two memory mappings, of which Linux allows a process 65,530.
    let stacks = 8_192 / threads.max(1) as usize;
    if clusters * (threads as usize) < WORTHWHILE { 1 } else { most.min(clusters).min(stacks).max(1) }
}

impl Driver for Emulator {
    fn alloc(&mut self, bytes: usize) -> Result<u64> {
        if self.options.checks {
            // A word of 4 bytes has 97 bytes of shadow memory.
            crate::memory::require(bytes.saturating_mul(26))?;
        }
        self.memory.alloc(bytes)
    }

    fn free(&mut self, address: u64) {
        self.memory.free(address);
    }

    fn write(&mut self, to: Rows, bytes: &[u8]) -> Result<()> {
        self.restore();
        self.memory.write(&to, bytes)
    }

    fn read(&mut self, from: Rows, bytes: &mut [u8]) -> Result<()> {
        self.memory.read(&from, bytes)
    }

    fn read_async(&mut self, from: Rows) -> Result<PendingRead> {
        self.memory.check(&from)?;
        let (ticket, bytes) = self.async_reads.read_async(from.bytes())?;
        self.memory.read(&from, bytes)?;
        Ok(ticket)
    }

    fn wait_read(&mut self, ticket: PendingRead, bytes: &mut [u8]) -> Result<()> {
        self.async_reads.wait_read(ticket, bytes)
    }

    fn copy(&mut self, from: Rows, to: Rows) -> Result<()> {
        self.memory.copy(&from, &to)
    }

    fn operation(&mut self, name: &'static str, variant: &'static str) {
        self.operation = [name, variant];
    }

    fn operands(&mut self, regions: &[Region]) {
        self.restore();
        self.save();
        self.memory.operands(regions, self.options.checks);
    }

    unsafe fn launch(&mut self, launch: &Launch) -> Result<()> {
        let changed = self.watched(launch)?;
        let launch = changed.as_ref().unwrap_or(launch);
        let kernel = Self::check(launch)?;
        // SAFETY: guaranteed by the caller. If parameters were swapped, checks are on, and every access is checked
        // before it is made.
        unsafe { self.run(kernel, launch) }
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    unsafe fn record(&mut self, parts: &[Part]) -> Result<u32> {
        self.graphs.push(Some(parts.to_vec()));
        Ok(self.graphs.len() as u32 - 1)
    }

    unsafe fn replay(&mut self, graph: u32) -> Result<()> {
        let Some(parts) = self.graphs.get_mut(graph as usize).and_then(Option::take) else {
            bail!("this graph was released")
        };
        // SAFETY: guaranteed by the caller.
        let done = parts.iter().try_for_each(|part| unsafe { part.start(self) });
        self.graphs[graph as usize] = Some(parts);
        done
    }

    fn release(&mut self, graph: u32) {
        if let Some(slot) = self.graphs.get_mut(graph as usize) {
            *slot = None;
        }
    }

    fn stamp(&mut self) -> Result<()> {
        self.stamps.push(Instant::now());
        Ok(())
    }

    fn stamps(&mut self, each: &mut dyn FnMut(Duration)) -> Result<()> {
        self.stamps.windows(2).for_each(|pair| each(pair[1].saturating_duration_since(pair[0])));
        self.stamps.clear();
        Ok(())
    }

    fn label(&self) -> Option<String> {
        Some(self.options.schedule().to_string())
    }

    fn gpu(&self) -> GpuSpec {
        GpuSpec::A100
    }
}
