//! Metrics on labelled examples: accuracy, F1, Matthews correlation, correlations, and top-k accuracy.

use crate::bail;
use crate::data::loader::batch::Field;
use crate::error::Result;
use crate::model::bert::BertHead;
use crate::model::{Family, Model};
use serde::Serialize;
use std::fmt;

/// The metrics of an evaluation: those of GLUE for labelled texts, and those of ImageNet for images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TaskMetrics {
    /// Classified texts.
    Classes {
        /// Share of correct predictions.
        accuracy: f64,
        /// F1 of class 1, if there are two classes.
        #[serde(skip_serializing_if = "Option::is_none")]
        f1: Option<f64>,
        /// Matthews correlation coefficient.
        matthews: f64,
    },
    /// Texts with numbers as labels. NaN if all predictions are equal.
    Values {
        /// Pearson correlation coefficient.
        pearson: f64,
        /// Spearman rank correlation coefficient.
        spearman: f64,
    },
    /// Classified images.
    Images {
        /// Share of images whose class has the highest score.
        top1: f64,
        /// Share of images whose class has one of the five highest scores.
        top5: f64,
    },
}

impl TaskMetrics {
    /// Returns each metric with its name in `metrics.jsonl`.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let all = match *self {
            TaskMetrics::Classes { accuracy, f1, matthews } => {
                [Some(("accuracy", accuracy)), f1.map(|f1| ("f1", f1)), Some(("matthews", matthews))]
            }
            TaskMetrics::Values { pearson, spearman } => {
                [Some(("pearson", pearson)), Some(("spearman", spearman)), None]
            }
            TaskMetrics::Images { top1, top5 } => [Some(("top1", top1)), Some(("top5", top5)), None],
        };
        all.into_iter().flatten()
    }
}

