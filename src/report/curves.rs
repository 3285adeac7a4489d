//! Pictures of runs: held-out loss and metrics, and the curves of training.

use super::measures::value;
use super::plot::{Curve, Panel, Picture, Segment, Shade, Ticks, range};
use super::run::BranchLog;
use super::savings;
use crate::runlog::{Eval, Measured, Position, Step};
use std::collections::{BTreeMap, BTreeSet};

/// The coordinate of a position on an axis.
type Axis = fn(&Position) -> f64;

fn flops(at: &Position) -> f64 {
    at.flops as f64
}

fn seconds(at: &Position) -> f64 {
    at.seconds
}

/// Plots held-out loss against FLOPs and against seconds, with a horizontal line at the best loss of each baseline.
pub fn held_out(sides: &[&BranchLog], baselines: &[usize]) -> Picture {
    let best = |side: &BranchLog| savings::best(&side.points()).map(|at| side.points()[at].loss);
    let levels: Vec<(f64, usize)> = baselines.iter().filter_map(|&i| Some((best(sides[i])?, i))).collect();
    let losses = losses_shown(sides, &levels);
    let panel = |title: &str, x_label: &str, axis: Axis, x_ticks: Ticks| {
        let end = sides.iter().flat_map(|side| &side.evals).map(|eval| axis(&eval.at)).fold(0.0, f64::max);
        let curve =
            |(colour, side): (usize, &&BranchLog)| Curve { colour, segments: evaluations(side, axis), marked: true };
        Panel {
            title: title.to_string(),
            x_label: x_label.to_string(),
            y_label: "held-out loss (nats per token)".to_string(),
            x: range(0.0, 1.02 * end),
            y: losses.clone(),
            x_ticks,
            y_ticks: Ticks::Plain,
            curves: sides.iter().enumerate().map(curve).collect(),
            levels: levels.clone(),
            shades: shades(sides, axis),
        }
    };
    let name = |(i, side): (usize, &&BranchLog)| match best(side) {
        Some(loss) => (format!("{}: best {loss:.4}", side.name), i),
        None => (side.name.clone(), i),
    };
    let legend: Vec<_> = sides.iter().enumerate().map(name).collect();
    let runs: Vec<&str> = legend.iter().map(|(text, _)| text.as_str()).collect();
    Picture {
        description: format!("Held-out loss against FLOPs and against seconds. {}", runs.join("; ")),
        legend,
        panels: vec![
            panel("Held-out loss against FLOPs of all levels", "FLOPs", flops, Ticks::Engineering),
            panel("Held-out loss against time", "seconds of training", seconds, Ticks::Plain),
        ],
    }
}

/// Plots the metrics besides the loss, one panel for each. Returns `None` if there are none.
pub fn measures(sides: &[&BranchLog]) -> Option<Picture> {
    let panel = |number: usize| {
        let value = |eval: &Eval| Some((eval.at, eval.at.step as f64, value(eval, number)?));
        let curve = |(colour, side): (usize, &&BranchLog)| Curve {
            colour,
            segments: segments(side.evals.iter().filter_map(value)),
            marked: true,
        };
        let curves: Vec<Curve> = sides.iter().enumerate().map(curve).collect();
        let points = || curves.iter().flat_map(|curve| &curve.segments).flat_map(|segment| &segment.points);
        let (low, high) = points().fold((1.0f64, -1.0f64), |(low, high), (_, y)| (low.min(*y), high.max(*y)));
        let end = points().map(|(x, _)| *x).reduce(f64::max)?;
        let margin = 0.06 * (high - low).max(1e-3);
        Some(Panel {
            title: format!("{} of held-out examples", Measured::NAMES[number]),
            x_label: "step".to_string(),
            y_label: Measured::NAMES[number].to_string(),
            x: range(0.0, 1.02 * end),
            y: range(low - margin, high + margin),
            x_ticks: Ticks::Plain,
            y_ticks: Ticks::Plain,
            curves,
            levels: Vec::new(),
            shades: shades(sides, |at| at.step as f64),
        })
    };
    let panels: Vec<Panel> = (0..Measured::NAMES.len()).filter_map(panel).collect();
    let shown: Vec<&str> = panels.iter().map(|panel| panel.y_label.as_str()).collect();
    let description = format!("Against steps: {}", shown.join(", "));
    let legend = sides.iter().enumerate().map(|(i, side)| (side.name.clone(), i)).collect();
    if panels.is_empty() { None } else { Some(Picture { description, legend, panels }) }
}

