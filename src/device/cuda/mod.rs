//! The devices `cuda` (an NVIDIA GPU) and `emulator` (emulated hardware): operations run as CUDA kernels in f32 and
//! bf16.
//!
//! Every operation has several variants ([`variants`]). The launch code of an operation is in the file of that name
//! under [`launch`] and is the same for both drivers ([`driver`]).

pub mod compiled;
pub mod cublaslt;
pub mod driver;
pub mod gpu_spec;
pub mod launch;
pub mod variants;
mod workspaces;

use super::ops::{Access, Item, Multilevel, Op, Operation};
use super::timing::Timings;
use super::{Device, Graph, PendingRead, bounds};
use crate::bail;
use crate::error::{Error, Result};
use crate::memory;
use crate::tensor::{DType, Tensor};
use driver::{Driver, Part};
use launch::addresses::Addresses;
use launch::{Launch, Region};
use std::time::Instant;
use variants::Variant;
use workspaces::Workspaces;

/// Opens the device `cuda:N`: GPU `gpu` of those that CUDA sees, with the variants that the environment requests.
///
/// # Errors
/// Fails when libcuda, the GPU or this build's device code is missing. The message says which, and which devices need no
/// GPU.
pub fn open(gpu: usize) -> Result<Cuda<driver::nvidia::Nvidia>> {
    Cuda::new("cuda", driver::nvidia::Nvidia::open(gpu)?).with_requested_variants()
}

/// Creates the device `emulator`.
#[cfg(emulated)]
pub fn emulated(options: driver::emulator::Options) -> Cuda<driver::emulator::Emulator> {
    let mut device = Cuda::new("emulator", driver::emulator::Emulator::new(options));
    // Few enough SMs that each block of a persistent kernel processes several tiles.
    device.addresses.sms = 2;
    device
}

/// One operation and its FLOPs, which are reported with its time.
struct Planned {
    op: Op,
    flops: u64,
}

/// A captured list of operations.
struct Captured {
    planned: Vec<Planned>,
    /// The operands and launches of each entry of `planned`.
    parts: Vec<Part>,
    /// The driver's graph of all launches.
    graph: u32,
    /// The arenas that hold the operands.
    arenas: Vec<u32>,
    /// The address of the workspace that the launches use.
    workspace: Option<u64>,
}

/// A device that runs operations as kernels through a [`Driver`].
pub struct Cuda<D: Driver> {
    name: &'static str,
    driver: D,
    addresses: Addresses,
    workspaces: Workspaces,
    captured: Vec<Option<Captured>>,
    /// Captured lists are replayed as graphs, not operation by operation.
    graphs: bool,
    timings: Timings,
    /// Variants that take precedence over the time model's choice, at most one per operation.
    preferred: Vec<&'static Variant>,
}

impl<D: Driver> Cuda<D> {
    /// Wraps a driver into a device of this name. Memory is empty and graphs are on.
    pub fn new(name: &'static str, driver: D) -> Self {
        let addresses = Addresses::new(driver.gpu().sms);
        Cuda {
            name,
            driver,
            addresses,
            workspaces: Workspaces::default(),
            captured: Vec::new(),
            graphs: true,
            timings: Timings::default(),
            preferred: Vec::new(),
        }
    }

    /// Returns the driver, by shared reference only: code that could free its memory could break this device.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// From now on runs the variant's operation with this variant wherever it supports the operands, whatever the time
    /// model would choose. Replaces an earlier preference for the same operation.
    pub fn prefer(&mut self, variant: &'static Variant) {
        self.preferred.retain(|v| v.operation != variant.operation);
        self.preferred.push(variant);
    }

    /// Applies the environment: preferred variants ([`variants::requested`]), and `VCYCLE_GRAPHS=0`, which launches
    /// operations one by one.
    ///
    /// # Errors
    /// Fails on a variable that names an unknown operation or variant, and on another value of `VCYCLE_GRAPHS`.
    pub fn with_requested_variants(mut self) -> Result<Self> {
        self.preferred = variants::requested()?;
        match std::env::var("VCYCLE_GRAPHS").as_deref() {
            Ok("0") => self.graphs = false,
            Ok("1") | Err(_) => {}
            Ok(other) => {
                bail!("VCYCLE_GRAPHS is {other:?}; 1 replays a step as one CUDA graph, 0 launches each operation")
            }
        }
        Ok(self)
    }

    /// Sets whether captured lists are replayed as graphs (the default) or operation by operation. The results are
    /// bit-identical.
    pub fn use_graphs(&mut self, graphs: bool) {
        self.graphs = graphs;
    }