impl fmt::Display for TaskMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, value)) in self.named().enumerate() {
            write!(f, "{}{name} {value:.4}", if number > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Accumulates predictions and labels over batches.
#[derive(Clone, Debug)]
pub enum MetricsAccumulator {
    /// Classified texts.
    Classes {
        /// Number of classes.
        classes: usize,
        /// Predicted class of each example.
        predicted: Vec<usize>,
        /// Class of each example.
        labels: Vec<usize>,
    },
    /// Texts with numbers as labels.
    Values {
        /// Predicted number of each example.
        predicted: Vec<f64>,
        /// Label of each example.
        labels: Vec<f64>,
    },
    /// Classified images.
    Images {
        /// Number of images whose class had the highest score, and one of the five highest.
        hits: [usize; 2],
        /// Number of images.
        images: usize,
    },
}

impl MetricsAccumulator {
    /// Returns an empty accumulator for a model that is trained on labelled examples, else `None`.
    pub fn of(model: &dyn Model) -> Option<MetricsAccumulator> {
        let config = match model.family() {
            Family::Bert(config) => config,
            Family::Deit(_) => return Some(MetricsAccumulator::Images { hits: [0; 2], images: 0 }),
            Family::Gpt(_) => return None,
        };
        match config.head {
            BertHead::Classify { labels: 1 } => {
                Some(MetricsAccumulator::Values { predicted: Vec::new(), labels: Vec::new() })
            }
            BertHead::Classify { labels } => {
                Some(MetricsAccumulator::Classes { classes: labels, predicted: Vec::new(), labels: Vec::new() })
            }
            _ => None,
        }
    }

    /// Adds the first `count` examples of a batch with the inputs `fields`; `scores` are row-major. If scores are
    /// equal, the first class is predicted.
    pub fn add(&mut self, scores: &[f32], fields: &[Field], count: usize) {
        // The fields of images are patches, labels, and what the images are mixed with; labels of texts are the last
        // field.
        let field = match self {
            MetricsAccumulator::Images { .. } => fields.get(1),
            MetricsAccumulator::Classes { .. } | MetricsAccumulator::Values { .. } => fields.last(),
        };
        match (self, field) {
            (MetricsAccumulator::Classes { classes, predicted, labels }, Some(Field::Ints(given))) => {
                for (row, &label) in scores.chunks_exact(*classes).zip(given).take(count) {
                    let best = (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
                    predicted.push(best);
                    labels.push(usize::try_from(label).unwrap_or(usize::MAX));
                }
            }
            (MetricsAccumulator::Values { predicted, labels }, Some(Field::Floats(given))) => {
                predicted.extend(scores.iter().take(count).map(|&score| f64::from(score)));
                labels.extend(given.iter().take(count).map(|&value| f64::from(value)));
            }
            (MetricsAccumulator::Images { hits, images }, Some(Field::Ints(given))) => {
                let classes = (scores.len() / given.len().max(1)).max(1);
                for (row, &label) in scores.chunks_exact(classes).zip(given).take(count) {
                    let rank = rank(row, label);
                    hits[0] += usize::from(rank == 0);
                    hits[1] += usize::from(rank < 5);
                    *images += 1;
                }
            }
            _ => {}
        }
    }

    /// Computes the metrics of all examples so far.
    ///
    /// # Errors
    /// There are no examples.
    pub fn measures(&self) -> Result<TaskMetrics> {
        Ok(match self {
            MetricsAccumulator::Classes { classes, predicted, labels } => TaskMetrics::Classes {
                accuracy: accuracy(predicted, labels)?,
                f1: if *classes == 2 { Some(f1(predicted, labels, 1)?) } else { None },
                matthews: matthews(predicted, labels)?,
            },
            MetricsAccumulator::Values { predicted, labels } => {
                TaskMetrics::Values { pearson: pearson(predicted, labels)?, spearman: spearman(predicted, labels)? }
            }
            MetricsAccumulator::Images { hits, images } => {
                check(*images, *images)?;
                let [top1, top5] = hits.map(|hits| hits as f64 / *images as f64);
                TaskMetrics::Images { top1, top5 }
            }
        })
    }
}

/// Returns the share of correct predictions.
///
/// # Errors
/// There are no predictions, or not as many as labels.
pub fn accuracy(predicted: &[usize], labels: &[usize]) -> Result<f64> {
    check(predicted.len(), labels.len())?;
    let right = predicted.iter().zip(labels).filter(|(a, b)| a == b).count();
    Ok(right as f64 / labels.len() as f64)
}

/// Returns the F1 score of the class `positive`: the harmonic mean of precision and recall. It is 0 if the class does
/// not occur.
///
/// # Errors
/// Those of [`accuracy`].
pub fn f1(predicted: &[usize], labels: &[usize], positive: usize) -> Result<f64> {
    check(predicted.len(), labels.len())?;
    let named = |classes: &[usize]| classes.iter().filter(|&&class| class == positive).count();
    let both = predicted.iter().zip(labels).filter(|&(&a, &b)| a == positive && b == positive).count();
    let all = named(predicted) + named(labels);
    Ok(if all == 0 { 0.0 } else { 2.0 * both as f64 / all as f64 })
}

/// Returns the Matthews correlation coefficient for any number of classes (Gorodkin 2004). It is 0 if the predictions
/// or the labels are all of one class.
///
/// # Errors
/// Those of [`accuracy`].
pub fn matthews(predicted: &[usize], labels: &[usize]) -> Result<f64> {
    check(predicted.len(), labels.len())?;
    let classes = predicted.iter().chain(labels).max().map_or(0, |&most| most + 1);
    let counts = |values: &[usize]| {
        let mut counts = vec![0.0; classes];
        values.iter().for_each(|&class| counts[class] += 1.0);
        counts
    };
    let (p, t) = (counts(predicted), counts(labels));
    let all = labels.len() as f64;
    let right = predicted.iter().zip(labels).filter(|(a, b)| a == b).count() as f64;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let spread = |values: &[f64]| all * all - product(values, values);
    let scale = (spread(&p) * spread(&t)).sqrt();
    Ok(if scale == 0.0 { 0.0 } else { (right * all - product(&p, &t)) / scale })
}

/// Returns the Pearson correlation coefficient. It is NaN if the predictions or the labels are constant.
///
/// # Errors
/// Those of [`accuracy`].
pub fn pearson(predicted: &[f64], labels: &[f64]) -> Result<f64> {
    check(predicted.len(), labels.len())?;
    let centred = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|x| x - mean).collect::<Vec<_>>()
    };
    let (a, b) = (centred(predicted), centred(labels));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    Ok(product(&a, &b) / (product(&a, &a).sqrt() * product(&b, &b).sqrt()))
}

/// Returns the Spearman rank correlation coefficient: the Pearson correlation of the ranks, where equal values get
/// their mean rank. It is NaN if the predictions or the labels are constant.
///
/// # Errors
/// Those of [`accuracy`].
pub fn spearman(predicted: &[f64], labels: &[f64]) -> Result<f64> {
    pearson(&ranks(predicted), &ranks(labels))
}

/// Returns the ranks of the values, starting at 1. Equal values get their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = before as f64 + (equal.len() + 1) as f64 / 2.0;
        equal.iter().for_each(|&at| ranks[at] = rank);
        before += equal.len();
    }
    ranks
}

/// Checks that there are as many predictions as labels, and at least one.
fn check(predicted: usize, labels: usize) -> Result<()> {
    if predicted != labels || labels == 0 {
        bail!("{predicted} predictions for {labels} labels; give one for each, and at least one");
    }
    Ok(())
}

/// Returns the number of classes that rank above `label`: those with a higher score, and those before it with an equal
/// score.
fn rank(scores: &[f32], label: i32) -> usize {
    let Some(own) = usize::try_from(label).ok().and_then(|label| scores.get(label)) else { return usize::MAX };
    let before = scores.iter().take(label as usize).filter(|score| *score >= own);
    before.count() + scores.iter().skip(label as usize + 1).filter(|score| *score > own).count()
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn ranks_count_higher_scores_and_equal_ones_before() {
        let scores = [0.5, 2.0, 0.5, -1.0];
        assert_eq!([0, 1, 2, 3].map(|label| rank(&scores, label)), [1, 0, 2, 3]);
        assert_eq!([rank(&scores, -100), rank(&scores, 4)], [usize::MAX; 2]);
        // A NaN score ranks neither above nor below another score.
        assert_eq!(rank(&[f32::NAN, 1.0], 1), 0);
    }
}
