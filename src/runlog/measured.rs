use crate::eval::metrics::TaskMetrics;
use serde::{Deserialize, Serialize};

/// The metrics of one evaluation besides the loss. For all of them, higher is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Measured {
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    f1: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matthews: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pearson: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spearman: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top1: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top5: Option<f64>,
}

/// Largest valid absolute value: all are fractions or correlations, so at most 1 up to rounding.
const LARGEST: f64 = 1.0 + 1e-9;

impl Measured {
    /// Names of the metrics in tables and pictures.
    pub const NAMES: [&str; 7] = ["accuracy", "F1", "Matthews", "Pearson", "Spearman", "top-1", "top-5"];

    /// Returns the finite values with their names in `metrics.jsonl`.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let Measured { accuracy, f1, matthews, pearson, spearman, top1, top5 } = *self;
        let all = [
            ("accuracy", accuracy),
            ("f1", f1),
            ("matthews", matthews),
            ("pearson", pearson),
            ("spearman", spearman),
            ("top1", top1),
            ("top5", top5),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.filter(|value| value.is_finite())?)))
    }

    /// Returns the values in the order of [`Measured::NAMES`]. `None` if the metric was not measured or is not a valid
    /// number.
    pub fn values(&self) -> [Option<f64>; 7] {
        let Measured { accuracy, f1, matthews, pearson, spearman, top1, top5 } = *self;
        let all = [accuracy, f1, matthews, pearson, spearman, top1, top5];
        all.map(|value| value.filter(|value| value.abs() <= LARGEST))
    }
}

impl From<TaskMetrics> for Measured {
    fn from(metrics: TaskMetrics) -> Self {
        let none = Measured::default();
        match metrics {
            TaskMetrics::Classes { accuracy, f1, matthews } => {
                Measured { accuracy: Some(accuracy), f1, matthews: Some(matthews), ..none }
            }
            TaskMetrics::Values { pearson, spearman } => {
                Measured { pearson: Some(pearson), spearman: Some(spearman), ..none }
            }
            TaskMetrics::Images { top1, top5 } => Measured { top1: Some(top1), top5: Some(top5), ..none },
        }
    }
}