    /// Returns the variant that runs an operation: a preferred one that supports it, else the time model's choice;
    /// `None` when no variant supports it.
    pub fn variant(&self, op: &Op) -> Option<&'static Variant> {
        let preferred = self.preferred.iter().copied().find(|v| (v.supports)(op));
        preferred.or_else(|| variants::choose(op, &self.driver.gpu()))
    }

    /// Checks an operation and returns the variant that runs it.
    fn chosen(&mut self, op: &Op) -> Result<&'static Variant> {
        bounds::check(op, &[DType::F32, DType::BF16], |arena| self.addresses.bytes(arena))?;
        if let Op::Multilevel(op) = op {
            check_maps(&mut self.driver, &self.addresses, op).map_err(|e| e.at(Multilevel::NAME))?;
        }
        let none = || Error::new(format!("no kernel supports these shapes and types: {op:?}")).at(op.name());
        self.variant(op).ok_or_else(none)
    }

    /// Computes the launches of an operation. The workspace must have been reserved, since launches contain its
    /// address.
    fn plan(&self, op: &Op, variant: &Variant) -> Result<(Planned, Part)> {
        let mut launches = Vec::new();
        (variant.launch)(op, &self.addresses, &mut launches);
        launches.retain(|launch| !launch.is_empty());
        launches.iter().try_for_each(Launch::check).map_err(|e| e.at(op.name()))?;
        let (mut regions, mut located) = (Vec::new(), Ok(()));
        { *op }.named_operands(&mut |name, t, access| match self.addresses.rows(t) {
            Ok(rows) => regions.push(Region { name, rows, element: t.dtype().bytes(), access }),
            Err(e) => located = Err(e),
        });
        located.map_err(|e| e.at(op.name()))?;
        if (variant.workspace)(op) > 0 {
            let rows = self.addresses.workspace_rows();
            regions.push(Region { name: "workspace", rows, element: 4, access: Access::Update });
        }
        let part = Part { name: op.name(), variant: variant.name, regions, launches };
        Ok((Planned { op: *op, flops: op.cost().flops }, part))
    }

    /// Makes the workspace at least this large. When it has to grow, it gets [`with_reserve`] bytes.
    fn reserve(&mut self, bytes: usize) -> Result<()> {
        let bytes = if bytes > self.workspaces.present().1 { with_reserve(bytes) } else { bytes };
        let reserved = self.workspaces.reserve(&mut self.driver, bytes);
        let (address, bytes) = self.workspaces.present();
        self.addresses.set_workspace(address, bytes);
        reserved.map_err(|e| e.at("kernel workspace"))
    }
}

/// Checks that the maps of a multilevel operation stay within their arenas. Reads the maps back from the device, which
/// is affordable because models are mapped only a few times in a run.
fn check_maps(driver: &mut impl Driver, addresses: &Addresses, op: &Multilevel) -> Result<()> {
    let mut items = memory::zeros::<Item>(op.items.rows())?;
    let mut index = memory::zeros::<u32>(op.index.numel())?;
    driver.read(addresses.rows(&op.items)?, bytemuck::cast_slice_mut(&mut items))?;
    driver.read(addresses.rows(&op.index)?, bytemuck::cast_slice_mut(&mut index))?;
    Item::check_all(&items, &index, op.src.numel(), op.dst.numel())
}

/// Adds 50 % headroom, since a later operation often needs slightly more. Rounds up to a multiple of 256 bytes.
fn with_reserve(bytes: usize) -> usize {
    bytes.saturating_add(bytes / 2).checked_next_multiple_of(256).unwrap_or(usize::MAX)
}

/// Runs operations one after another and records the device time of each in `timings`.
///
/// # Safety
/// The same as for [`Part::start`].
unsafe fn run(driver: &mut dyn Driver, planned: &[Planned], parts: &[Part], timings: &mut Timings) -> Result<()> {
    let begin = Instant::now();
    let start = |driver: &mut dyn Driver, part: &Part| {
        driver.begin_range(part.name);
        // SAFETY: guaranteed by the caller.
        let started = unsafe { part.start(driver) };
        driver.end_range();
        started.and_then(|()| driver.stamp())
    };
    let started = driver.stamp().and_then(|()| parts.iter().try_for_each(|part| start(driver, part)));
    if started.is_err() {
        // Discards the stamps taken so far, so that the next list does not see them. The first error is the one to
        // return.
        let _ = driver.stamps(&mut |_| {});
        return started;
    }
    let (mut at, mut planned) = (begin, planned.iter());
    driver.stamps(&mut |length| {
        if let Some(Planned { op, flops }) = planned.next() {
            timings.add_span(op, *flops, at, length);
        }
        at += length;
    })
}

