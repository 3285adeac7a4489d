//! How well predictions agree with labels, as GLUE measures it.

use crate::bail;
use crate::error::Result;

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
