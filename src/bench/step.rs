//! Measures whole training steps, the same as `benches/baselines/torch_step.py` does for PyTorch.

use super::machine::Machine;
use super::measure::Effort;
use super::shapes::Shape;
use super::stats::Summary;
use super::workload::{Batches, Workload};
use crate::bail;
use crate::config::Precision;
use crate::device::Device;
use crate::device::energy::Meter;
use crate::device::ops::ALIGN;
use crate::error::{At, Result};
use crate::memory;
use crate::model::store::Store;
use crate::model::{BatchShape, Model};
use crate::optim::AdamW;
use crate::train::memory_estimate;
use crate::train::state::{Options, StepFlops, TrainState};
use std::time::Instant;

/// The measurement of training steps.
pub struct Steps {
    /// Seconds per step.
    pub summary: Summary,
    /// Parameters without padding.
    pub params: usize,
    /// Tokens per step.
    pub tokens: usize,
    /// FLOPs per step by the formula of `torch_step.py`, see [`Workload::flops`].
    pub flops: u64,
    /// FLOPs per step as counted by the operations.
    pub counted: StepFlops,
    /// Bytes of the activations.
    pub activations: usize,
    /// Loss of the last step.
    pub loss: f64,
    /// Joules per step, if the device has an energy meter.
    pub joules: Option<f64>,
    /// Peak resident memory of the process in bytes: before the model was made, and in total.
    pub resident: (u64, u64),
    /// Seconds per step by kind of operation, as the device measures them when operations run one by one.
    pub operations: Vec<(&'static str, f64)>,
}

/// Warm-up steps before the timed ones.
const WARM_UP: usize = 3;
/// Steps whose operations are timed one by one.
const APART: usize = 3;

/// Measures steps of the model that [`Workload::new`] builds, from batch to loss, by the clock of the host, because the
/// host does part of the work of a step.
///
/// # Errors
/// If the sizes do not fit together, memory runs out, or the device fails.
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
    let optimizer = AdamW::default().clipped(f64::INFINITY);
    let options = Options { seed: 1, precision, ..Options::default() };
    let mut state = TrainState::new(device, model, store, shape, optimizer, options)?;
    let Timed { seconds, loss, joules } = timed(device, &mut state, &mut batches, effort, &mut meter)?;
    let operations = apart(device, &mut state, &mut batches)?;
    let Some(summary) = Summary::of(&seconds) else { bail!("no step was measured") };
    let (counted, activations) = (state.step_flops(), state.activation_bytes());
    let (_, store) = state.finish(device);
    store.free(device);
    let resident = (before, memory::resident().unwrap_or((0, 0)).1);
    Ok(Steps { summary, params, tokens, flops, counted, activations, loss, joules, resident, operations })
}

/// Returns the bytes that the steps need.
fn wanted(model: &dyn Model, device: &dyn Device, shape: BatchShape, precision: Precision) -> Result<usize> {
    let step = memory_estimate::step(model, device, shape, precision, false).at("--precision")?;
    let (wide, float) = (device.float().bytes(), precision.of(device)?.bytes());
    let copy = if float < wide { float } else { 0 };
    // Parameters, gradients and two moments.
    let elements = model.table().elements();
    let all = elements * (4 * wide + copy) + elements / ALIGN;
    // The inputs count twice: the host holds a batch, too.
    let parts = [step.activations, step.scratch, step.inputs, step.inputs];
    Ok(parts.into_iter().fold(all, usize::saturating_add))
}

fn step(device: &mut dyn Device, state: &mut TrainState, batches: &mut Batches) -> Result<f64> {
    Ok(state.step(device, batches.renew(), 3e-4)?.loss)
}

/// The times and energy of steps.
struct Timed {
    /// Seconds of every step after the warm-up.
    seconds: Vec<f64>,
    /// Loss of the last step.
    loss: f64,
    /// Average joules per step.
    joules: Option<f64>,
}

fn timed(
    device: &mut dyn Device,
    state: &mut TrainState,
    batches: &mut Batches,
    effort: Effort,
    meter: &mut Option<Meter>,
) -> Result<Timed> {
    for _ in 0..WARM_UP {
        step(device, state, batches)?;
    }
    let mut spent = || meter.as_mut().and_then(Meter::joules);
    let (before, mut after) = (spent(), None);
    let (mut seconds, mut loss, begin) = (Vec::new(), f64::NAN, Instant::now());
    while seconds.len() < effort.rounds || begin.elapsed().as_secs_f64() < effort.seconds {
        let start = Instant::now();
        loss = step(device, state, batches)?;
        device.sync()?;
        seconds.push(start.elapsed().as_secs_f64().max(1e-9));
        after = spent();
    }
    let joules = before.zip(after).map(|(before, after)| (after - before) / seconds.len().max(1) as f64);
    Ok(Timed { seconds, loss, joules })
}

/// Returns the seconds per step by kind of operation, the slowest first.
fn apart(device: &mut dyn Device, state: &mut TrainState, batches: &mut Batches) -> Result<Vec<(&'static str, f64)>> {
    // Recording makes operations run one by one instead of as a graph.
    device.timings().record(0);
    device.timings().reset();
    for _ in 0..APART {
        step(device, state, batches)?;
    }
    let totals = device.timings().totals().filter(|total| total.calls > 0);
    let mut all: Vec<_> = totals.map(|total| (total.name, total.seconds / APART as f64)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(all)
}
