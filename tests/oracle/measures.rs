//! How well scores agree with labels.

use super::data::Batch;
use super::graph::Mat;
use serde_json::{Value, json};

/// Of the first `count` examples; `None` where examples have no labels.
pub fn measures(scores: &[(Mat, Batch)], count: usize) -> Option<Value> {
    let (first, batch) = scores.first()?;
    // Scores leave the device as f32.
    let scores: Vec<_> = scores.iter().map(|(scores, batch)| (scores.map(|x| f64::from(x as f32)), batch)).collect();
    let rows = || scores.iter().flat_map(|(s, b)| (0..s.rows).map(move |r| (s.row(r), *b, r))).take(count);
    let share = |n: usize| n as f64 / count as f64;
    if first.cols == 1 {
        let predicted: Vec<f64> = rows().map(|(row, ..)| row[0]).collect();
        let given: Vec<f64> = rows().map(|(_, b, r)| f64::from(b.values[r])).collect();
        let spearman = pearson(&ranks(&predicted), &ranks(&given));
        return Some(json!({ "pearson": pearson(&predicted, &given), "spearman": spearman }));
    }
    // How many scores are higher than that of the label.
    let rank = |row: &[f64], label: usize| row.iter().filter(|score| **score > row[label]).count();
    let below = |n: usize| share(rows().filter(|(row, b, r)| rank(row, b.labels[*r] as usize) < n).count());
    if !batch.patches.is_empty() {
        return Some(json!({ "top1": below(1), "top5": below(5) }));
    }
    // Of two classes: examples of a label that are predicted as this.
    assert_eq!(first.cols, 2, "the formulas are those of two classes");
    let of = |label: usize, as_: usize| {
        let hit = |(row, b, r): &(&[f64], &Batch, usize)| b.labels[*r] as usize == label && rank(row, as_) == 0;
        rows().filter(hit).count() as f64
    };
    let [tn, fp, fn_, tp] = [of(0, 0), of(0, 1), of(1, 0), of(1, 1)];
    let scale = ((tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_)).sqrt();
    let matthews = if scale == 0.0 { 0.0 } else { (tp * tn - fp * fn_) / scale };
    Some(json!({ "accuracy": below(1), "f1": 2.0 * tp / (2.0 * tp + fp + fn_), "matthews": matthews }))
}

fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (p, q) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - p, b - q)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

/// From 1 on; equal values share the mean of theirs.
fn ranks(x: &[f64]) -> Vec<f64> {
    let rank =
        |a: &f64| x.iter().map(|b| if b < a { 1.0 } else { 0.5 * f64::from(u8::from(b == a)) }).sum::<f64>() + 0.5;
    x.iter().map(rank).collect()
}
