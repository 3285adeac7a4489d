//! What a run takes of a device's memory, before it begins: `vcycle train --memory`. Between two stages, while a level is mapped, its
//! neighbour's weights are there too.

use super::state::Precision;
use crate::config::Config;
use crate::config::levels::OptimizerState;
use crate::device::Device;
use crate::device::ops::{ALIGN, GlobalNorm, StepState};
use crate::error::Result;
use crate::families::build::Levels;
use crate::model::{BatchShape, EachLoss, Model};
use crate::tape::{Mode, Tape};
use crate::tensor::{Place, Tensor};
use std::fmt;

/// One kind of memory.
pub struct Line {
    pub what: &'static str,
    /// Bytes while each level trains, level 1 first.
    pub bytes: Vec<usize>,
}

/// See the module.
pub struct MemoryEstimate {
    pub lines: Vec<Line>,
}

/// Stands for memory that a recording is not going to touch.
const NOWHERE: u32 = u32::MAX;

impl MemoryEstimate {
    /// Records a step of every level and places its buffers, without taking any memory of the device.
    ///
    /// # Errors
    /// A precision that the device does not have.
    pub fn new(config: &Config, levels: &Levels, device: &dyn Device) -> Result<Self> {
        let precision = config.train.precision;
        let (wide, float) = (device.float().bytes(), precision.of(device)?.bytes());
        let shape = config.shape();
        let keeps = config.levels.iter().any(|level| {
            [Some(level.train), level.before].iter().flatten().any(|s| s.optimizer == OptimizerState::Transfer)
        });
        let elements: Vec<usize> = levels.iter().map(|level| level.table().elements()).collect();
        let steps = levels.iter().map(|level| step(&**level, device, shape, precision, config.train.recompute));
        let steps = steps.collect::<Result<Vec<_>>>()?;
        let each = |f: &dyn Fn(usize) -> usize| (0..levels.len()).map(f).collect::<Vec<_>>();
        let line = |what, bytes| Line { what, bytes };
        let mut lines = vec![line("parameters", each(&|i| wide * elements[i]))];
        if precision == Precision::Bf16 {
            lines.push(line("parameters in bf16", each(&|i| float * elements[i])));
        }
        lines.push(line("gradients", each(&|i| wide * elements[i])));
        lines.push(line("moments of AdamW", each(&|i| 2 * wide * elements[i])));
        lines.push(line("activations", each(&|i| steps[i].activations)));
        lines.push(line("scratch of kernels", each(&|i| steps[i].scratch)));
        // The batch, the decay mask, partial norms.
        let rest = |i: usize| steps[i].inputs + elements[i] / ALIGN + wide * (GlobalNorm::partials(elements[i]) + 3);
        lines.push(line("inputs and the rest", each(&rest)));
        // Weights, and moments where a stage takes them over, of the levels above.
        let waiting = if keeps { 3 } else { 1 };
        lines.push(line("levels that wait", each(&|i| waiting * wide * elements[..i].iter().sum::<usize>())));
        Ok(MemoryEstimate { lines })
    }

    /// Bytes while each level trains.
    pub fn totals(&self) -> Vec<usize> {
        let levels = self.lines.first().map_or(0, |line| line.bytes.len());
        (0..levels).map(|i| self.lines.iter().map(|line| line.bytes[i]).sum()).collect()
    }
}

/// Bytes that a step takes beside parameters, gradients and moments.
pub struct Step {
    pub inputs: usize,
    pub activations: usize,
    pub scratch: usize,
}

/// Records a step of this shape and places its buffers, without taking any memory of the device.
///
/// # Errors
/// A precision that the device does not have.
pub fn step(
    model: &dyn Model,
    device: &dyn Device,
    shape: BatchShape,
    precision: Precision,
    recompute: bool,
) -> Result<Step> {
    let float = precision.of(device)?;
    let mut tape = Tape::new(float, StepState::tensor(NOWHERE));
    tape.begin(Mode::Train { accumulate: false });
    let inputs = model.inputs(shape);
    let bytes = inputs.iter().map(|input| input.numel() * input.dtype(float).bytes()).sum();
    let inputs: Vec<_> = inputs
        .iter()
        .map(|input| tape.input(Tensor::new(Place::Arena(NOWHERE), input.dtype(float), 0, &input.dims)))
        .collect();
    let table = model.table();
    let vars: Vec<_> = (0..table.params.len())
        .map(|i| tape.param(table.tensor(i, NOWHERE, float), table.tensor(i, NOWHERE - 1, float.wide())))
        .collect();
    let (first, second) = model.loss(&mut tape, &vars, &inputs, EachLoss::default(), recompute);
    let losses: Vec<_> = [Some(first), second].into_iter().flatten().collect();
    tape.backward(&losses);
    let scratch = tape.recorded().iter().map(|op| device.scratch(op)).max().unwrap_or(0);
    Ok(Step { inputs: bytes, activations: tape.expected_cost().activation_bytes, scratch })
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = self.totals();
        let mib = |bytes: &usize| format!("{:.2}", *bytes as f64 / f64::from(1 << 20));
        let row = |f: &mut fmt::Formatter<'_>, what: &str, cells: &[String]| {
            write!(f, "{what:<22}")?;
            cells.iter().try_for_each(|cell| write!(f, "{cell:>12}"))?;
            writeln!(f)
        };
        let cells = |bytes: &[usize]| bytes.iter().map(mib).collect::<Vec<_>>();
        let levels: Vec<_> = (1..=totals.len()).map(|level| format!("level {level}")).collect();
        row(f, "device memory in MiB", &levels)?;
        self.lines.iter().try_for_each(|line| row(f, line.what, &cells(&line.bytes)))?;
        row(f, "all", &cells(&totals))?;
        write!(
            f,
            "about {} MiB at most, beside what the device itself needs",
            mib(&totals.iter().copied().max().unwrap_or(0))
        )
    }
}
