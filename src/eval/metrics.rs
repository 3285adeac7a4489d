//! How well predictions agree with labels, as GLUE measures it.

use crate::bail;
use crate::data::loader::batch::Field;
use crate::error::Result;
use crate::model::bert::BertHead;
use crate::model::{Family, Model};
use serde::Serialize;
use std::fmt;

/// How well a model labels examples, as GLUE measures its tasks and ImageNet's its.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Measures {
    Classes {
        accuracy: f64,
        /// Of class 1, where there are two.
        #[serde(skip_serializing_if = "Option::is_none")]
        f1: Option<f64>,
        matthews: f64,
    },
    /// NaN where all predictions are one number.
    Values { pearson: f64, spearman: f64 },
    /// The shares of images whose class has the highest score, and one of the five highest.
    Images { top1: f64, top5: f64 },
}

impl Measures {
    /// Each by its name in `metrics.jsonl`.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let all = match *self {
            Measures::Classes { accuracy, f1, matthews } => {
                [Some(("accuracy", accuracy)), f1.map(|f1| ("f1", f1)), Some(("matthews", matthews))]
            }
            Measures::Values { pearson, spearman } => [Some(("pearson", pearson)), Some(("spearman", spearman)), None],
            Measures::Images { top1, top5 } => [Some(("top1", top1)), Some(("top5", top5)), None],
        };
        all.into_iter().flatten()
    }
}