impl<D: Driver> Device for Cuda<D> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn label(&self) -> String {
        self.driver.label().map_or(self.name.into(), |label| format!("{} ({label})", self.name))
    }

    fn float(&self) -> DType {
        DType::F32
    }

    fn computes_in(&self, dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::BF16)
    }

    fn alloc(&mut self, bytes: usize) -> Result<u32> {
        let address = self.driver.alloc(bytes)?;
        Ok(self.addresses.add(address, bytes))
    }

    fn free(&mut self, arena: u32) {
        if let Some(address) = self.addresses.remove(arena) {
            self.driver.free(address);
        }
    }

    fn write(&mut self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        self.driver.write(self.addresses.packed(to, bytes.len())?, bytes)
    }

    fn read(&mut self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        self.driver.read(self.addresses.packed(from, bytes.len())?, bytes)
    }

    fn read_async(&mut self, from: &Tensor) -> Result<PendingRead> {
        self.driver.read_async(self.addresses.rows(from)?)
    }

    fn wait_read(&mut self, ticket: PendingRead, bytes: &mut [u8]) -> Result<()> {
        self.driver.wait_read(ticket, bytes)
    }

    fn copy(&mut self, from: &Tensor, to: &Tensor) -> Result<()> {
        if (from.rows(), from.width(), from.dtype()) != (to.rows(), to.width(), to.dtype()) {
            bail!("{from:?} cannot be copied to {to:?}: rows, width or type differ");
        }
        self.driver.copy(self.addresses.rows(from)?, self.addresses.rows(to)?)
    }

    fn run(&mut self, op: &Op) -> Result<()> {
        let variant = self.chosen(op)?;
        self.reserve((variant.workspace)(op))?;
        let (planned, part) = self.plan(op, variant)?;
        // SAFETY: `chosen` found all operands in live arenas, and a variant's launches access nothing but operands and
        // workspace.
        unsafe { run(&mut self.driver, &[planned], &[part], &mut self.timings) }
    }

    fn scratch(&self, op: &Op) -> usize {
        self.variant(op).map_or(0, |variant| with_reserve((variant.workspace)(op)))
    }

    fn sync(&mut self) -> Result<()> {
        self.driver.sync()
    }

    fn capture(&mut self, ops: &[Op]) -> Result<Graph> {
        let variants = ops.iter().map(|op| self.chosen(op)).collect::<Result<Vec<_>>>()?;
        bounds::check_list(ops)?;
        // Reserves the maximum before planning, so that the whole list uses one workspace.
        let bytes = ops.iter().zip(&variants).map(|(op, variant)| (variant.workspace)(op)).max().unwrap_or(0);
        self.reserve(bytes)?;
        let (mut planned, mut parts) = (Vec::with_capacity(ops.len()), Vec::with_capacity(ops.len()));
        for (op, variant) in ops.iter().zip(variants) {
            let (one, part) = self.plan(op, variant)?;
            planned.push(one);
            parts.push(part);
        }
        // SAFETY: the launches were just planned for these kernels.
        let graph = unsafe { self.driver.record(&parts)? };
        let workspace = if bytes > 0 { self.workspaces.keep() } else { None };
        self.captured.push(Some(Captured { planned, parts, graph, arenas: bounds::arenas(ops), workspace }));
        Ok(Graph(self.captured.len() as u32 - 1))
    }

    /// Replays the list as one graph, or operation by operation when graphs are off or each operation is timed.
    fn replay(&mut self, graph: Graph) -> Result<()> {
        let Some(Some(captured)) = self.captured.get(graph.0 as usize) else {
            bail!("this captured list was released")
        };
        bounds::check_arenas(&captured.arenas, |arena| self.addresses.bytes(arena))?;
        for Planned { op, .. } in &captured.planned {
            if let Op::Multilevel(op) = op {
                check_maps(&mut self.driver, &self.addresses, op).map_err(|e| e.at(Multilevel::NAME))?;
            }
        }
        // SAFETY: what `capture` checked still holds. The arenas are live (checked above), the workspace is live
        // because the list keeps it, and the maps of multilevel operations stay within their arenas (checked above).
        unsafe {
            if self.graphs && !self.timings.is_recording() {
                self.driver.begin_range("captured step");
                let started = self.driver.replay(captured.graph);
                self.driver.end_range();
                return started;
            }
            run(&mut self.driver, &captured.planned, &captured.parts, &mut self.timings)
        }
    }

    fn release(&mut self, graph: Graph) {
        if let Some(captured) = self.captured.get_mut(graph.0 as usize).and_then(Option::take) {
            self.driver.release(captured.graph);
            if let Some(address) = captured.workspace {
                self.workspaces.release(&mut self.driver, address);
            }
        }
    }

    fn timings(&mut self) -> &mut Timings {
        &mut self.timings
    }
}

impl<D: Driver> Drop for Cuda<D> {
    /// Frees all memory, whatever the driver's own `Drop` does.
    fn drop(&mut self) {
        for captured in self.captured.drain(..).flatten() {
            self.driver.release(captured.graph);
        }
        self.workspaces.free(&mut self.driver);
        self.addresses.drain().for_each(|address| self.driver.free(address));
    }
}
