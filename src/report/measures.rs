//! The metrics of evaluations besides the loss: how well a model labels images and texts.

use super::run::BranchLog;
use crate::runlog::{Eval, Measured};
use serde::Serialize;

/// The best and final value of one metric over a run's evaluations at level 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Reached {
    /// Name of the metric, one of [`Measured::NAMES`].
    pub measure: &'static str,
    /// The highest value.
    pub best: f64,
    /// The first step with the best value.
    pub step: u64,
    /// The value at the last evaluation that has the metric.
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

/// Returns a metric of an evaluation, by its number in [`Measured::NAMES`].
pub fn value(eval: &Eval, number: usize) -> Option<f64> {
    eval.measures.and_then(|measures| measures.values()[number])
}

/// Returns the metrics of a branch in the order of [`Measured::NAMES`].
pub fn reached(side: &BranchLog) -> Vec<Reached> {
    let of = |(number, measure): (usize, &&'static str)| {
        let mut values = side.of_target().filter_map(|eval| Some((eval.at.step, value(eval, number)?)));
        let (step, first) = values.next()?;
        let begin = Reached { measure, best: first, step, last: first };
        Some(values.fold(begin, |before, (at, value)| match value > before.best {
            true => Reached { best: value, step: at, last: value, ..before },
            false => Reached { last: value, ..before },
        }))
    };
    Measured::NAMES.iter().enumerate().filter_map(of).collect()
}
