//! The roofline plot: GFLOP/s against FLOPs per byte, both on logarithmic axes.

use super::case::{Case, Setting};
use super::line::Line;
use crate::bench::table::significant;
use crate::error::Result;
use crate::report::canvas::{Area, Drawing, Drawn, GRID, INK, SCALE, mark, px, shorten, text};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// The operations of one device with the same threads and precision.
struct Panel<'a> {
    setting: &'a Setting,
    /// The best measured GFLOP/s and GB/s.
    roof: (f64, f64),
    points: Vec<Point>,
}

/// An operation in the plot.
struct Point {
    name: String,
    colour: usize,
    /// FLOPs per byte.
    intensity: f64,
    gflops: f64,
}

/// Sizes and positions in pixels as shown.
const HEAD: u32 = 40;
const FOOT: u32 = 58;
const LEFT: u32 = 86;
const RIGHT: u32 = 760;
/// Names of points are in a column from here on, at least this far apart.
const NAMES: u32 = 812;
const NAME_ROW: u32 = 18;
const LEAST_HEIGHT: u32 = 440;
/// Rates below this are left out, because they would stretch the axes.
const LEAST_GFLOPS: f64 = 1e-9;

/// Draws a panel for every combination of device, threads and precision that has operations and a roofline. Returns
/// `None` if there are none.
///
/// # Errors
/// As for [`Drawing::new`].
pub fn drawing(cases: &[Case]) -> Result<Option<Drawing>> {
    let panels = panels(cases);
    if panels.is_empty() {
        return Ok(None);
    }
    let height = panels.iter().map(Panel::height).sum();
    let what = "Operations under the roofline: GFLOP/s against FLOPs per byte";
    let drawn = Drawing::new(what, height, |root| {
        let mut y = 0;
        for panel in &panels {
            panel.draw(root, y)?;
            y += panel.height();
        }
        Ok(())
    });
    drawn.map(Some)
}

fn panels(cases: &[Case]) -> Vec<Panel<'_>> {
    let mut panels: Vec<Panel> = Vec::new();
    let mut benches: Vec<&str> = Vec::new();
    for case in cases {
        let setting = &case.subject.setting;
        for ours in case.ours.iter().filter(|ours| ours.is_timed()) {
            let best = |what: fn(&Line) -> Option<f64>| ours.lines().filter_map(what).fold(0.0, f64::max);
            let roof = (best(|line| line.roofline_gflops), best(|line| line.roofline_gb_per_s));
            let count = |what: fn(&Line) -> Option<f64>| ours.median(what).filter(|&n| n >= 1.0);
            let rate = ours.median(|line| line.gflops).filter(|&rate| rate >= LEAST_GFLOPS);
            let (Some(flops), Some(bytes), Some(gflops)) = (count(|line| line.flops), count(|line| line.bytes), rate)
            else {
                continue;
            };
            if roof.0.min(roof.1) < LEAST_GFLOPS {
                continue;
            }
            let bench = case.subject.bench.as_str();
            let colour = benches.iter().position(|known| *known == bench).unwrap_or_else(|| {
                benches.push(bench);
                benches.len() - 1
            });
            let who = ours.who.to_string();
            let version = who.split_once(' ').map_or(String::new(), |(_, version)| format!(" {version}"));
            let name = format!("{}{version}", case.subject);
            let point = Point { name, colour, intensity: flops / bytes, gflops };
            match panels.iter_mut().find(|panel| panel.setting == setting) {
                Some(panel) => {
                    panel.roof = (panel.roof.0.max(roof.0), panel.roof.1.max(roof.1));
                    panel.points.push(point);
                }
                None => panels.push(Panel { setting, roof, points: vec![point] }),
            }
        }
    }
    // From the top down, in the order of the names.
    let order = |a: &Point, b: &Point| b.gflops.total_cmp(&a.gflops).then(b.intensity.total_cmp(&a.intensity));
    panels.iter_mut().for_each(|panel| panel.points.sort_by(order));
    panels
}

