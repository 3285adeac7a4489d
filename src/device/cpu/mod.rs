//! The default device. It computes in f32 on the CPU, with threads over fixed chunks and SIMD code selected at run
//! time.
//!
//! Each element is written by a single chunk, and the order of additions depends only on shapes. So results have the
//! same bits on any number of threads. (The blocks of matrix products do depend on the number of threads, but not the
//! order of additions within an element.)

/// A file for each operation.
macro_rules! modules {
    ($($stem:ident { $($name:ident: $op:ident),+ })+) => { $(mod $stem;)+ };
}

operations!(modules);

mod attention_backward;
mod gemm;
pub mod math;
pub(super) mod pool;
mod scratch;

use super::host::{Element, Host, View};
use super::ops::{Op, StepState};
use super::timing::Timings;
use super::{Device, Graph, PendingRead};
use crate::error::Result;
use crate::tensor::{DType, Tensor};
use pool::Pool;
use pulp::Arch;
use scratch::Scratch;
use std::time::Instant;

/// The `cpu` device.
pub struct Cpu {
    host: Host,
    pool: Pool,
    /// One scratch buffer for each thread.
    scratch: Scratch,
    /// One buffer for the partial sums that the chunks of an operation leave.
    partials: Scratch,
    arch: Arch,
    timings: Timings,
}

impl Cpu {
    /// Opens the device with this number of threads; 0 means one for each core.
    pub fn new(threads: usize) -> Self {
        Cpu {
            host: Host::default(),
            pool: Pool::new(threads),
            scratch: Scratch::default(),
            partials: Scratch::default(),
            arch: Arch::new(),
            timings: Timings::default(),
        }
    }

    /// Returns the number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Returns the name of the SIMD instruction set that is used on this machine.
    pub fn vector_unit() -> String {
        let name = format!("{:?}", Arch::new());
        let level = name.split(['(', ' ']).next().unwrap_or_default();
        match level {
            "V4" => "x86-64-v4 (AVX-512)".into(),
            "V3" => "x86-64-v3 (AVX2, FMA)".into(),
            "Neon" => "NEON".into(),
            other => other.to_lowercase(),
        }
    }

    /// Splits `0..n` into ranges of `chunk` elements and calls `f` for them on all threads, compiled for this machine's
    /// SIMD instructions.
    fn for_chunks(&self, n: usize, chunk: usize, f: impl Fn(std::ops::Range<usize>) + Sync) {
        let chunk = chunk.max(1);
        self.pool.run(n.div_ceil(chunk), |i| {
            let range = i * chunk..((i + 1) * chunk).min(n);
            self.arch.dispatch(
                #[inline(always)]
                || f(range),
            );
        });
    }

    /// Returns a view of a tensor of floats.
    fn f(&self, t: &Tensor) -> Result<View<'_, f32>> {
        self.host.view(t)
    }

    /// Returns a view of an optional tensor of floats.
    fn maybe(&self, t: &Option<Tensor>) -> Result<Option<View<'_, f32>>> {
        t.as_ref().map(|t| self.f(t)).transpose()
    }

    /// Returns all elements of a contiguous tensor as one slice. Only for operands that the operation does not write.
    fn slice<T: Element>(&self, t: &Tensor) -> Result<&[T]> {
        let view = self.host.view::<T>(&t.reshape(&[1, t.numel()]))?;
        if t.numel() == 0 {
            return Ok(&[]);
        }
        // SAFETY: callers pass operands that the operation only reads, and `Op::check` ensures that outputs do not
        // overlap them.
        Ok(unsafe { view.row(0) })
    }

    /// Reads a [`StepState`].
    fn step_state(&self, t: &Tensor) -> Result<StepState> {
        Ok(bytemuck::pod_read_unaligned(bytemuck::cast_slice(self.slice::<u32>(t)?)))
    }

    fn dispatch(&self, op: &Op) -> Result<()> {
        macro_rules! methods {
            ($($stem:ident { $($name:ident: $op:ident),+ })+) => {
                match op { $($(Op::$op(op) => self.$name(op)),+),+ }
            };
        }
        operations!(methods).map_err(|e| e.at(op.name()))
    }
}

impl Device for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn float(&self) -> DType {
        DType::F32
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
        self.host.check(op, DType::F32)?;
        let begin = Instant::now();
        self.dispatch(op)?;
        self.timings.add(op, op.cost().flops, begin);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn capture(&mut self, ops: &[Op]) -> Result<Graph> {
        self.host.capture(ops, DType::F32)
    }

    fn replay(&mut self, graph: Graph) -> Result<()> {
        self.host.check_captured(graph)?;
        let (mut i, mut begin) = (0, Instant::now());
        while let Some((op, flops)) = self.host.captured(graph, i)? {
            self.dispatch(&op)?;
            begin = self.timings.add(&op, flops, begin);
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

/// Returns the number of rows in a chunk of about `elements` elements.
fn rows_of(width: usize, elements: usize) -> usize {
    (elements / width.max(1)).max(1)
}

/// Elements in a chunk of elementwise work: large enough to hide the cost of dispatching it, small enough for L2.
const CHUNK: usize = 16_384;