/// Returns the range of losses to plot: from the lowest loss to one that cuts the steep beginnings off. The upper end
/// is the largest over the levels of the loss that 90 % of the level's evaluations stay below, leaving out the first
/// fifth. Each level counts by itself because a small level may end at the loss where a large one begins.
fn losses_shown(sides: &[&BranchLog], levels: &[(f64, usize)]) -> std::ops::Range<f64> {
    let mut late: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    let mut lowest = f64::INFINITY;
    for side in sides {
        let finite: Vec<&Eval> = side.evals.iter().filter(|eval| eval.loss.is_finite()).collect();
        lowest = finite.iter().fold(lowest, |low, eval| low.min(eval.loss));
        let of_levels: BTreeSet<usize> = finite.iter().map(|eval| eval.at.level).collect();
        for level in of_levels {
            let points: Vec<(f64, f64)> =
                finite.iter().filter(|eval| eval.at.level == level).map(|eval| (flops(&eval.at), eval.loss)).collect();
            let (Some(&(begin, _)), Some(&(end, _))) = (points.first(), points.last()) else { continue };
            // Level 1 leaves out the first fifth of the run, other levels the first fifth of their own part.
            let from = if level == 1 { 0.2 * end } else { begin + 0.2 * (end - begin) };
            let losses = points.iter().filter(|(at, _)| *at >= from).map(|(_, loss)| *loss);
            late.entry(level).or_default().extend(losses);
        }
    }
    late.entry(1).or_default().extend(levels.iter().map(|(loss, _)| loss));
    let most = late.into_values().filter_map(|mut losses| {
        losses.sort_by(f64::total_cmp);
        losses.get((losses.len() * 9 / 10).min(losses.len().saturating_sub(1))).copied()
    });
    let Some(most) = most.reduce(f64::max) else { return 0.0..1.0 };
    let height = (most - lowest).max(1e-3);
    range(lowest - 0.06 * height, most + 0.12 * height)
}

/// Returns the evaluations as one segment for each stage: the loss jumps between stages, because the model changes.
fn evaluations(side: &BranchLog, axis: Axis) -> Vec<Segment> {
    let points = side.evals.iter().filter(|eval| eval.loss.is_finite());
    segments(points.map(|eval| (eval.at, axis(&eval.at), eval.loss)))
}

fn segments(points: impl Iterator<Item = (Position, f64, f64)>) -> Vec<Segment> {
    let mut all: Vec<(usize, Segment)> = Vec::new();
    for (at, x, y) in points {
        if all.last().is_none_or(|(stage, _)| *stage != at.stage) {
            all.push((at.stage, Segment { points: Vec::new(), below: at.level > 1 }));
        }
        if let Some((_, segment)) = all.last_mut() {
            segment.points.push((x, y));
        }
    }
    all.into_iter().map(|(_, segment)| segment).collect()
}

/// Returns the parts below level 1, if exactly one branch has any: those of several would overlap.
fn shades(sides: &[&BranchLog], axis: Axis) -> Vec<Shade> {
    let mut deep = sides.iter().filter(|side| side.evals.iter().any(|eval| eval.at.level > 1));
    let (Some(side), None) = (deep.next(), deep.next()) else { return Vec::new() };
    let mut all: Vec<(usize, Shade)> = Vec::new();
    let lines = side.evals.iter().map(|eval| eval.at).chain(side.steps.iter().map(|step| step.at));
    for at in lines.filter(|at| at.level > 1) {
        let x = axis(&at);
        match all.iter_mut().find(|(stage, _)| *stage == at.stage) {
            Some((_, shade)) => (shade.from, shade.to) = (shade.from.min(x), shade.to.max(x)),
            None => all.push((at.stage, Shade { from: x, to: x, level: at.level })),
        }
    }
    all.into_iter().map(|(_, shade)| shade).collect()
}

/// Plots training loss, gradient norm, learning rate and step time. Returns `None` without steps, as in committed
/// results.
pub fn training(sides: &[&BranchLog]) -> Option<Picture> {
    let most = sides.iter().map(|side| side.steps.len()).max().filter(|&n| n > 0)?;
    // At most 400 points, about what a panel can resolve; each is the mean of `bin` steps.
    let bin = most.div_ceil(400);
    let panel = |title: &str, y_label: &str, from_zero: bool, value: &dyn Fn(&BranchLog, usize) -> f64| {
        let curve = |(colour, side): (usize, &&BranchLog)| {
            let points = |i: usize| (side.steps[i].at, value(side, i));
            Curve { colour, segments: averaged((0..side.steps.len()).map(points), bin), marked: false }
        };
        let curves: Vec<Curve> = sides.iter().enumerate().map(curve).collect();
        let mean = if bin > 1 { format!(", means of {bin} steps") } else { String::new() };
        let end = sides.iter().flat_map(|side| side.steps.last()).map(|step| step.at.step as f64).fold(0.0, f64::max);
        Panel {
            title: format!("{title}{mean}"),
            x_label: "step".to_string(),
            y_label: y_label.to_string(),
            x: range(0.0, 1.02 * end),
            y: usual(&curves, from_zero),
            x_ticks: Ticks::Plain,
            y_ticks: Ticks::Plain,
            curves,
            levels: Vec::new(),
            shades: shades(sides, |at| at.step as f64),
        }
    };
    let step = |side: &BranchLog, i: usize| -> Step { side.steps[i] };
    Some(Picture {
        description: "Training loss, gradient norm, learning rate and time of a step, against steps".to_string(),
        legend: sides.iter().enumerate().map(|(i, side)| (side.name.clone(), i)).collect(),
        panels: vec![
            panel("Training loss", "loss (nats per token)", false, &|side, i| step(side, i).loss),
            panel("Gradient norm before clipping", "global norm", true, &|side, i| step(side, i).grad_norm),
            panel("Learning rate", "learning rate", true, &|side, i| step(side, i).lr),
            panel("Time of a step", "milliseconds", true, &milliseconds),
        ],
    })
}

