//! The metrics of labelled examples, computed from scores and labels.

use super::reference::batch::{Batch, LABELS, PATCHES, VALUES};
use super::reference::graph::{Mat, one};
use serde_json::{Value, json};

/// Returns the metrics over the first `count` examples, or `None` if the model has no scores to compare with labels.
pub fn measures(scores: &[(Mat, Batch)], count: usize) -> Option<Value> {
    let (classes, images) = scores.first().map(|(scores, batch)| (scores.cols, !batch.floats[PATCHES].is_empty()))?;
    // Scores are read from the device as f32.
    let score = |m: &Mat, r: usize| (0..classes).map(|c| f64::from(m.at(r, c) as f32)).collect::<Vec<f64>>();
    let rows = scores.iter().flat_map(|(scores, batch)| (0..scores.rows).map(move |r| (score(scores, r), batch, r)));
    let rows: Vec<_> = rows.take(count).collect();
    if classes == 1 {
        let predicted: Vec<f64> = rows.iter().map(|(row, ..)| row[0]).collect();
        let given: Vec<f64> = rows.iter().map(|(_, batch, r)| f64::from(batch.floats[VALUES][*r])).collect();
        let spearman = pearson(&ranks(&predicted), &ranks(&given));
        return Some(json!({ "pearson": pearson(&predicted, &given), "spearman": spearman }));
    }
    // The number of scores that are higher than the score of `class`.
    let rank = |row: &[f64], class: usize| row.iter().filter(|score| **score > row[class]).count();
    let rows: Vec<_> = rows.iter().map(|(row, batch, r)| (row, batch.ints[LABELS][*r] as usize)).collect();
    let below = |n: usize| rows.iter().map(|(row, label)| one(rank(row, *label) < n)).sum::<f64>() / count as f64;
    if images {
        return Some(json!({ "top1": below(1), "top5": below(5) }));
    }
    assert_eq!(classes, 2, "these formulas are for two classes");
    let count_of = |label: usize, predicted: usize| {
        rows.iter().map(|(row, l)| one(*l == label && rank(row, predicted) == 0)).sum::<f64>()
    };
    let [tn, fp, miss, tp] = [count_of(0, 0), count_of(0, 1), count_of(1, 0), count_of(1, 1)];
    let scale = ((tp + fp) * (tp + miss) * (tn + fp) * (tn + miss)).sqrt();
    let matthews = if scale == 0.0 { 0.0 } else { (tp * tn - fp * miss) / scale };
    Some(json!({ "accuracy": below(1), "f1": 2.0 * tp / (2.0 * tp + fp + miss), "matthews": matthews }))
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let [p, q] = [a, b].map(|x| x.iter().sum::<f64>() / x.len() as f64);
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - p, b - q)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

/// Returns the ranks of `x`, up to a constant; equal values share the mean of their ranks.
fn ranks(x: &[f64]) -> Vec<f64> {
    x.iter().map(|a| x.iter().map(|b| one(b < a) + one(b == a) / 2.0).sum()).collect()
}
