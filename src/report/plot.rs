//! Plots: panels of curves under one legend, as SVG.

use super::canvas::{Area, CHARACTER, Drawing, Drawn, GRID, INK, SCALE, WIDTH, colour, mark, px, shorten, text};
use super::text::engineering;
use crate::error::Result;
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use std::ops::Range;

/// Points joined by a line.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// `(x, y)` in units of the axes, in drawing order.
    pub points: Vec<(f64, f64)>,
    /// Whether the segment is of a level below level 1; drawn dashed and lighter.
    pub below: bool,
}

/// The curve of one branch in one panel.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// Index into the palette ([`colour`]); the same for a branch in all panels.
    pub colour: usize,
    /// The parts of the curve, which are not joined to each other.
    pub segments: Vec<Segment>,
    /// Whether points get a mark.
    pub marked: bool,
}

/// A range of x, shaded darker for deeper levels.
#[derive(Clone, Debug)]
pub struct Shade {
    /// Start of the range, in units of the x axis.
    pub from: f64,
    /// End of the range, in units of the x axis.
    pub to: f64,
    /// The level that was trained in this range, counted from 1. Sets the grey and the label.
    pub level: usize,
}

/// The number format of an axis.
#[derive(Clone, Copy, Debug)]
pub enum Ticks {
    /// With an exponent that is a multiple of three: `2.5e12`.
    Engineering,
    /// As many digits as the range needs.
    Plain,
}

impl Ticks {
    fn write(self, value: f64, range: &Range<f64>) -> String {
        let height = range.end - range.start;
        // Ticks are sums, so zero may come out as 1e-19 or so.
        if value.abs() < 1e-9 * height {
            return "0".to_string();
        }
        match self {
            Ticks::Engineering => {
                let text = engineering(value);
                match text.split_once('e') {
                    Some((mantissa, exponent)) if mantissa.contains('.') => {
                        format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
                    }
                    _ => text,
                }
            }
            Ticks::Plain if !(1e-4..=1e7).contains(&height) => format!("{value:.1e}"),
            // About five ticks with a round distance.
            Ticks::Plain => format!("{value:.0$}", (-(height / 5.0).log10()).ceil().max(0.0) as usize),
        }
    }
}

/// One pair of axes. Curves are clipped at the upper end of `y`.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Text above the frame.
    pub title: String,
    /// Quantity and unit of the x axis.
    pub x_label: String,
    /// Quantity and unit of the y axis.
    pub y_label: String,
    /// Range of the x axis: finite and not empty, as from [`range`].
    pub x: Range<f64>,
    /// Range of the y axis: finite and not empty, as from [`range`].
    pub y: Range<f64>,
    /// Number format of the x axis.
    pub x_ticks: Ticks,
    /// Number format of the y axis.
    pub y_ticks: Ticks,
    /// The curves; later ones are drawn over earlier ones.
    pub curves: Vec<Curve>,
    /// Dotted horizontal lines: value and colour index.
    pub levels: Vec<(f64, usize)>,
    /// Ranges of x in which a level below level 1 was trained, shaded behind the curves.
    pub shades: Vec<Shade>,
}

/// A legend and below it panels, two in a row.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Text alternative of the picture.
    pub description: String,
    /// Text and colour index of every branch.
    pub legend: Vec<(String, usize)>,
    /// The panels, row by row from left to right.
    pub panels: Vec<Panel>,
}

/// Heights in pixels as shown.
const PANEL_HEIGHT: u32 = 400;
const LEGEND_ROW: u32 = 24;
/// Length in pixels of a line sample in the legend.
const SAMPLE: u32 = 34;
/// Most marks on a curve. With more points only every n-th one is marked, so that marks do not overlap.
const MOST_MARKS: usize = 60;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
impl Picture {
    /// Returns the picture as a standalone SVG file.
    ///
    /// # Errors
    /// If plotters fails, which does not happen for ranges from [`range`].
    pub fn svg(&self) -> Result<String> {
        Ok(self.drawing()?.svg())
    }

    /// Draws the picture.
    ///
    /// # Errors
    /// As for [`Picture::svg`].
    pub fn drawing(&self) -> Result<Drawing> {
        let rows = self.legend_rows();
        let top = rows.len() as u32 * LEGEND_ROW + 12;
        let height = top + PANEL_HEIGHT * self.panels.len().div_ceil(2) as u32;
        Drawing::new(&self.description, height, |root| self.draw(root, &rows, top))
    }

