//! Emulated hardware: the kernels of `kernels/`, compiled by the host's C++ compiler and run thread for thread.
//!
//! Each thread of a block is a coroutine that runs until it must wait. The compiler's instrumentation for its thread sanitizer
//! brings every load and store here, where with [`Options::checks`] it is held against bounds, initialisation and the order
//! that barriers, fences and waits make. What is wrong is an error that names kernel, block, thread and source line.

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
use crate::device::Ticket;
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

/// See the module.
#[derive(Default)]
pub struct Emulator {
    pub options: Options,
    memory: Memory,
    async_reads: AsyncReads,
    /// Name and variant of the operation in hand.
    operation: [&'static str; 2],
    graphs: Vec<Option<Vec<Part>>>,
    stamps: Vec<Instant>,
    stacks: Vec<DefaultStack>,
    /// Memory before an operation whose parameters were exchanged, to be put back.
    kept: Option<Vec<(Rows, Vec<u8>)>>,
    /// Blocks that have run with checks.
    instances: u32,
    launches: u64,
    /// The last launch's fault.
    pub fault: Option<Fault>,
}

/// What workers share and hand back.
#[derive(Default)]
struct Finished {
    fault: Option<Fault>,
    sites: BTreeSet<Site>,
    stacks: Vec<DefaultStack>,
}

/// The clusters of one launch, most of one block, which workers take one after another.
struct Work<'a> {
    kernel: Kernel,
    launch: &'a Launch,
    options: &'a Options,
    operation: [&'static str; 2],
    clusters: usize,
    /// Another order than by number.
    order: Option<Vec<usize>>,
    /// With checks on, the number of the first.
    first: u32,
    memory: NonNull<Memory>,
    next: AtomicUsize,
    finished: Mutex<Finished>,
}

// SAFETY: workers reach bytes of allocations as a GPU's blocks do, through addresses; maps of allocations, shadows and `published`
// are touched only with checks on, and then there is one worker (`Emulator::run`).
unsafe impl Sync for Work<'_> {}

impl Work<'_> {
    fn finished(&self) -> MutexGuard<'_, Finished> {
        self.finished.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// All blocks on so many threads of the host.
    fn run(&self, workers: usize) -> Result<()> {
        if workers == 1 {
            return self.work();
        }
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..workers).map(|_| scope.spawn(|| self.work())).collect();
            let mine = self.work();
            let lost = || Err(Error::new("a worker of the emulator has panicked"));
            others.into_iter().map(|w| w.join().unwrap_or_else(|_| lost())).fold(mine, |all, one| all.and(one))
        })
    }

    /// Blocks until none is left, or one is faulty.
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
        // SAFETY: the block outlives the guard, which is dropped before it.
        let running = unsafe { crash::begin(self.operation, &raw const block, &self.kernel, options.checks) };
        while block.fault.is_none() {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= self.clusters {
                break;
            }
            let number = self.order.as_ref().map_or(i, |order| order[i]) as u32;
            let first = [number % x * cluster, number / x % y, number / x / y];
            let clocks = options.checks.then(|| Clocks::new(self.first + i as u32, self.first, threads));
            // SAFETY: `Emulator::check` has compared the sizes of the parameters with the kernel's; memory is borrowed from the
            // emulator until all workers have ended.
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

impl Emulator {
    pub fn new(options: Options) -> Self {
        Emulator { options, ..Emulator::default() }
    }

    fn check(launch: &Launch) -> Result<Kernel> {
        let Some(kernel) = find(launch.kernel) else { bail!("there is no emulated kernel {:?}", launch.kernel) };
        let (name, x) = (kernel.name, launch.grid[0]);
        let threads: u64 = launch.block.iter().map(|n| u64::from(*n)).product();
        if threads == 0 || threads > u64::from(kernel.threads) {
            bail!("{name}: {threads} threads a block, but it is made for 1 to {}", kernel.threads);
        }
        launch.check()?;
        if launch.is_empty() || launch.block[2] > 64 {
            bail!(
                "{name}: a grid of {:?} blocks of {:?} threads is empty or beyond the limits of CUDA",
                launch.grid,
                launch.block
            );
        }
        let cluster = u64::from(kernel.cluster);
        if !x.is_multiple_of(kernel.cluster) || cluster > 1 && !threads.is_multiple_of(32) {
            bail!(
                "{name}: a grid of {x} blocks along x, of {threads} threads: it takes clusters of {cluster} blocks of whole warps"
            );
        }
        if Clocks::parties((threads * cluster) as usize) > Stamp::PARTIES {
            bail!("{name}: clusters of {cluster} blocks of {threads} threads are more than the checks can tell apart");
        }
        if launch.shared as usize > shared::MOST {
            bail!("{name}: {} bytes of shared memory, but a block has at most {}", launch.shared, shared::MOST);
        }
        if launch.args.sizes() != kernel.sizes {
            let (given, wanted) = (launch.args.sizes(), kernel.sizes);
            bail!("{name}: parameters of {given:?} bytes are given, but it takes {wanted:?}");
        }
        for map in launch.args.maps() {
            let pitches = [map.address, map.pitch, map.head_pitch, map.batch_pitch];
            let aligned = pitches.iter().all(|n| n.is_multiple_of(16)) && map.address > 0;
            let empty = map.rows == 0 || map.columns == 0 || map.heads > 0 && map.batches == 0;
            if !aligned || empty || !(1..=256).contains(&map.box_rows) {
                bail!(
                    "{name}: {map:?} is beyond the copy engine: address and pitches are multiples of 16, no size is 0, and a box \
                     has 1 to 256 rows"
                );
            }
        }
        Ok(kernel)
    }

    /// Clocks of the next blocks, with checks on: the number of the first.
    fn number(&mut self, blocks: u32) -> u32 {
        if self.instances > Stamp::INSTANCES - 2 - blocks.min(Stamp::INSTANCES / 2) {
            self.memory.forget();
            self.instances = 0;
        }
        let first = self.instances + 1;
        self.instances += blocks;
        first
    }

    /// # Safety
    /// As [`Driver::launch`], and the kernel takes these parameters.
    unsafe fn run(&mut self, kernel: Kernel, launch: &Launch) -> Result<()> {
        let [x, y, z] = launch.grid;
        let clusters = x as usize * y as usize * z as usize / kernel.cluster as usize;
        let checks = self.options.checks;
        if checks && clusters > Stamp::INSTANCES as usize / 2 {
            bail!("{}: {clusters} blocks are more than the checks can tell apart; use smaller shapes", kernel.name);
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

/// Blocks in another order than by number.
fn block_order(options: &Options, blocks: usize) -> Option<Vec<usize>> {
    match options.order {
        Order::Forward => None,
        Order::Reverse => Some((0..blocks).rev().collect()),
        Order::Random => Some(Random::new(options.seed).permutation(blocks)),
    }
}

/// Threads of the host for a launch: small ones are not worth a second.
fn workers(options: &Options, clusters: usize, threads: u32) -> usize {
    const WORTHWHILE: usize = 1_024;
    let most = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    // A stack takes two mappings, of which Linux grants a process 65,530.
    let stacks = 8_192 / threads.max(1) as usize;
    if clusters * (threads as usize) < WORTHWHILE { 1 } else { most.min(clusters).min(stacks).max(1) }
}

impl Driver for Emulator {
    fn alloc(&mut self, bytes: usize) -> Result<u64> {
        if self.options.checks {
            // The shadow of a word has 97 bytes.
            crate::memory::require(bytes.saturating_mul(26))?;
        }
        self.memory.alloc(bytes)
    }

    fn free(&mut self, address: u64) {
        self.memory.free(address);
    }

    fn write(&mut self, to: Rows, bytes: &[u8]) -> Result<()> {
        self.put_back();
        self.memory.write(&to, bytes)
    }

    fn read(&mut self, from: Rows, bytes: &mut [u8]) -> Result<()> {
        self.memory.read(&from, bytes)
    }

    fn read_async(&mut self, from: Rows) -> Result<Ticket> {
        self.memory.check(&from)?;
        let (ticket, bytes) = self.async_reads.read_async(from.bytes())?;
        self.memory.read(&from, bytes)?;
        Ok(ticket)
    }

    fn wait_read(&mut self, ticket: Ticket, bytes: &mut [u8]) -> Result<()> {
        self.async_reads.wait_read(ticket, bytes)
    }

    fn copy(&mut self, from: Rows, to: Rows) -> Result<()> {
        self.memory.copy(&from, &to)
    }

    fn operation(&mut self, name: &'static str, variant: &'static str) {
        self.operation = [name, variant];
    }

    fn operands(&mut self, regions: &[Region]) {
        self.put_back();
        self.keep();
        self.memory.operands(regions, self.options.checks);
    }

    unsafe fn launch(&mut self, launch: &Launch) -> Result<()> {
        let changed = self.watched(launch)?;
        let launch = changed.as_ref().unwrap_or(launch);
        let kernel = Self::check(launch)?;
        // SAFETY: the caller's promise; where parameters were exchanged, checks are on, and every access is looked at before it
        // is made.
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
        // SAFETY: the caller's promise.
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
