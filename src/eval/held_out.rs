//! Evaluates a model on the held-out split: its loss and, for images and labelled texts, metrics such as accuracy.

use crate::data::loader::batch::Source;
use crate::device::Device;
use crate::device::ops::StepState;
use crate::error::Result;
use crate::eval::metrics::{MetricsAccumulator, TaskMetrics};
use crate::model::pass::Pass;
use crate::model::store::Store;
use crate::model::{BatchShape, Model};
use crate::tensor::Place;

/// The results of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    /// Number of scored labels.
    pub scored: usize,
    /// Mean loss in nats per label; for regression, the mean squared error.
    pub loss: f64,
    /// Metrics for images and labelled texts.
    pub measures: Option<TaskMetrics>,
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
    let mut pass = Pass::new(device, model, shape, float, state)?;
    let mut fields = source.allocate(shape.batch)?;
    let mut agreement = MetricsAccumulator::of(model);
    let mut means = Means::default();
    for index in 0.. {
        let Some(labels) = source.held_out_batch(index, &mut fields)? else { break };
        let losses = pass.evaluate(device, model, store, &fields)?;
        means.add(losses, pass.scored(&fields));
        if let Some(agreement) = &mut agreement {
            agreement.add(&pass.scores(device)?, &fields, labels);
        }
    }
    pass.free(device);
    if let Place::Arena(arena) = state.place() {
        device.free(arena);
    }
    let measures = agreement.map(|agreement| agreement.measures()).transpose()?;
    Ok(HeldOut { scored: means.scored(), loss: means.loss(), measures })
}
