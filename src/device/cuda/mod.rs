//! Operations as kernels: on an NVIDIA GPU (`cuda`), or on emulated hardware (`emulator`), in f32 and bf16.
//!
//! Every operation has a ladder of variants ([`variants`]); the launch code of one stem stands in the file of that stem and
//! is the same on both drivers.

mod accumulate;
mod activation;
mod adamw;
mod attention;
mod attention_backward;
mod column_sum;
pub mod compiled;
mod cross_entropy;
pub mod driver;
mod dropout;
mod elements;
mod embedding;
mod fill;
mod global_norm;
pub mod launch;
mod layernorm;
mod linear;
mod multilevel;
pub mod places;
pub mod variants;

use super::ops::{Access, Item, Multilevel, Op, Operation};
use super::timing::Timings;
use super::{Device, Graph, bounds};
use crate::bail;
use crate::error::{Error, Result};
use crate::memory;
use crate::tensor::{DType, Tensor};
use driver::Driver;
use launch::{Launch, Region};
use places::Places;
use std::time::Instant;
use variants::Variant;

/// The device `cuda`: the first NVIDIA GPU.
///
/// # Errors
/// No libcuda, no GPU, or no device code in this build: says which, and what runs instead.
pub fn open() -> Result<Cuda<driver::nvidia::Nvidia>> {
    Ok(Cuda::new("cuda", driver::nvidia::Nvidia::open()?))
}

/// The device `emulator`.
#[cfg(emulated)]
pub fn emulated(options: driver::emulator::Options) -> Cuda<driver::emulator::Emulator> {
    Cuda::new("emulator", driver::emulator::Emulator::new(options))
}

/// One operation, ready to run.
struct Planned {
    op: Op,
    regions: Vec<Region>,
    launches: Vec<Launch>,
    flops: u64,
}

/// See the module.
pub struct Cuda<D> {
    name: &'static str,
    pub driver: D,
    places: Places,
    graphs: Vec<Option<Vec<Planned>>>,
    timings: Timings,
    /// For operations of one name, this variant instead of the one that is chosen.
    forced: Option<&'static Variant>,
}

impl<D: Driver> Cuda<D> {
    pub fn new(name: &'static str, driver: D) -> Self {
        Cuda { name, driver, places: Places::default(), graphs: Vec::new(), timings: Timings::default(), forced: None }
    }

    /// From now on this variant runs its operation, whether or not another would be chosen.
    pub fn force(&mut self, variant: Option<&'static Variant>) {
        self.forced = variant;
    }

    fn plan(&mut self, op: &Op) -> Result<Planned> {
        bounds::check(op, &[DType::F32, DType::BF16], |arena| self.places.bytes(arena))?;
        if let Op::Multilevel(op) = op {
            self.check_maps(op).map_err(|e| e.at(Multilevel::NAME))?;
        }
        let forced = self.forced.filter(|v| v.operation == op.name());
        let Some(variant) = forced.or_else(|| variants::choose(op)).filter(|v| (v.supports)(op)) else {
            return Err(Error::new(format!("no kernel runs these shapes: {op:?}")).at(op.name()));
        };
        self.reserve((variant.workspace)(op))?;
        let mut launches = Vec::new();
        (variant.launch)(op, &self.places, &mut launches);
        launches.retain(|launch| !launch.is_empty());
        launches.iter().try_for_each(Launch::check).map_err(|e| e.at(op.name()))?;
        let (mut regions, mut located) = (Vec::new(), Ok(()));
        { *op }.operands(&mut |t, access| match self.places.rows(t) {
            Ok(rows) => regions.push(Region { rows, access }),
            Err(e) => located = Err(e),
        });
        located.map_err(|e| e.at(op.name()))?;
        if (variant.workspace)(op) > 0 {
            regions.push(Region { rows: self.places.workspace_rows(), access: Access::Update });
        }
        Ok(Planned { op: *op, regions, launches, flops: op.cost().flops })
    }
}

