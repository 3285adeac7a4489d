//! A whole training step: what `benches/baselines/torch_step.py` does, by the learner.

use super::machine::Machine;
use super::measure::Effort;
use super::shapes::Shape;
use super::stats::Summary;
use super::workload::{Batches, Workload};
use crate::bail;
use crate::device::Device;
use crate::device::energy::Meter;
use crate::device::ops::ALIGN;
use crate::error::{At, Result};
use crate::memory;
use crate::model::store::Store;
use crate::model::{BatchShape, Model};
use crate::train::memory_estimate;
use crate::train::state::{OptimizerConfig, Options, Precision, StepFlops, TrainState};
use std::time::Instant;

/// What steps took.
pub struct Steps {
    pub summary: Summary,
    /// Parameters without padding.
    pub params: usize,
    pub tokens: usize,
    /// By the formula of the yardstick.
    pub flops: u64,
    /// As the operations count.
    pub counted: StepFlops,
    pub activations: usize,
    pub loss: f64,
    /// Energy of a step, where something counts it.
    pub joules: Option<f64>,
    /// Memory of the process in bytes: the most before the model, and the most.
    pub resident: (u64, u64),
    /// Seconds of a step by kind of operation, as the device measures them when they run one by one.
    pub operations: Vec<(&'static str, f64)>,
}

/// Steps before the clock starts, and those that are taken apart into operations.
const WARM_UP: usize = 3;
const APART: usize = 3;

/// Measures steps of [`Workload::new`]'s model, by the clock from batch to loss: that of the host, since a step is the host's work
/// too.
///
/// # Errors
/// Sizes that do not fit, or not into memory; errors of the device.
pub fn measure(machine: &mut Machine, shape: &Shape, precision: Precision, effort: Effort) -> Result<Steps> {
    let (_, before) = memory::resident().unwrap_or((0, 0));
    let workload = Workload::new(shape)?;
    let bytes = wanted(workload.model.as_ref(), machine.device(), workload.shape, precision)?;
    machine.require(bytes)?;
    let mut batches = workload.batches()?;
    let Workload { model, shape, tokens, flops, .. } = workload;
    let params = model.table().count();
    let mut meter = machine.meter();
    let device = machine.device();
    let store = Store::new(model.table().clone(), device)?;
    store.initialise(device, 1)?;
    let optimizer = OptimizerConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: f64::INFINITY };
    let options = Options { seed: 1, precision, ..Options::default() };
    let mut learner = TrainState::new(device, model, store, shape, optimizer, options)?;
    let Timed { seconds, loss, joules } = timed(device, &mut learner, &mut batches, effort, &mut meter)?;
    let operations = apart(device, &mut learner, &mut batches)?;
    let Some(summary) = Summary::of(&seconds) else { bail!("no step was measured") };
    let (counted, activations) = (learner.step_flops(), learner.activation_bytes());
    let (_, store) = learner.finish(device);
    store.free(device);
    let resident = (before, memory::resident().unwrap_or((0, 0)).1);
    Ok(Steps { summary, params, tokens, flops, counted, activations, loss, joules, resident, operations })
}

/// Bytes that the steps will take.
fn wanted(model: &dyn Model, device: &dyn Device, shape: BatchShape, precision: Precision) -> Result<usize> {
    let step = memory_estimate::step(model, device, shape, precision, false).at("--precision")?;
    let (wide, float) = (device.float().bytes(), precision.of(device)?.bytes());
    let copy = if float < wide { float } else { 0 };
    // Parameters, gradients, two moments.
    let elements = model.table().elements();
    let all = elements * (4 * wide + copy) + elements / ALIGN;
    // A batch lies on the host too.
    let parts = [step.activations, step.scratch, step.inputs, step.inputs];
    Ok(parts.into_iter().fold(all, usize::saturating_add))
}

fn step(device: &mut dyn Device, learner: &mut TrainState, batches: &mut Batches) -> Result<f64> {
    Ok(learner.step(device, batches.renew(), 3e-4)?.loss)
}

/// What the clock and the meter said.
struct Timed {
    /// Of every step after the warm-up.
    seconds: Vec<f64>,
    /// The last.
    loss: f64,
    /// Of a step on average.
    joules: Option<f64>,
}

fn timed(
    device: &mut dyn Device,
    learner: &mut TrainState,
    batches: &mut Batches,
    effort: Effort,
    meter: &mut Option<Meter>,
) -> Result<Timed> {
    for _ in 0..WARM_UP {
        step(device, learner, batches)?;
    }
    let mut spent = || meter.as_mut().and_then(Meter::joules);
    let (before, mut after) = (spent(), None);
    let (mut seconds, mut loss, begin) = (Vec::new(), f64::NAN, Instant::now());
    while seconds.len() < effort.rounds || begin.elapsed().as_secs_f64() < effort.seconds {
        let start = Instant::now();
        loss = step(device, learner, batches)?;
        device.sync()?;
        seconds.push(start.elapsed().as_secs_f64().max(1e-9));
        after = spent();
    }
    let joules = before.zip(after).map(|(before, after)| (after - before) / seconds.len().max(1) as f64);
    Ok(Timed { seconds, loss, joules })
}

/// Seconds of a step by kind of operation, the longest first.
fn apart(device: &mut dyn Device, learner: &mut TrainState, batches: &mut Batches) -> Result<Vec<(&'static str, f64)>> {
    // Operations then run one by one, and not as a graph.
    device.timings().record(0);
    device.timings().reset();
    for _ in 0..APART {
        step(device, learner, batches)?;
    }
    let totals = device.timings().totals().filter(|total| total.calls > 0);
    let mut all: Vec<_> = totals.map(|total| (total.name, total.seconds / APART as f64)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(all)
}
