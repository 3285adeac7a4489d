//! What all pictures share: SVG that needs no fonts where it is drawn (text stays text), its palette, its sizes.

use super::text::{escape, printable};
use crate::error::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The palette of Okabe and Ito, apart for the colour-blind; without its yellow, which white paper swallows.
pub const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 135, 95),
    RGBColor(160, 80, 140),
    RGBColor(190, 130, 0),
    RGBColor(60, 155, 210),
    RGBColor(110, 70, 40),
    RGBColor(60, 60, 60),
];
pub const INK: RGBColor = RGBColor(34, 34, 34);
pub const GRID: RGBColor = RGBColor(214, 214, 214);

/// Plotters rounds to whole pixels; drawing larger than shown keeps curves smooth.
pub const SCALE: u32 = 4;
/// As shown.
pub const WIDTH: u32 = 1200;
/// A character of text of size 14, on average and rather too wide than too narrow.
pub const CHARACTER: f64 = 7.6;

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type Drawn<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Lengths and text sizes as shown, in drawn units.
pub fn px(length: u32) -> i32 {
    (length * SCALE) as i32
}

pub fn text(size: u32, colour: RGBColor, at: (HPos, VPos)) -> TextStyle<'static> {
    // Plotters divides by 1.24 what SVG calls a font's size.
    let mut style: TextStyle<'static> = ("sans-serif", f64::from(size * SCALE) * 1.24).into();
    style.color = colour.to_backend_color();
    style.pos(Pos::new(at.0, at.1))
}

/// Counts through the palette.
pub fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// A mark by shape as well as by colour: a polygon in drawn units.
pub fn mark(index: usize, (x, y): (i32, i32), draw: &dyn Fn(Polygon<(i32, i32)>) -> Drawn) -> Drawn {
    let r = px(3);
    let corners = match (index + index / COLOURS.len()) % 4 {
        0 => vec![(-r, -r), (r, -r), (r, r), (-r, r)],
        1 => vec![(0, -r - r / 3), (r + r / 3, 0), (0, r + r / 3), (-r - r / 3, 0)],
        2 => vec![(0, -r - r / 4), (r + r / 4, r), (-r - r / 4, r)],
        _ => vec![(0, r + r / 4), (r + r / 4, -r), (-r - r / 4, -r)],
    };
    let moved: Vec<_> = corners.into_iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
    draw(Polygon::new(moved, colour(index).filled()))
}

/// At most so many characters. The end of a long name says more than its beginning.
pub fn shorten(name: &str, most: usize) -> String {
    match name.chars().count() {
        n if n > most => format!("…{}", name.chars().skip(n - most + 1).collect::<String>()),
        _ => name.to_string(),
    }
}

/// A picture, drawn.
pub struct Drawing {
    /// What stands within the `svg` element.
    body: String,
    attributes: String,
}

impl Drawing {
    /// A picture of this height as shown, [`WIDTH`] wide, on white; `description` is for those who cannot see it.
    ///
    /// # Errors
    /// Plotters refuses.
    pub fn new(description: &str, height: u32, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<Self> {
        let mut drawn = String::new();
        let done = (|| -> Drawn {
            let root = SVGBackend::with_string(&mut drawn, (WIDTH * SCALE, height * SCALE)).into_drawing_area();
            root.fill(&WHITE)?;
            draw(&root)?;
            Ok(root.present()?)
        })();
        done.map_err(|e| Error::new(format!("cannot draw the picture: {e}")))?;
        // The element that plotters opens says nothing for screen readers.
        let body = drawn.split_once('>').map_or("", |(_, rest)| rest).trim();
        let attributes = format!(
            "width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\"",
            WIDTH * SCALE,
            height * SCALE,
            escape(description)
        );
        // Plotters escapes texts, but leaves in them what XML cannot hold.
        Ok(Drawing { body: printable(body.strip_suffix("</svg>").unwrap_or(body)), attributes })
    }

    /// As a file of its own.
    pub fn svg(&self) -> String {
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" {}>\n{}</svg>\n", self.attributes, self.body)
    }

    /// As a part of a page.
    pub fn inline(&self) -> String {
        format!("<svg {}>\n{}</svg>\n", self.attributes, self.body)
    }
}
