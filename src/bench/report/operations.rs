//! Where the time of a step goes: bars stacked by kind of operation.

use super::case::Case;
use crate::bench::table::significant;
use crate::error::Result;
use crate::report::canvas::{Area, CHARACTER, COLOURS, Drawing, Drawn, INK, SCALE, WIDTH, colour, px, shorten, text};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use std::collections::HashMap;

/// The bars of all steps of vcycle with times by kind of operation.
pub struct Operations<'a> {
    /// The kinds with the largest shares, the largest first. All others are summed up after them.
    kinds: Vec<String>,
    rest: bool,
    groups: Vec<(&'a Case, Vec<Bar>)>,
}

/// The bar of one step.
pub struct Bar {
    /// The version of vcycle.
    pub who: String,
    /// Milliseconds of every kind, and of the others if there are any.
    pub parts: Vec<f64>,
}

impl Bar {
    /// Returns the milliseconds of all operations.
    pub fn sum(&self) -> f64 {
        self.parts.iter().sum()
    }
}

const REST: &str = "others";
/// Number of kinds that have their own colour.
const KINDS: usize = COLOURS.len() - 1;

impl<'a> Operations<'a> {
    /// Collects the bars of all cases and chooses the kinds.
    pub fn of(cases: &'a [Case]) -> Self {
        let apart = |case: &'a Case| {
            let timed = case.ours.iter().filter(|ours| ours.is_timed());
            let all = timed.map(|ours| (ours.who.to_string(), ours.operations()));
            (case, all.filter(|(_, parts)| parts.iter().any(|part| part.1 > 0.0)).collect::<Vec<_>>())
        };
        let groups: Vec<_> = cases.iter().map(apart).filter(|(_, all)| !all.is_empty()).collect();
        // Order by shares, not milliseconds, so that small steps count as much as large ones.
        let mut shares: HashMap<&str, f64> = HashMap::new();
        for (_, parts) in groups.iter().flat_map(|(_, all)| all) {
            let sum: f64 = parts.iter().map(|part| part.1).sum();
            parts.iter().for_each(|(name, ms)| *shares.entry(name).or_default() += ms / sum);
        }
        let mut order: Vec<(&str, f64)> = shares.into_iter().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        let kinds: Vec<String> = order.iter().take(KINDS).map(|(name, _)| (*name).to_string()).collect();
        let rest = order.len() > KINDS;
        let bar = |(who, parts): &(String, Vec<(String, f64)>)| {
            let mut sums = vec![0.0; kinds.len() + usize::from(rest)];
            for (name, ms) in parts {
                sums[kinds.iter().position(|kind| kind == name).unwrap_or(kinds.len())] += ms;
            }
            Bar { who: who.clone(), parts: sums }
        };
        let groups = groups.iter().map(|(case, all)| (*case, all.iter().map(bar).collect())).collect();
        Operations { kinds, rest, groups }
    }

    /// Returns the names of [`Bar::parts`].
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.kinds.iter().cloned().chain(self.rest.then(|| REST.to_string()))
    }

    /// Returns all bars with their cases.
    pub fn bars(&self) -> impl Iterator<Item = (&Case, &Bar)> {
        self.groups.iter().flat_map(|(case, bars)| bars.iter().map(move |bar| (*case, bar)))
    }

    /// Draws one group of bars for each case, each group with its own scale. Returns `None` if there are no bars.
    ///
    /// # Errors
    /// As for [`Drawing::new`].
    pub fn drawing(&self) -> Result<Option<Drawing>> {
        if self.groups.is_empty() {
            return Ok(None);
        }
        let legend = self.legend();
        let top = 8 + LEGEND_ROW * legend.last().map_or(0, |entry| entry.1 + 1);
        let height = top + self.groups.iter().map(|(_, bars)| GROUP + ROW * bars.len() as u32).sum::<u32>() + 8;
        let what = "Where the time of training steps goes, by kind of operation";
        let drawn = Drawing::new(what, height, |root| {
            for (kind, (name, row, x)) in legend.iter().enumerate() {
                let middle = px(8 + LEGEND_ROW * row + LEGEND_ROW / 2);
                let sample = [(px(*x), middle - px(7)), (px(x + 14), middle + px(7))];
                root.draw(&Rectangle::new(sample, self.colour(kind).filled()))?;
                root.draw_text(name, &text(14, INK, (HPos::Left, VPos::Center)), (px(x + 20), middle))?;
            }
            let mut y = top;
            for (case, bars) in &self.groups {
                let title = format!("{}: {}", case.subject, case.subject.setting);
                let style = text(15, INK, (HPos::Left, VPos::Center));
                root.draw_text(&shorten(&title, 120), &style, (px(16), px(y + GROUP * 2 / 3)))?;
                y += GROUP;
                let longest = bars.iter().map(Bar::sum).fold(f64::MIN_POSITIVE, f64::max);
                for bar in bars {
                    self.bar(root, bar, y, f64::from(px(RIGHT - LEFT)) / longest)?;
                    y += ROW;
                }
            }
            Ok(())
        });
        drawn.map(Some)
    }

    /// Returns name, row and x position of every kind.
    fn legend(&self) -> Vec<(String, u32, u32)> {
        let (mut row, mut x) = (0, 16);
        let place = |name: String| {
            let name = shorten(&name, 40);
            let width = 20 + (name.chars().count() as f64 * CHARACTER) as u32 + 20;
            if x + width > WIDTH && x > 16 {
                (row, x) = (row + 1, 16);
            }
            let at = (name, row, x);
            x += width;
            at
        };
        self.names().map(place).collect()
    }

    fn colour(&self, kind: usize) -> RGBColor {
        if kind < self.kinds.len() { colour(kind) } else { OTHERS }
    }

    /// Draws a bar at `y`. `scale` is in drawn units per millisecond.
    fn bar(&self, root: &Area<'_>, bar: &Bar, y: u32, scale: f64) -> Drawn {
        let (from, to, middle) = (px(y + 3), px(y + ROW - 3), px(y + ROW / 2));
        let who = text(14, INK, (HPos::Right, VPos::Center));
        root.draw_text(&shorten(&bar.who, 26), &who, (px(LEFT - 10), middle))?;
        let (sum, mut done) = (bar.sum(), 0.0);
        for (kind, ms) in bar.parts.iter().enumerate() {
            let left = px(LEFT) + (done * scale) as i32;
            done += ms;
            let right = px(LEFT) + (done * scale) as i32;
            if right == left {
                continue;
            }
            root.draw(&Rectangle::new([(left, from), (right, to)], self.colour(kind).filled()))?;
            // A white line separates neighbours for readers who do not see the colours.
            root.draw(&PathElement::new(vec![(right, from), (right, to)], WHITE.stroke_width(SCALE)))?;
            let share = format!("{:.0} %", 100.0 * ms / sum);
            let fits =
                |text: &String| text.chars().count() as f64 * CHARACTER * f64::from(SCALE) < f64::from(right - left);
            let name = self.kinds.get(kind).map_or(REST, String::as_str);
            if let Some(inside) = [format!("{name} {share}"), share].iter().find(|text| fits(text)) {
                let style = text(13, readable(self.colour(kind)), (HPos::Center, VPos::Center));
                root.draw_text(inside, &style, ((left + right) / 2, middle))?;
            }
        }
        let end = (px(LEFT + 8) + (done * scale) as i32, middle);
        root.draw_text(&format!("{} ms", significant(sum)), &text(14, INK, (HPos::Left, VPos::Center)), end)?;
        Ok(())
    }
}

/// Heights in pixels as shown.
const LEGEND_ROW: u32 = 26;
const GROUP: u32 = 34;
const ROW: u32 = 30;
/// The x positions where bars begin and where the longest bar ends.
const LEFT: u32 = 216;
const RIGHT: u32 = 1060;
/// Colour of the other kinds.
const OTHERS: RGBColor = RGBColor(150, 150, 150);

/// Returns black or white, whichever has the higher WCAG contrast with a colour.
fn readable(RGBColor(r, g, b): RGBColor) -> RGBColor {
    let linear = |c: u8| (f64::from(c) / 255.0).powf(2.2);
    let luminance = 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    // Both contrasts are equal where (1 + 0.05) / (l + 0.05) = (l + 0.05) / 0.05.
    if luminance > 0.179 { BLACK } else { WHITE }
}
