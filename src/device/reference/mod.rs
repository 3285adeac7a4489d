//! The oracle: every operation in f64, written as its formula in plain loops on one thread. Slow on purpose.

mod attention;
mod pointwise;
mod products;
mod training;

use super::host::{Cells, Element, Host};
use super::ops::Op;
use super::timing::Timings;
use super::{Device, Graph, PendingRead};
use crate::error::Result;
use crate::tensor::{DType, Tensor};
use std::time::Instant;

/// The `reference` device, which computes in f64. Other devices are compared with it.
#[derive(Default)]
pub struct Reference {
    host: Host,
    timings: Timings,
}

impl Reference {
    /// Returns a view of a tensor. Operations access memory only through this function.
    fn cells<T: Element>(&self, t: &Tensor) -> Result<Cells<'_, T>> {
        // SAFETY: operations run inside `timed`, which has exclusive access to this device, on its caller's thread, and
        // none of them creates a slice.
        unsafe { self.host.cells(t) }
    }

    /// Returns a view of a tensor of floats.
    fn f(&self, t: &Tensor) -> Result<Cells<'_, f64>> {
        self.cells(t)
    }

    /// Returns a view of an optional tensor of floats.
    fn maybe(&self, t: &Option<Tensor>) -> Result<Option<Cells<'_, f64>>> {
        t.as_ref().map(|t| self.f(t)).transpose()
    }

    /// Returns a view of all elements as one row.
    fn flat<T: Element>(&self, t: &Tensor) -> Result<Cells<'_, T>> {
        self.cells(&t.reshape(&[t.numel()]))
    }

    /// Checks, runs and times an operation. `flops` is known for captured operations; otherwise it is computed here.
    fn timed(&mut self, op: &Op, flops: Option<u64>) -> Result<()> {
        self.host.check(op, DType::F64)?;
        let begin = Instant::now();
        macro_rules! methods {
            ($($stem:ident { $($name:ident: $op:ident),+ })+) => {
                match op { $($(Op::$op(op) => self.$name(op)),+),+ }
            };
        }
        operations!(methods).map_err(|e| e.at(op.name()))?;
        self.timings.add(op, flops.unwrap_or_else(|| op.cost().flops), begin);
        Ok(())
    }
}

impl Device for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn float(&self) -> DType {
        DType::F64
    }

    fn alloc(&mut self, bytes: usize) -> Result<u32> {
        self.host.alloc(bytes)
    }

    fn free(&mut self, arena: u32) {
        self.host.free(arena);
    }

    fn write(&mut self, to: &Tensor, bytes: &[u8]) -> Result<()> {
        self.host.write(to, bytes)
    }

    fn read(&mut self, from: &Tensor, bytes: &mut [u8]) -> Result<()> {
        self.host.read(from, bytes)
    }

    fn read_async(&mut self, from: &Tensor) -> Result<PendingRead> {
        self.host.read_async(from)
    }

    fn wait_read(&mut self, ticket: PendingRead, bytes: &mut [u8]) -> Result<()> {
        self.host.wait_read(ticket, bytes)
    }

    fn copy(&mut self, from: &Tensor, to: &Tensor) -> Result<()> {
        self.host.copy(from, to)
    }

    fn run(&mut self, op: &Op) -> Result<()> {
        self.timed(op, None)
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn capture(&mut self, ops: &[Op]) -> Result<Graph> {
        self.host.capture(ops, DType::F64)
    }

    fn replay(&mut self, graph: Graph) -> Result<()> {
        self.host.check_captured(graph)?;
        let mut i = 0;
        while let Some((op, flops)) = self.host.captured(graph, i)? {
            self.timed(&op, Some(flops))?;
            i += 1;
        }
        Ok(())
    }

    fn release(&mut self, graph: Graph) {
        self.host.release(graph);
    }

    fn timings(&mut self) -> &mut Timings {
        &mut self.timings
    }
}
