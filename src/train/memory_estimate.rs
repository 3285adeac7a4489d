//! Estimates how much device memory a run needs, before it starts: `vcycle train --memory`. Between two stages, while
//! an operator maps a level, the weights of the neighbouring level are in memory as well.

use crate::config::levels::OptimizerState;
use crate::config::{Config, Precision};
use crate::device::Device;
use crate::device::ops::{ALIGN, GlobalNorm, StepState};
use crate::error::Result;
use crate::families::{self, Levels};
use crate::model::{BatchShape, EachLoss, Model};
use crate::tape::{Mode, Tape};
use crate::tensor::{Place, Tensor};
use std::fmt;

/// One line of the estimate: one kind of memory.
pub struct Line {
    /// The kind of memory.
    pub what: &'static str,
    /// Bytes in use while each level trains, level 1 first.
    pub bytes: Vec<usize>,
}

/// The device memory of a run by kind and level. `Display` prints it as a table.
pub struct MemoryEstimate {
    /// The kinds of memory, in the order in which they are printed.
    pub lines: Vec<Line>,
}

/// The arena of tensors whose memory is never accessed, because the recording is not run.
const NOWHERE: u32 = u32::MAX;

impl MemoryEstimate {
    /// Records a step of every level and plans its buffers, without allocating any device memory.
    ///
    /// # Errors
    /// The device does not support the precision.
    pub fn new(config: &Config, levels: &Levels, device: &dyn Device) -> Result<Self> {
        let precision = config.train.precision;
        let (wide, float) = (device.float().bytes(), precision.of(device)?.bytes());
        let shape = families::shape(config)?;
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
        let states = config.optimizer()?.optimizer.states().len();
        lines.push(line("optimizer state", each(&|i| states * wide * elements[i])));
        lines.push(line("activations", each(&|i| steps[i].activations)));
        lines.push(line("kernel workspaces", each(&|i| steps[i].scratch)));
        // The batch, the decay mask, the partial norms.
        let rest = |i: usize| steps[i].inputs + elements[i] / ALIGN + wide * (GlobalNorm::partials(elements[i]) + 3);
        lines.push(line("inputs and other", each(&rest)));
        // Weights of the levels above, and their optimizer state if any stage takes it over.
        let stores = if keeps { 1 + states } else { 1 };
        lines.push(line("idle levels", each(&|i| stores * wide * elements[..i].iter().sum::<usize>())));
        Ok(MemoryEstimate { lines })
    }

    /// Returns the total bytes in use while each level trains.
    pub fn totals(&self) -> Vec<usize> {
        let levels = self.lines.first().map_or(0, |line| line.bytes.len());
        (0..levels).map(|i| self.lines.iter().map(|line| line.bytes[i]).sum()).collect()
    }
}

/// Bytes that a step needs in addition to parameters, gradients and optimizer state.
pub struct Step {
    /// Inputs of a micro-batch.
    pub inputs: usize,
    /// Activations and their gradients.
    pub activations: usize,
    /// The largest workspace of any kernel.
    pub scratch: usize,
}

/// Records a step of this shape and plans its buffers, without allocating any device memory.
///
/// # Errors
/// The device does not support the precision.
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
        .map(|i| tape.param(table.tensor(i, NOWHERE, float), table.tensor(i, NOWHERE - 1, float.accumulator())))
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
        row(f, "total", &cells(&totals))?;
        write!(
            f,
            "about {} MiB at most, plus what the device itself needs",
            mib(&totals.iter().copied().max().unwrap_or(0))
        )
    }
}