impl Panel<'_> {
    fn height(&self) -> u32 {
        (HEAD + FOOT + NAME_ROW * (self.points.len() as u32 + 1)).max(LEAST_HEIGHT)
    }

    fn draw(&self, root: &Area<'_>, top: u32) -> Drawn {
        let (peak, bandwidth) = self.roof;
        let (from, to) = (top + HEAD, top + self.height() - FOOT);
        let fold = |what: fn(&Point) -> f64, start: f64, choose: fn(f64, f64) -> f64| {
            self.points.iter().map(what).fold(start, choose)
        };
        let ridge = peak / bandwidth;
        let (low, high) = (fold(|p| p.intensity, ridge, f64::min), fold(|p| p.intensity, ridge, f64::max));
        let across = Axis::new(low / 2.0, high * 2.0, (px(LEFT), px(RIGHT)));
        let (low, high) = (fold(|p| p.gflops, peak, f64::min), fold(|p| p.gflops, peak, f64::max));
        let up = Axis::new(low / 1.6, high * 1.6, (px(to), px(from)));
        let title = format!(
            "{}: roof {} GFLOP/s, {} GB/s",
            shorten(&self.setting.to_string(), 60),
            significant(peak),
            significant(bandwidth)
        );
        root.draw_text(&title, &text(15, INK, (HPos::Left, VPos::Center)), (px(LEFT), px(top + HEAD / 2)))?;
        axes(root, &across, &up)?;
        // The slope may start at the lower edge instead of the left one.
        let start = across.low.max(up.low / bandwidth);
        let mut roof = vec![(across.high, peak)];
        if start < ridge {
            roof.extend([(ridge, peak), (start, bandwidth * start)]);
        } else {
            roof.push((across.low, peak));
        }
        let roof: Vec<_> = roof.iter().map(|&(x, y)| (across.at(x), up.at(y))).collect();
        root.draw(&PathElement::new(roof, INK.stroke_width(2 * SCALE)))?;
        self.points(root, &across, &up, (px(from), px(to)))
    }

    /// Draws the marks and, to the right of the plot where they cannot overlap, their names, joined by lines.
    fn points(&self, root: &Area<'_>, across: &Axis, up: &Axis, (from, to): (i32, i32)) -> Drawn {
        let places: Vec<_> =
            self.points.iter().map(|point| (across.at(point.intensity), up.at(point.gflops))).collect();
        let heights = spread(&places.iter().map(|place| place.1).collect::<Vec<_>>(), px(NAME_ROW), (from, to));
        for (place, &y) in places.iter().zip(&heights) {
            let line = vec![*place, (px(NAMES - 40), y), (px(NAMES - 12), y)];
            root.draw(&PathElement::new(line, LEADER.stroke_width(SCALE)))?;
        }
        let draw = |element| root.draw(&element).map_err(Into::into);
        for ((point, place), &y) in self.points.iter().zip(&places).zip(&heights) {
            mark(point.colour, *place, &draw)?;
            mark(point.colour, (px(NAMES - 6), y), &draw)?;
            let name = format!("{}: {}", shorten(&point.name, 40), significant(point.gflops));
            root.draw_text(&name, &text(13, INK, (HPos::Left, VPos::Center)), (px(NAMES + 4), y))?;
        }
        Ok(())
    }
}

const LEADER: RGBColor = RGBColor(170, 170, 170);

/// Moves sorted positions as little as possible, so that they keep a distance from each other and lie within two ends.
fn spread(wanted: &[i32], distance: i32, (from, to): (i32, i32)) -> Vec<i32> {
    let mut places = wanted.to_vec();
    let mut least = from;
    for place in &mut places {
        *place = (*place).max(least);
        least = *place + distance;
    }
    let mut most = to;
    for place in places.iter_mut().rev() {
        *place = (*place).min(most);
        most = *place - distance;
    }
    places
}

