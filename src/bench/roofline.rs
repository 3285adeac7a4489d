//! The roofline of the device, measured in the same process: memory bandwidth of a copy or a sum, and FLOP/s of matrix
//! products.

use super::inputs::OperandAllocator;
use super::machine::Machine;
use super::measure::samples;
use crate::device::Graph;
use crate::device::ops::{Accumulate, Cost, Linear, Op};
use crate::error::{At, Result};
use crate::tensor::DType;
use std::time::Instant;

/// The best rates that the device reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofline {
    /// Bytes per second, read and written: the better of `copy` and `add`.
    pub bytes: f64,
    /// Bytes per second of `out = x`. A CPU also reads the cache lines that it overwrites, which are not counted.
    pub copy: f64,
    /// Bytes per second of `out += x`, which counts the read of `out`.
    pub add: f64,
    /// FLOPs per second of the best square matrix product.
    pub flops: f64,
    /// Size of that square product.
    pub side: usize,
}

/// What limits an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Memory bandwidth.
    Memory,
    /// FLOP/s.
    Arithmetic,
}

impl Bound {
    /// Returns the name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Arithmetic => "arithmetic",
        }
    }
}

/// Sizes of the square products, tried in order until the time is up.
const SIDES: [usize; 5] = [256, 512, 1024, 2048, 4096];
/// Least number of runs of each measurement.
const RUNS: usize = 5;
/// Least duration of each measurement, as a fraction of the total time.
const PART: f64 = 0.05;

impl Roofline {
    /// Measures for about `seconds`: a copy, a sum and at least one matrix product.
    ///
    /// # Errors
    /// If memory runs out or the device fails.
    pub fn measure(machine: &mut Machine, float: DType, seconds: f64) -> Result<Self> {
        let cache = machine.cache();
        let mut maker = OperandAllocator::new(machine.device(), float);
        let part = PART * seconds;
        let measured = moves(&mut maker, cache, part).and_then(|[copy, add]| {
            // Includes making the operands on the host, which for a GPU takes longer than measuring them.
            let begin = Instant::now();
            let mut roofline = Roofline { bytes: copy.max(add), copy, add, flops: 0.0, side: 0 };
            for side in SIDES {
                let flops = product(&mut maker, side, part)?;
                if flops > roofline.flops {
                    roofline = Roofline { flops, side, ..roofline };
                }
                if begin.elapsed().as_secs_f64() > seconds {
                    break;
                }
            }
            Ok(roofline)
        });
        maker.free();
        measured.at("roofline")
    }

    /// Returns the least seconds that an operation could take and what limits it.
    pub fn least(&self, cost: Cost) -> (f64, Bound) {
        let (moved, computed) = (cost.bytes as f64 / self.bytes, cost.flops as f64 / self.flops);
        if computed > moved { (computed, Bound::Arithmetic) } else { (moved, Bound::Memory) }
    }

    /// Returns the percentage of the roofline that an operation reaches if it takes `seconds`.
    pub fn percent(&self, cost: Cost, seconds: f64) -> f64 {
        100.0 * self.least(cost).0 / seconds.max(1e-9)
    }
}

/// Measures bytes per second of a copy and of a sum, over vectors of four times the cache size.
fn moves(maker: &mut OperandAllocator, cache: usize, part: f64) -> Result<[f64; 2]> {
    let wide = maker.float.accumulator();
    let count = (4 * cache).max(1 << 20) / wide.bytes();
    let x = maker.accumulator_input(&[count], |x| x)?;
    let out = maker.accumulator_output(&[count], 1)?;
    let [copy, add] = [false, true].map(|add| best(maker, Accumulate { x, out, add }.into(), part, |cost| cost.bytes));
    maker.free();
    Ok([copy?, add?])
}

/// Measures FLOPs per second of a square matrix product.
fn product(maker: &mut OperandAllocator, side: usize, part: f64) -> Result<f64> {
    let dims = [side, side];
    let (a, b, out) = (maker.input(&dims, 8)?, maker.input(&dims, 8)?, maker.output(&dims, 8)?);
    let rate = best(maker, Linear::product(a, b, out, (false, false)).into(), part, |cost| cost.flops);
    maker.free();
    rate
}

/// Returns the rate of the fastest run of an operation.
fn best(maker: &mut OperandAllocator, op: Op, part: f64, what: fn(Cost) -> u64) -> Result<f64> {
    let graph = maker.device.capture(&[op])?;
    let done = repeated(maker, graph, op.name(), part);
    maker.device.release(graph);
    let least = done?.into_iter().fold(f64::INFINITY, f64::min);
    Ok(what(op.cost()) as f64 / least.max(1e-9))
}

/// Returns the seconds of several runs after a warm-up.
fn repeated(maker: &mut OperandAllocator, graph: Graph, name: &str, part: f64) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    samples(maker.device, graph, (name, 1), &mut Vec::new())?;
    let begin = Instant::now();
    while seconds.len() < RUNS || begin.elapsed().as_secs_f64() < part {
        samples(maker.device, graph, (name, 1), &mut seconds)?;
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::{Bound, Roofline};
    use crate::device::ops::Cost;

    #[test]
    fn the_slower_of_memory_and_arithmetic_bounds() {
        let roofline = Roofline { bytes: 100.0, copy: 100.0, add: 80.0, flops: 1000.0, side: 1 };
        let copy = Cost { flops: 0, bytes: 50 };
        assert_eq!(roofline.least(copy), (0.5, Bound::Memory));
        assert_eq!(roofline.percent(copy, 2.0), 25.0);
        let product = Cost { flops: 4000, bytes: 50 };
        assert_eq!(roofline.least(product), (4.0, Bound::Arithmetic));
        assert_eq!(roofline.percent(product, 5.0), 80.0);
        assert!(roofline.percent(product, 0.0).is_finite());
    }
}
