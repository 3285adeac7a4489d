//! What the device gives at its best, measured in the same process: bytes a second of a copy or a sum, FLOPs a second of
//! products.

use super::inputs::Maker;
use super::machine::Machine;
use super::measure::samples;
use crate::device::Graph;
use crate::device::ops::{Accumulate, Cost, Linear, Op};
use crate::error::{At, Result};
use crate::tensor::DType;
use std::time::Instant;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofline {
    /// Bytes a second, read and written: the better of the next two.
    pub bytes: f64,
    /// Of `out = x`. A cpu first reads the lines that it is about to overwrite, which nobody counts.
    pub copy: f64,
    /// Of `out += x`, where that reading counts.
    pub add: f64,
    /// FLOPs a second of square products.
    pub flops: f64,
    /// The side of the square that gave them.
    pub side: usize,
}

/// What bounds an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Memory,
    Arithmetic,
}

impl Bound {
    pub fn name(self) -> &'static str {
        match self {
            Bound::Memory => "memory",
            Bound::Arithmetic => "arithmetic",
        }
    }
}

/// Sides of the squares, as far as the time reaches.
const SIDES: [usize; 5] = [256, 512, 1024, 2048, 4096];
/// Runs of one thing at least, and the part of the time that it goes on for.
const RUNS: usize = 5;
const PART: f64 = 0.05;

impl Roofline {
    /// Measures for about `seconds`, at least a copy and one product.
    ///
    /// # Errors
    /// Those of the device.
    pub fn measure(machine: &mut Machine, float: DType, seconds: f64) -> Result<Self> {
        let cache = machine.cache();
        let mut maker = Maker::new(machine.device(), float);
        let part = PART * seconds;
        let measured = moves(&mut maker, cache, part).and_then(|[copy, add]| {
            // Operands come from the host, which for a GPU takes longer than to measure them.
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

    /// The least seconds that an operation could take, and why.
    pub fn least(&self, cost: Cost) -> (f64, Bound) {
        let (moved, computed) = (cost.bytes as f64 / self.bytes, cost.flops as f64 / self.flops);
        if computed > moved { (computed, Bound::Arithmetic) } else { (moved, Bound::Memory) }
    }

    /// How much of the roofline an operation reaches in so many seconds, in percent.
    pub fn percent(&self, cost: Cost, seconds: f64) -> f64 {
        100.0 * self.least(cost).0 / seconds.max(1e-9)
    }
}

/// Bytes a second of a copy and of a sum of four times the caches.
fn moves(maker: &mut Maker, cache: usize, part: f64) -> Result<[f64; 2]> {
    let wide = maker.float.wide();
    let count = (4 * cache).max(1 << 20) / wide.bytes();
    let x = maker.f32_input(&[count], |x| x)?;
    let out = maker.f32_output(&[count], 1)?;
    let [copy, add] = [false, true].map(|add| best(maker, Accumulate { x, out, add }.into(), part, |cost| cost.bytes));
    maker.free();
    Ok([copy?, add?])
}

fn product(maker: &mut Maker, side: usize, part: f64) -> Result<f64> {
    let dims = [side, side];
    let (a, b, out) = (maker.input(&dims, 8)?, maker.input(&dims, 8)?, maker.output(&dims, 8)?);
    let rate = best(maker, Linear::product(a, b, out, (false, false)).into(), part, |cost| cost.flops);
    maker.free();
    rate
}

/// The rate of the fastest run.
fn best(maker: &mut Maker, op: Op, part: f64, what: fn(Cost) -> u64) -> Result<f64> {
    let graph = maker.device.capture(&[op])?;
    let done = repeated(maker, graph, op.name(), part);
    maker.device.release(graph);
    let least = done?.into_iter().fold(f64::INFINITY, f64::min);
    Ok(what(op.cost()) as f64 / least.max(1e-9))
}

/// Seconds of some runs after one that warms up.
fn repeated(maker: &mut Maker, graph: Graph, name: &str, part: f64) -> Result<Vec<f64>> {
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
