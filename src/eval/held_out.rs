//! Evaluates a model on the held-out split: its loss and, for images and labelled texts, metrics such as accuracy.

use crate::data::loader::batch::Source;
use crate::device::ops::StepState;
use crate::device::{self, Device};
use crate::error::Result;
use crate::eval::metrics::{Agreement, Measures};
use crate::model::feed::Inputs;
use crate::model::store::Store;
use crate::model::{BatchShape, Model, Scores};
use crate::tape::{Mode, Tape, Var};
use crate::tensor::Place;

/// The results of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    /// Number of scored labels.
    pub scored: usize,
    /// Mean loss in nats per label; for regression, the mean squared error.
    pub loss: f64,
    /// Metrics for images and labelled texts.
    pub measures: Option<Measures>,
}

/// Accumulates the mean of each loss over the items of several batches. The reported loss is the sum of the means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Means {
    totals: [f64; 2],
    scored: [usize; 2],
}

impl Means {
    /// Adds a batch: the mean of each loss, and the number of items that it scores.
    pub fn add(&mut self, losses: [Option<f64>; 2], scored: [usize; 2]) {
        for (number, loss) in losses.into_iter().enumerate() {
            self.totals[number] += loss.unwrap_or(0.0) * scored[number] as f64;
            self.scored[number] += scored[number];
        }
    }

    /// Returns the sum of the mean losses.
    pub fn loss(&self) -> f64 {
        self.totals.iter().zip(self.scored).map(|(total, scored)| total / scored.max(1) as f64).sum()
    }

    /// Returns the number of items that the first loss has scored.
    pub fn scored(&self) -> usize {
        self.scored[0]
    }
}

/// Evaluates a model on all held-out batches of `source`. `shape` is the shape of a batch.
///
/// # Errors
/// The data does not fit the model; errors of the device.
pub fn held_out(
    device: &mut dyn Device,
    model: &dyn Model,
    store: &Store,
    source: &dyn Source,
    shape: BatchShape,
) -> Result<HeldOut> {
    let float = device.float();
    let state = StepState::tensor(device.alloc(size_of::<StepState>())?);
    let mut inputs = Inputs::new(device, model, shape, float)?;
    let (mut tape, mut vars) = (Tape::new(float, state), Vec::new());
    let mut fields = source.room(shape.batch)?;
    let mut agreement = Agreement::of(model);
    let mut means = Means::default();
    for index in 0.. {
        let Some(labels) = source.held_out_batch(index, &mut fields)? else { break };
        inputs.micro_batches(&fields)?;
        inputs.write(device, &fields, 0)?;
        tape.begin(Mode::Evaluate);
        store.declare_frozen(&mut tape, &mut vars);
        let given = inputs.declare(&mut tape);
        let ((first, second), heads) = model.evaluation(&mut tape, &vars, given);
        let losses = [Some(first), second];
        losses.iter().chain(&heads).flatten().for_each(|value| tape.keep(*value));
        tape.run(device)?;
        means.add(read_losses(device, &tape, losses)?, inputs.scored(&fields));
        if let Some(agreement) = &mut agreement {
            agreement.add(&read_scores(device, &tape, heads)?, &fields, labels);
        }
    }
    tape.forget(device);
    for memory in inputs.memory().chain([state]) {
        if let Place::Arena(arena) = memory.place() {
            device.free(arena);
        }
    }
    let measures = agreement.map(|agreement| agreement.measures()).transpose()?;
    Ok(HeldOut { scored: means.scored(), loss: means.loss(), measures })
}

/// Reads the losses of the last recording.
///
/// # Errors
/// Errors of the device; the tape has been used since.
pub fn read_losses(device: &mut dyn Device, tape: &Tape, losses: [Option<Var>; 2]) -> Result<[Option<f64>; 2]> {
    let mut values = [None; 2];
    for (value, loss) in values.iter_mut().zip(losses) {
        *value = loss.map(|loss| device::read_scalar(device, &tape.value(loss)?)).transpose()?;
    }
    Ok(values)
}

/// Reads the scores of a batch in row-major order, summed over the heads. Returns an empty vector for models without
/// scores.
///
/// # Errors
/// Errors of the device; the tape has been used since.
pub fn read_scores(device: &mut dyn Device, tape: &Tape, heads: Scores) -> Result<Vec<f32>> {
    let mut sums = Vec::new();
    for head in heads.into_iter().flatten() {
        let scores = device::read_f32(device, &tape.value(head)?)?;
        match sums.is_empty() {
            true => sums = scores,
            false => sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score),
        }
    }
    Ok(sums)
}