/// Returns the milliseconds of a step; NaN for the first step of a stage, which other work precedes.
fn milliseconds(side: &BranchLog, i: usize) -> f64 {
    let at = side.steps[i].at;
    match i.checked_sub(1).map(|before| side.steps[before].at).filter(|before| before.stage == at.stage) {
        Some(before) => 1e3 * (at.seconds - before.seconds),
        None => f64::NAN,
    }
}

/// Averages groups of `bin` neighbours within a stage and places the mean at the last one. Values that are not finite
/// are left out.
fn averaged(points: impl Iterator<Item = (Position, f64)>, bin: usize) -> Vec<Segment> {
    let mut means: Vec<(Position, f64, f64)> = Vec::new();
    let mut sum: (usize, f64) = (0, 0.0);
    let mut open: Option<Position> = None;
    let mut close = |at: Position, sum: &mut (usize, f64)| {
        if sum.0 > 0 {
            means.push((at, at.step as f64, sum.1 / sum.0 as f64));
        }
        *sum = (0, 0.0);
    };
    for (at, y) in points.filter(|(_, y)| y.is_finite()) {
        if let Some(before) = open.filter(|before| before.stage != at.stage) {
            close(before, &mut sum);
        }
        sum = (sum.0 + 1, sum.1 + y);
        open = Some(at);
        if sum.0 == bin {
            close(at, &mut sum);
        }
    }
    if let Some(at) = open {
        close(at, &mut sum);
    }
    segments(means.into_iter())
}

/// Returns a range for values with a few outliers: at most twice as high as the lower 90 % of the values.
fn usual(curves: &[Curve], from_zero: bool) -> std::ops::Range<f64> {
    let points = curves.iter().flat_map(|curve| &curve.segments).flat_map(|segment| &segment.points);
    let mut values: Vec<f64> = points.map(|(_, y)| *y).collect();
    values.sort_by(f64::total_cmp);
    let (Some(&lowest), Some(&highest)) = (values.first(), values.last()) else { return 0.0..1.0 };
    let most = values[(values.len() * 9 / 10).min(values.len() - 1)];
    let low = if from_zero { lowest.min(0.0) } else { lowest };
    let height = (highest - low).min(2.0 * (most - low)).max(0.0);
    range(low - if from_zero { 0.0 } else { 0.05 * height }, low + 1.05 * height)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_losses_of_every_level_are_shown_and_steep_beginnings_are_not() {
        let eval = |(level, flops, loss): (usize, u64, f64)| Eval {
            at: Position { level, flops, ..Position::default() },
            loss,
            tokens: 0,
            resident_bytes: None,
            measures: None,
        };
        // Level 1 before, level 3 with few evaluations, level 1 with many.
        let down = |level: usize, from: u64, count: u64, begin: f64, end: f64| {
            (0..count).map(move |i| (level, from + i * 10, begin + (end - begin) * i as f64 / (count - 1) as f64))
        };
        let points = down(1, 0, 5, 9.0, 4.5).chain(down(3, 60, 4, 8.0, 6.0)).chain(down(1, 100, 40, 4.0, 3.0));
        let side = BranchLog { evals: points.map(eval).collect(), ..BranchLog::default() };
        let shown = losses_shown(&[&side], &[(3.0, 0)]);
        // Level 3 is shown from its first fifth on, and the loss of 9 at the start is cut off.
        assert!(shown.start < 3.0 && shown.end > 7.3 && shown.end < 8.0, "{shown:?}");
        let above = BranchLog {
            evals: side.evals.iter().filter(|eval| eval.at.level == 1).copied().collect(),
            ..BranchLog::default()
        };
        assert!(losses_shown(&[&above], &[(3.0, 0)]).end < 4.5);
    }
}
