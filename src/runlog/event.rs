//! The schema of `metrics.jsonl`: one [`Event`] per line. Training writes these types and reports read them.
//!
//! Fields that older versions did not write have defaults, and unknown events and fields, as of later versions, are
//! ignored. JSON has no infinities, so a loss or norm that is not finite is written as null and read as NaN.

use super::measured::Measured;
use serde::{Deserialize, Deserializer, Serialize};

/// Losses and norms at or above this are read as NaN.
const LARGEST: f64 = 1e30;

/// A position in the training of a branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Stage of the plan, counted from 1.
    pub stage: usize,
    /// Level of the model in training, counted from 1.
    pub level: usize,
    /// Completed steps, over all stages.
    pub step: u64,
    /// FLOPs so far: all levels, the optimizer and the multi-level operators.
    pub flops: u64,
    /// FLOPs so far, including what `train.recompute` computes a second time.
    #[serde(default)]
    pub hardware_flops: u64,
    /// Seconds of training so far, without evaluation and data preparation.
    pub seconds: f64,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The start of a stage.
    Stage(Stage),
    /// A training step, at the position after it.
    Step(Step),
    /// An evaluation on held-out data.
    Eval(Eval),
    /// A multi-level operator that produced the weights of the level of `at`.
    Operator(Operator),
    /// A line search for alpha.
    Search(Search),
    /// The run resumed with a configuration that differs from that of its checkpoint.
    Settings(Settings),
    /// The last line of a finished run.
    Summary(Summary),
    /// An event of a later version. Never written.
    #[serde(other)]
    Unknown,
}

/// The start of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The position before the first step of the stage.
    #[serde(flatten)]
    pub at: Position,
    /// Title, such as `V-cycle, stage 1 of 3: level 1`.
    #[serde(default)]
    pub name: String,
    /// Planned steps.
    #[serde(default)]
    pub steps: Option<u64>,
    /// Number of parameters of the model at this level.
    #[serde(default)]
    pub parameters: Option<u64>,
    /// Number of transformer layers of the model at this level.
    #[serde(default)]
    pub layers: Option<u64>,
    /// Size of the residual stream.
    #[serde(default)]
    pub width: Option<u64>,
}

/// A training step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The position after the step.
    #[serde(flatten)]
    pub at: Position,
    /// Learning rate of the step.
    #[serde(deserialize_with = "number")]
    pub lr: f64,
    /// Mean training loss over the batch, before the update.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Global norm of the gradients before clipping.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
}

/// An evaluation on held-out data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// The position at which the model was evaluated.
    #[serde(flatten)]
    pub at: Position,
    /// Held-out loss: the mean over the scored labels, or the sum of both means for a model with two losses.
    #[serde(rename = "valid_loss", deserialize_with = "number")]
    pub loss: f64,
    /// Number of scored labels.
    #[serde(default)]
    pub tokens: usize,
    /// Metrics besides the loss, of images and labelled texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measures: Option<Measured>,
    /// Resident memory of the process, if the operating system reports it.
    #[serde(default)]
    pub resident_bytes: Option<u64>,
}

/// A multi-level operator: coalescing, or de-coalescing with interpolation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operator {
    /// The position after the operator, at the start of the stage that it prepares.
    #[serde(flatten)]
    pub at: Position,
    /// `coalesce` or `interpolate`.
    pub name: String,
    /// FLOPs of the operator, of transferred optimizer moments, and of the search for alpha.
    pub flops_spent: u64,
    /// The weight of the lower level in an interpolation.
    #[serde(default)]
    pub alpha: Option<f64>,
}

/// A line search for alpha.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// The position at the start of the stage that the interpolation prepares. Its FLOPs do not include the search.
    #[serde(flatten)]
    pub at: Position,
    /// The best value.
    pub alpha: f64,
    /// Every value that was tried, with its held-out loss, in the order of evaluation.
    pub tried: Vec<(f64, Option<f64>)>,
    /// FLOPs of all interpolations and evaluations of the search.
    pub flops_spent: u64,
}

/// Changes of the configuration since the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The position of the checkpoint.
    #[serde(flatten)]
    pub at: Position,
    /// The keys whose values have changed.
    pub changes: Vec<Change>,
}

/// A key whose value has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The dotted key.
    pub key: String,
    /// The value in the checkpoint, as TOML.
    pub from: String,
    /// The value now, as TOML.
    pub to: String,
    /// When the change takes effect, or why it is refused.
    #[serde(skip)]
    pub remark: String,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Change { key, from, to, remark } = self;
        write!(f, "{key}: {from} -> {to}{remark}")
    }
}

/// The summary at the end of a branch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The position at the end of training.
    #[serde(flatten)]
    pub at: Position,
    /// Peak resident memory of the process.
    #[serde(default)]
    pub resident_bytes: Option<u64>,
    /// Training tokens per second, averaged over the branch; for images, patches and special tokens count.
    #[serde(default)]
    pub tokens_per_second: Option<f64>,
    /// Seconds spent waiting for batches.
    #[serde(default)]
    pub waited_seconds: Option<f64>,
    /// Time per operation.
    #[serde(default)]
    pub operations: Vec<OperationTime>,
    /// A text sample of a GPT.
    #[serde(default)]
    pub sample: Option<Sample>,
}

/// Time spent in one kind of operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperationTime {
    /// Name of the operation.
    pub name: String,
    /// Number of calls.
    pub calls: u64,
    /// Seconds in all calls.
    pub seconds: f64,
    /// FLOPs in all calls.
    pub flops: u64,
}

/// Text generated by a trained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The start of the held-out text.
    pub prompt: String,
    /// The model's continuation.
    pub text: String,
}

impl Event {
    /// Returns where the event was written. `None` for events of later versions.
    pub fn at(&self) -> Option<Position> {
        match self {
            Event::Stage(stage) => Some(stage.at),
            Event::Step(step) => Some(step.at),
            Event::Eval(eval) => Some(eval.at),
            Event::Operator(operator) => Some(operator.at),
            Event::Search(search) => Some(search.at),
            Event::Settings(settings) => Some(settings.at),
            Event::Summary(summary) => Some(summary.at),
            Event::Unknown => None,
        }
    }
}

/// Reads a number that may be null. Returns NaN for null and for huge values.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let value = Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN);
    Ok(if value.abs() < LARGEST { value } else { f64::NAN })
}