impl<D: Driver> Cuda<D> {
    /// Sees to it that the workspace has so many bytes. A smaller one stays where it is: captured launches may use it.
    fn reserve(&mut self, bytes: usize) -> Result<()> {
        if bytes > self.places.workspace_rows().width {
            // Half as much again: a next operation is often a little larger.
            let bytes = (bytes + bytes / 2).next_multiple_of(256);
            let address = self.driver.alloc(bytes).map_err(|e| e.at("workspace of kernels"))?;
            self.places.set_workspace(address, bytes);
        }
        Ok(())
    }

    /// Maps lead nowhere outside. They are read back for that: models are mapped a few times in a run.
    fn check_maps(&mut self, op: &Multilevel) -> Result<()> {
        let mut items = memory::zeros::<Item>(op.items.rows())?;
        let mut index = memory::zeros::<u32>(op.index.numel())?;
        self.read(&op.items, bytemuck::cast_slice_mut(&mut items))?;
        self.read(&op.index, bytemuck::cast_slice_mut(&mut index))?;
        items.iter().enumerate().try_for_each(|(number, item)| {
            let checked = item.check(&index, op.src.numel(), op.dst.numel());
            checked.map_err(|e| e.at(format_args!("item {number}")))
        })
    }
}

/// Starts what was planned. On a GPU, the times that are taken around it are those of starting, not of running.
fn run(driver: &mut dyn Driver, planned: &Planned) -> Result<()> {
    driver.operands(&planned.regions);
    planned.launches.iter().try_for_each(|launch| driver.launch(launch)).map_err(|e| e.at(planned.op.name()))
}

impl<D: Driver> Device for Cuda<D> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn float(&self) -> DType {
        DType::F32
    }

    fn computes_in(&self, dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::BF16)
    }

    fn alloc(&mut self, bytes: usize) -> Result<u32> {
        let address = self.driver.alloc(bytes)?;
        Ok(self.places.add(address, bytes))
    }

    fn free(&mut self, arena: u32) {
        if let Some(address) = self.places.remove(arena) {
            self.driver.free(address);
        }
    }

    fn write(&mut self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        self.driver.write(self.places.packed(to, bytes.len())?, bytes)
    }

    fn read(&mut self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        self.driver.read(self.places.packed(from, bytes.len())?, bytes)
    }

    fn copy(&mut self, from: &Tensor, to: &Tensor) -> Result<()> {
        if (from.rows(), from.width, from.dtype) != (to.rows(), to.width, to.dtype) {
            bail!("{from:?} cannot be copied to {to:?}");
        }
        self.driver.copy(self.places.rows(from)?, self.places.rows(to)?)
    }

    fn run(&mut self, op: &Op) -> Result<()> {
        let planned = self.plan(op)?;
        let begin = Instant::now();
        run(&mut self.driver, &planned)?;
        self.timings.add(op, planned.flops, begin);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.driver.sync()
    }

    fn capture(&mut self, ops: &[Op]) -> Result<Graph> {
        let planned = ops.iter().map(|op| self.plan(op)).collect::<Result<_>>()?;
        self.graphs.push(Some(planned));
        Ok(Graph(self.graphs.len() as u32 - 1))
    }

    fn replay(&mut self, graph: Graph) -> Result<()> {
        let Some(Some(planned)) = self.graphs.get(graph.0 as usize) else { bail!("this captured list was released") };
        let mut begin = Instant::now();
        for planned in planned {
            run(&mut self.driver, planned)?;
            begin = self.timings.add(&planned.op, planned.flops, begin);
        }
        Ok(())
    }

    fn release(&mut self, graph: Graph) {
        if let Some(slot) = self.graphs.get_mut(graph.0 as usize) {
            *slot = None;
        }
    }

    fn timings(&mut self) -> &mut Timings {
        &mut self.timings
    }
}
