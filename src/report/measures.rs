//! What evaluations measured beside the loss: how well images and labelled texts got their labels.

use super::run::BranchLog;
use serde::{Deserialize, Serialize};

/// The measures of one evaluation, those it has. Of all of them more is better.
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

/// Shares and correlations are at most 1, up to rounding; a number beyond this is none of them.
const LARGEST: f64 = 1.0 + 1e-9;

impl Measured {
    /// As tables and pictures call them.
    pub const NAMES: [&str; 7] = ["accuracy", "F1", "Matthews", "Pearson", "Spearman", "top-1", "top-5"];

    /// By their place in [`Measured::NAMES`]. Nothing where it was not measured, or no number came out.
    pub fn values(&self) -> [Option<f64>; 7] {
        let Measured { accuracy, f1, matthews, pearson, spearman, top1, top5 } = *self;
        let all = [accuracy, f1, matthews, pearson, spearman, top1, top5];
        all.map(|value| value.filter(|value| value.abs() <= LARGEST))
    }
}

/// One measure over the evaluations of a run's level 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reached {
    pub measure: &'static str,
    pub best: f64,
    /// Where it was first that good.
    pub step: u64,
    #[serde(rename = "final")]
    pub last: f64,
}

impl Reached {
    /// For a row of a table: measure, best, at step, last.
    pub fn cells(&self) -> [String; 4] {
        let Reached { measure, best, step, last } = self;
        [(*measure).to_string(), format!("{best:.4}"), step.to_string(), format!("{last:.4}")]
    }
}

/// What a side has measured, in the order of [`Measured::NAMES`].
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