impl fmt::Display for Measures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, value)) in self.named().enumerate() {
            write!(f, "{}{name} {value:.4}", if number > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Predictions beside labels, as batches bring them.
#[derive(Clone, Debug)]
pub enum Agreement {
    Classes {
        classes: usize,
        predicted: Vec<usize>,
        labels: Vec<usize>,
    },
    Values {
        predicted: Vec<f64>,
        labels: Vec<f64>,
    },
    /// How often the class was the first, and among the first five, of so many images.
    Images {
        hits: [usize; 2],
        images: usize,
    },
}

impl Agreement {
    /// For a model that is trained on labelled texts or images.
    pub fn of(model: &dyn Model) -> Option<Agreement> {
        let config = match model.family() {
            Family::Bert(config) => config,
            Family::Deit(_) => return Some(Agreement::Images { hits: [0; 2], images: 0 }),
            Family::Gpt(_) => return None,
        };
        match config.head {
            BertHead::Classify { labels: 1 } => Some(Agreement::Values { predicted: Vec::new(), labels: Vec::new() }),
            BertHead::Classify { labels } => {
                Some(Agreement::Classes { classes: labels, predicted: Vec::new(), labels: Vec::new() })
            }
            _ => None,
        }
    }

    /// Adds the first `count` examples of a batch of these inputs: their scores, row by row. Of equal scores the first class is
    /// predicted.
    pub fn add(&mut self, scores: &[f32], fields: &[Field], count: usize) {
        // Of images, patches come before the labels, and what they are mixed with behind them.
        let field = match self {
            Agreement::Images { .. } => fields.get(1),
            Agreement::Classes { .. } | Agreement::Values { .. } => fields.last(),
        };
        match (self, field) {
            (Agreement::Classes { classes, predicted, labels }, Some(Field::Ints(given))) => {
                for (row, &label) in scores.chunks_exact(*classes).zip(given).take(count) {
                    let best = (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best });
                    predicted.push(best);
                    labels.push(usize::try_from(label).unwrap_or(usize::MAX));
                }
            }
            (Agreement::Values { predicted, labels }, Some(Field::Floats(given))) => {
                predicted.extend(scores.iter().take(count).map(|&score| f64::from(score)));
                labels.extend(given.iter().take(count).map(|&value| f64::from(value)));
            }
            (Agreement::Images { hits, images }, Some(Field::Ints(given))) => {
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

    /// # Errors
    /// As [`accuracy`].
    pub fn measures(&self) -> Result<Measures> {
        Ok(match self {
            Agreement::Classes { classes, predicted, labels } => Measures::Classes {
                accuracy: accuracy(predicted, labels)?,
                f1: if *classes == 2 { Some(f1(predicted, labels, 1)?) } else { None },
                matthews: matthews(predicted, labels)?,
            },
            Agreement::Values { predicted, labels } => {
                Measures::Values { pearson: pearson(predicted, labels)?, spearman: spearman(predicted, labels)? }
            }
            Agreement::Images { hits, images } => {
                check(*images, *images)?;
                let [top1, top5] = hits.map(|hits| hits as f64 / *images as f64);
                Measures::Images { top1, top5 }
            }
        })
    }
}

/// The share of predictions that are right.
///
/// # Errors
/// When there are none, or not as many as labels.
pub fn accuracy(predicted: &[usize], labels: &[usize]) -> Result<f64> {
    check(predicted.len(), labels.len())?;
    let right = predicted.iter().zip(labels).filter(|(a, b)| a == b).count();
    Ok(right as f64 / labels.len() as f64)
}

/// The harmonic mean of precision and recall of the class `positive`; 0 where nobody has that class.
///
/// # Errors
/// As [`accuracy`].
pub fn f1(predicted: &[usize], labels: &[usize], positive: usize) -> Result<f64> {
    check(predicted.len(), labels.len())?;
    let named = |classes: &[usize]| classes.iter().filter(|&&class| class == positive).count();
    let both = predicted.iter().zip(labels).filter(|&(&a, &b)| a == positive && b == positive).count();
    let all = named(predicted) + named(labels);
    Ok(if all == 0 { 0.0 } else { 2.0 * both as f64 / all as f64 })
}

/// Matthews' correlation, of any number of classes (Gorodkin 2004); 0 where either side has one class only.
///
/// # Errors
/// As [`accuracy`].
pub fn matthews(predicted: &[usize], labels: &[usize]) -> Result<f64> {
    check(predicted.len(), labels.len())?;
    let classes = predicted.iter().chain(labels).max().map_or(0, |&most| most + 1);
    let counts = |side: &[usize]| {
        let mut counts = vec![0.0; classes];
        side.iter().for_each(|&class| counts[class] += 1.0);
        counts
    };
    let (p, t) = (counts(predicted), counts(labels));
    let all = labels.len() as f64;
    let right = predicted.iter().zip(labels).filter(|(a, b)| a == b).count() as f64;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let spread = |side: &[f64]| all * all - product(side, side);
    let scale = (spread(&p) * spread(&t)).sqrt();
    Ok(if scale == 0.0 { 0.0 } else { (right * all - product(&p, &t)) / scale })
}

/// Pearson's correlation; NaN where either side is constant.
///
/// # Errors
/// As [`accuracy`].
pub fn pearson(predicted: &[f64], labels: &[f64]) -> Result<f64> {
    check(predicted.len(), labels.len())?;
    let centred = |side: &[f64]| {
        let mean = side.iter().sum::<f64>() / side.len() as f64;
        side.iter().map(|x| x - mean).collect::<Vec<_>>()
    };
    let (a, b) = (centred(predicted), centred(labels));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    Ok(product(&a, &b) / (product(&a, &a).sqrt() * product(&b, &b).sqrt()))
}

/// Spearman's correlation: Pearson's of the ranks, of which equal values share the mean; NaN where either side is constant.
///
/// # Errors
/// As [`accuracy`].
pub fn spearman(predicted: &[f64], labels: &[f64]) -> Result<f64> {
    pearson(&ranks(predicted), &ranks(labels))
}

/// From 1 on.
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

fn check(predicted: usize, labels: usize) -> Result<()> {
    if predicted != labels || labels == 0 {
        bail!("{predicted} predictions for {labels} labels; give one for each, and at least one");
    }
    Ok(())
}

/// How many classes have a higher score than `label`; equal ones count as higher when they come first.
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
        // A score that is no number is higher than none, and none is higher than it.
        assert_eq!(rank(&[f32::NAN, 1.0], 1), 0);
    }
}
