//! A whole training step of a GPT: what `benches/baselines/torch_step.py` does, by the learner.

use super::inputs::Random;
use super::machine::Machine;
use super::measure::Effort;
use super::stats::Summary;
use crate::bail;
use crate::data::batch::Field;
use crate::device::Device;
use crate::device::energy::Meter;
use crate::device::ops::ALIGN;
use crate::error::{At, Result};
use crate::memory;
use crate::model::Model;
use crate::model::gpt::{Gpt, GptConfig};
use crate::model::store::Store;
use crate::train::budget;
use crate::train::learner::{Learner, OptimizerConfig, Options, Precision, StepFlops};
use std::time::Instant;

/// What steps took.
pub struct Steps {
    pub summary: Summary,
    /// Parameters without padding.
    pub params: usize,
    pub tokens: usize,
    /// By the formula of the yardstick: 6 for each parameter and token but for positions, 12 L T C a token for attention.
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

/// A GPT of `[layers, heads, width, context, vocabulary]`, without dropout.
///
/// # Errors
/// Sizes that do not fit.
pub fn gpt([layers, heads, width, context, vocab]: [usize; 5]) -> Result<Gpt> {
    Gpt::new(GptConfig {
        vocab,
        context,
        width,
        heads,
        layers,
        ffn: 4 * width,
        eps: 1e-5,
        init_std: 0.02,
        dropout_embedding: 0.0,
        dropout_attention: 0.0,
        dropout_residual: 0.0,
        bos: None,
        eos: None,
        tied: true,
    })
}

/// Measures steps of `[layers, heads, width, time, batch, vocabulary]`, by the clock from batch to loss: that of the host, since
/// a step is the host's work too.
///
/// # Errors
/// Sizes that do not fit, or not into memory; errors of the device.
pub fn measure(machine: &mut Machine, sizes: &[usize], precision: Precision, effort: Effort) -> Result<Steps> {
    let &[layers, heads, width, time, batch, vocab] = sizes else { bail!("a step has six sizes") };
    let (_, before) = memory::resident().unwrap_or((0, 0));
    let gpt = gpt([layers, heads, width, time, vocab])?;
    let bytes = wanted(&gpt, machine.device(), (batch, time), precision)?;
    machine.require(bytes)?;
    let (params, tokens) = (gpt.table().count(), batch * time);
    let flops = tokens as u64 * (6 * (params - time * width) + 12 * layers * time * width) as u64;
    let mut meter = machine.meter();
    let device = machine.device();
    let store = Store::new(gpt.table().clone(), device)?;
    store.initialise(device, 1)?;
    let optimizer = OptimizerConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip: f64::INFINITY };
    let options = Options { seed: 1, precision, ..Options::default() };
    let mut learner = Learner::new(device, Box::new(gpt), store, (batch, time), optimizer, options)?;
    let mut batches = Batches::new(vocab, batch, time)?;
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
fn wanted(gpt: &Gpt, device: &dyn Device, size: (usize, usize), precision: Precision) -> Result<usize> {
    let step = budget::step(gpt, device, size.into(), precision, false).at("--precision")?;
    let (wide, float) = (device.float().bytes(), precision.of(device)?.bytes());
    let copy = if float < wide { float } else { 0 };
    // Parameters, gradients, two moments.
    let elements = gpt.table().elements();
    let all = elements * (4 * wide + copy) + elements / ALIGN;
    Ok(all.saturating_add(step.activations).saturating_add(step.scratch))
}

/// Random tokens, of which every step takes windows.
struct Batches {
    tokens: Vec<i32>,
    random: Random,
    time: usize,
    fields: [Field; 2],
}

/// Tokens there are beside a window.
const TOKENS: usize = 200_000;

impl Batches {
    fn new(vocab: usize, batch: usize, time: usize) -> Result<Self> {
        let mut random = Random::new(1337);
        let mut tokens: Vec<i32> = memory::zeros(TOKENS + time + 1)?;
        tokens.iter_mut().for_each(|token| *token = random.below(vocab) as i32);
        let fields = [Field::ints(batch, time)?, Field::ints(batch, time)?];
        Ok(Batches { tokens, random, time, fields })
    }

    fn next(&mut self) -> &[Field] {
        let [Field::Ints(ids), Field::Ints(labels)] = &mut self.fields else { unreachable!("ids and labels") };
        for (ids, labels) in ids.chunks_exact_mut(self.time).zip(labels.chunks_exact_mut(self.time)) {
            let at = self.random.below(TOKENS);
            ids.copy_from_slice(&self.tokens[at..at + self.time]);
            labels.copy_from_slice(&self.tokens[at + 1..at + 1 + self.time]);
        }
        &self.fields
    }
}

fn step(device: &mut dyn Device, learner: &mut Learner, batches: &mut Batches) -> Result<f64> {
    Ok(learner.step(device, batches.next(), 3e-4)?.loss)
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
    learner: &mut Learner,
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
fn apart(device: &mut dyn Device, learner: &mut Learner, batches: &mut Batches) -> Result<Vec<(&'static str, f64)>> {
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