    fn draw(&self, root: &Area<'_>, rows: &[Vec<Entry>], top: u32) -> Drawn {
        for (row, entries) in rows.iter().enumerate() {
            let y = px(row as u32 * LEGEND_ROW + LEGEND_ROW / 2 + 6);
            entries.iter().try_for_each(|entry| entry.draw(root, y))?;
        }
        let columns = self.panels.len().min(2) as u32;
        for (number, panel) in self.panels.iter().enumerate() {
            let (row, column) = (number as u32 / 2, number as u32 % 2);
            let width = WIDTH / columns;
            let corner = (px(column * width), px(top + row * PANEL_HEIGHT));
            panel.draw(&root.clone().shrink(corner, (px(width), px(PANEL_HEIGHT))))?;
        }
        Ok(())
    }

    /// Splits the legend into rows that fit the width.
    fn legend_rows(&self) -> Vec<Vec<Entry>> {
        let marked = self.panels.iter().flat_map(|p| &p.curves).any(|curve| curve.marked);
        let runs = self.legend.iter().map(|(text, colour)| (shorten(text, 64), Sign::Run(*colour, marked)));
        let below = self.panels.iter().flat_map(|p| &p.curves).flat_map(|c| &c.segments).any(|s| s.below);
        let signs = [
            (below, "level 2 and below", Sign::Below),
            (self.panels.iter().any(|p| !p.levels.is_empty()), "best loss of a baseline", Sign::Level),
        ];
        let signs = signs.into_iter().filter(|(there, ..)| *there).map(|(_, text, sign)| (text.to_string(), sign));
        let (mut rows, mut x) = (vec![Vec::new()], 16);
        for (text, sign) in runs.chain(signs) {
            let width = SAMPLE + 8 + (text.chars().count() as f64 * CHARACTER) as u32 + 20;
            if x + width > WIDTH && x > 16 {
                rows.push(Vec::new());
                x = 16;
            }
            if let Some(row) = rows.last_mut() {
                row.push(Entry { text, sign, x });
            }
            x += width;
        }
        rows
    }
}

enum Sign {
    /// A branch: colour index, and whether its points are marked.
    Run(usize, bool),
    Below,
    Level,
}

/// A legend entry: a sample and its text. `x` is in pixels as shown.
struct Entry {
    text: String,
    sign: Sign,
    x: u32,
}

impl Entry {
    fn draw(&self, root: &Area<'_>, y: i32) -> Drawn {
        let (left, right) = (px(self.x), px(self.x + SAMPLE));
        let line = vec![(left, y), (right, y)];
        match self.sign {
            Sign::Run(index, marked) => {
                root.draw(&PathElement::new(line, colour(index).stroke_width(2 * SCALE)))?;
                if marked {
                    mark(index, ((left + right) / 2, y), &|element| root.draw(&element).map_err(Into::into))?;
                }
            }
            Sign::Below => {
                root.draw(&DashedPathElement::new(line, px(6), px(4), INK.mix(0.6).stroke_width(2 * SCALE)))?;
            }
            Sign::Level => {
                root.draw(&DashedPathElement::new(line, px(2), px(3), INK.stroke_width(SCALE)))?;
            }
        }
        root.draw_text(&self.text, &text(14, INK, (HPos::Left, VPos::Center)), (px(self.x + SAMPLE + 8), y))?;
        Ok(())
    }
}

