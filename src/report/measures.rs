//! The metrics of evaluations besides the loss: how well a model labels images and texts.

use super::run::BranchLog;
use serde::{Deserialize, Serialize};

/// The metrics that one evaluation has. For all of them, higher is better.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Measured {
    accuracy: Option<f64>,
    f1: Option<f64>,
    matthews: Option<f64>,
    pearson: Option<f64>,
    spearman: Option<f64>,
    top1: Option<f64>,
    top5: Option<f64>,
}

/// Largest valid absolute value: all are fractions or correlations, so at most 1 up to rounding.
const LARGEST: f64 = 1.0 + 1e-9;

impl Measured {
    /// Names of the metrics in tables and pictures.
    pub const NAMES: [&str; 7] = ["accuracy", "F1", "Matthews", "Pearson", "Spearman", "top-1", "top-5"];

    /// Returns the values in the order of [`Measured::NAMES`]. `None` if the metric was not measured or is not a valid
    /// number.
    pub fn values(&self) -> [Option<f64>; 7] {
        let Measured { accuracy, f1, matthews, pearson, spearman, top1, top5 } = *self;
        let all = [accuracy, f1, matthews, pearson, spearman, top1, top5];
        all.map(|value| value.filter(|value| value.abs() <= LARGEST))
    }
}

/// The best and final value of one metric over a run's evaluations at level 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reached {
    pub measure: &'static str,
    pub best: f64,
    /// The first step with the best value.
    pub step: u64,
    #[serde(rename = "final")]
    pub last: f64,
}

impl Reached {
    /// Returns the cells of a table row: metric, best value, its step, final value.
    pub fn cells(&self) -> [String; 4] {
        let Reached { measure, best, step, last } = self;
        [(*measure).to_string(), format!("{best:.4}"), step.to_string(), format!("{last:.4}")]
    }
}

/// Returns the metrics of a branch in the order of [`Measured::NAMES`].
pub fn reached(side: &BranchLog) -> Vec<Reached> {
    let of = |(number, measure): (usize, &&'static str)| {
        let mut values = side.of_target().filter_map(|eval| Some((eval.at.step, eval.measures.values()[number]?)));
        let (step, first) = values.next()?;
        let begin = Reached { measure, best: first, step, last: first };
        Some(values.fold(begin, |before, (at, value)| match value > before.best {
            true => Reached { best: value, step: at, last: value, ..before },
            false => Reached { last: value, ..before },
        }))
    };
    Measured::NAMES.iter().enumerate().filter_map(of).collect()
}