/// A logarithmic axis. `places` are the positions of its ends in drawn units.
struct Axis {
    low: f64,
    high: f64,
    places: (i32, i32),
}

impl Axis {
    fn new(low: f64, high: f64, places: (i32, i32)) -> Self {
        Axis { low, high, places }
    }

    fn at(&self, value: f64) -> i32 {
        let part = (value / self.low).ln() / (self.high / self.low).ln();
        let (from, to) = (f64::from(self.places.0), f64::from(self.places.1));
        (from + part * (to - from)).round() as i32
    }

    /// Returns the ticks: 1, 2 and 5 times powers of ten over few decades, only powers of ten over more, or every n-th
    /// of them.
    fn ticks(&self) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let decades = (self.high / self.low).log10();
        let digits: &[f64] = if decades < 3.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let every = (decades / 8.0).ceil().max(1.0) as usize;
        let all = (first..=last).step_by(every).flat_map(|decade| digits.iter().map(move |d| d * 10f64.powi(decade)));
        all.filter(|tick| (self.low..=self.high).contains(tick)).collect()
    }
}

/// Draws the grid, frame, tick labels and axis labels.
fn axes(root: &Area<'_>, across: &Axis, up: &Axis) -> Drawn {
    let ((left, right), (bottom, top)) = (across.places, up.places);
    let grid = GRID.stroke_width(SCALE);
    for tick in across.ticks() {
        let x = across.at(tick);
        root.draw(&PathElement::new(vec![(x, bottom), (x, top)], grid))?;
        root.draw_text(&number(tick), &text(13, INK, (HPos::Center, VPos::Top)), (x, bottom + px(6)))?;
    }
    for tick in up.ticks() {
        let y = up.at(tick);
        root.draw(&PathElement::new(vec![(left, y), (right, y)], grid))?;
        root.draw_text(&number(tick), &text(13, INK, (HPos::Right, VPos::Center)), (left - px(6), y))?;
    }
    let frame = vec![(left, top), (right, top), (right, bottom), (left, bottom), (left, top)];
    root.draw(&PathElement::new(frame, INK.stroke_width(SCALE)))?;
    let below = text(14, INK, (HPos::Center, VPos::Top));
    root.draw_text("FLOPs per byte", &below, ((left + right) / 2, bottom + px(26)))?;
    let turned = text(14, INK, (HPos::Center, VPos::Top)).transform(FontTransform::Rotate270);
    root.draw_text("GFLOP/s", &turned, (px(14), (bottom + top) / 2))?;
    Ok(())
}

/// Formats a tick label.
fn number(tick: f64) -> String {
    if (1e-3..1e5).contains(&tick) { format!("{}", (tick * 1e6).round() / 1e6) } else { format!("{tick:.0e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_distance() {
        assert_eq!(spread(&[10, 50, 90], 10, (0, 100)), [10, 50, 90]);
        assert_eq!(spread(&[50, 50, 50], 10, (0, 100)), [50, 60, 70]);
        assert_eq!(spread(&[95, 95, 95], 10, (0, 100)), [80, 90, 100]);
        assert_eq!(spread(&[0, 95, 96, 97], 10, (5, 100)), [5, 80, 90, 100]);
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(Axis::new(0.7, 12.0, (0, 1)).ticks(), [1.0, 2.0, 5.0, 10.0]);
        assert_eq!(Axis::new(1.0, 1e4, (0, 1)).ticks(), [1.0, 10.0, 100.0, 1000.0, 10000.0]);
        assert!(Axis::new(1e-24, 1e24, (0, 1)).ticks().len() <= 9);
        let axis = Axis::new(1.0, 100.0, (0, 1000));
        assert_eq!((axis.at(1.0), axis.at(10.0), axis.at(100.0)), (0, 500, 1000));
    }
}