impl Panel {
    fn draw(&self, area: &Area<'_>) -> Drawn {
        let mut chart = ChartBuilder::on(area)
            .margin_top(px(46))
            .margin_right(px(28))
            .margin_bottom(px(8))
            .margin_left(px(8))
            .x_label_area_size(px(50))
            .y_label_area_size(px(70))
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        let (title, y) = (text(15, INK, (HPos::Left, VPos::Top)), px(6));
        area.draw_text(&self.title, &title, (px(78), y))?;
        self.shade(area, &mut chart)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(SCALE))
            .axis_style(INK.stroke_width(SCALE))
            .set_all_tick_mark_size(px(4))
            .label_style(text(13, INK, (HPos::Center, VPos::Top)))
            .axis_desc_style(text(14, INK, (HPos::Center, VPos::Bottom)))
            .x_labels(7)
            .y_labels(7)
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .x_label_formatter(&|x| self.x_ticks.write(*x, &self.x))
            .y_label_formatter(&|y| self.y_ticks.write(*y, &self.y))
            .draw()?;
        for &(level, index) in self.levels.iter().filter(|(level, _)| self.y.contains(level)) {
            let across = vec![(self.x.start, level), (self.x.end, level)];
            let style = colour(index).stroke_width(SCALE + SCALE / 2);
            chart.draw_series(DashedLineSeries::new(across, px(2), px(3), style))?;
        }
        self.curves.iter().try_for_each(|curve| self.curve(area, &mut chart, curve))
    }

    /// Shades the ranges of lower levels and names them above the frame if there is space for the name.
    fn shade(&self, area: &Area<'_>, chart: &mut Chart<'_, '_>) -> Drawn {
        let (left, top) = area.get_base_pixel();
        for shade in &self.shades {
            let grey = 255 - 7 * (shade.level.min(12) as u8);
            let corners = [(shade.from, self.y.start), (shade.to, self.y.end)];
            chart.draw_series([Rectangle::new(corners, RGBColor(grey, grey, grey).filled())])?;
            let (from, to) = (chart.backend_coord(&corners[0]), chart.backend_coord(&corners[1]));
            let name = format!("level {}", shade.level);
            if to.0 - from.0 > (px(12) as f64 / 2.0 * name.len() as f64) as i32 {
                let style = text(12, INK, (HPos::Center, VPos::Bottom));
                area.draw_text(&name, &style, ((from.0 + to.0) / 2 - left, to.1 - top - px(3)))?;
            }
        }
        Ok(())
    }

    fn curve(&self, area: &Area<'_>, chart: &mut Chart<'_, '_>, curve: &Curve) -> Drawn {
        let colour = colour(curve.colour);
        for segment in &curve.segments {
            for part in cut(&segment.points, self.y.end) {
                if segment.below {
                    let style = colour.mix(0.6).stroke_width(2 * SCALE);
                    chart.draw_series(DashedLineSeries::new(part, px(6), px(4), style))?;
                } else {
                    chart.draw_series(LineSeries::new(part, colour.stroke_width(2 * SCALE)))?;
                }
            }
        }
        let (left, top) = area.get_base_pixel();
        let points = || curve.segments.iter().filter(|s| !s.below).flat_map(|s| &s.points);
        let every = if curve.marked { points().count().div_ceil(MOST_MARKS).max(1) } else { usize::MAX };
        for point in points().skip(every / 2).step_by(every).filter(|(_, y)| self.y.contains(y)) {
            let (x, y) = chart.backend_coord(point);
            mark(curve.colour, (x - left, y - top), &|element| area.draw(&element).map_err(Into::into))?;
        }
        Ok(())
    }
}

/// Returns the parts of a line that lie at or below `top`.
fn cut(points: &[(f64, f64)], top: f64) -> Vec<Vec<(f64, f64)>> {
    let mut parts = Vec::new();
    let mut part: Vec<(f64, f64)> = Vec::new();
    let mut before: Option<(f64, f64)> = None;
    for &(x, y) in points {
        let crossing =
            before.filter(|(_, b)| (*b <= top) != (y <= top)).map(|(a, b)| a + (x - a) * (top - b) / (y - b));
        part.extend(crossing.map(|x| (x, top)));
        if y <= top {
            part.push((x, y));
        } else if !part.is_empty() {
            parts.push(std::mem::take(&mut part));
        }
        before = Some((x, y));
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// Returns a finite, non-empty range for an axis.
pub fn range(low: f64, high: f64) -> Range<f64> {
    let (low, high) = (low.min(high), low.max(high));
    if !(low.is_finite() && high.is_finite()) {
        return 0.0..1.0;
    }
    let least = (1e-6 * low.abs().max(high.abs())).max(1e-9);
    low..high.max(low + least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_where_they_cross_the_top() {
        let parts = cut(&[(0.0, 8.0), (2.0, 4.0), (4.0, 4.0), (6.0, 8.0), (7.0, 9.0)], 6.0);
        assert_eq!(parts, [vec![(1.0, 6.0), (2.0, 4.0), (4.0, 4.0), (5.0, 6.0)]]);
        assert!(cut(&[(0.0, 7.0), (1.0, 8.0)], 6.0).is_empty());
        assert_eq!(cut(&[(0.0, 8.0), (1.0, 5.0)], 6.0).len(), 1);
    }

    #[test]
    fn ranges_are_never_empty_or_infinite() {
        for (low, high) in [(0.0, 0.0), (3.0, 3.0), (f64::NAN, 1.0), (f64::INFINITY, 0.0), (-1e30, -1e30), (5.0, 1.0)] {
            let range = range(low, high);
            assert!(range.start < range.end && (range.end - range.start).is_finite(), "{low}, {high}: {range:?}");
        }
    }
}
