//! The canvas of all pictures: SVG whose text stays text, so that drawing needs no fonts; its palette and sizes.

use super::text::{escape, printable};
use crate::error::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Colours of curves and bars: the colour-blind-safe palette of Okabe and Ito, without its yellow, which is hard to see
/// on white.
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
/// Colour of text, axes and frames.
pub const INK: RGBColor = RGBColor(34, 34, 34);
/// Colour of grid lines.
pub const GRID: RGBColor = RGBColor(214, 214, 214);

/// Drawn units per pixel shown. Plotters rounds to whole units, so a larger drawing keeps curves smooth.
pub const SCALE: u32 = 4;
/// Width of every picture in pixels as shown.
pub const WIDTH: u32 = 1200;
/// Estimated average width in pixels of a character of size 14, rounded up.
pub const CHARACTER: f64 = 7.6;

/// The area that a picture draws on.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// The result of a drawing function, with the errors of plotters.
pub type Drawn<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Converts pixels as shown to drawn units.
pub fn px(length: u32) -> i32 {
    (length * SCALE) as i32
}

/// Returns a text style: `size` in pixels as shown, `at` the anchor point of the text.
pub fn text(size: u32, colour: RGBColor, at: (HPos, VPos)) -> TextStyle<'static> {
    // Plotters divides the size by 1.24 when it writes the SVG font size.
    let mut style: TextStyle<'static> = ("sans-serif", f64::from(size * SCALE) * 1.24).into();
    style.color = colour.to_backend_color();
    style.pos(Pos::new(at.0, at.1))
}

/// Returns the colour of a curve or bar by its index; the palette repeats.
pub fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// Draws the mark of a curve, which differs by shape as well as by colour, at a point in drawn units.
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

/// Shortens a name to at most `most` characters. Keeps its end, which says more than its beginning.
pub fn shorten(name: &str, most: usize) -> String {
    match name.chars().count() {
        n if n > most => format!("…{}", name.chars().skip(n - most + 1).collect::<String>()),
        _ => name.to_string(),
    }
}

/// A finished picture.
pub struct Drawing {
    /// The content of the `svg` element.
    body: String,
    attributes: String,
}

impl Drawing {
    /// Draws a picture on white, [`WIDTH`] wide and `height` pixels high as shown. `description` is its text
    /// alternative.
    ///
    /// # Errors
    /// If plotters fails.
    pub fn new(description: &str, height: u32, draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<Self> {
        let mut drawn = String::new();
        let done = (|| -> Drawn {
            let root = SVGBackend::with_string(&mut drawn, (WIDTH * SCALE, height * SCALE)).into_drawing_area();
            root.fill(&WHITE)?;
            draw(&root)?;
            Ok(root.present()?)
        })();
        done.map_err(|e| Error::new(format!("cannot draw the picture: {e}")))?;
        // Replace the opening tag of plotters, which has nothing for screen readers.
        let body = drawn.split_once('>').map_or("", |(_, rest)| rest).trim();
        let attributes = format!(
            "width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\"",
            WIDTH * SCALE,
            height * SCALE,
            escape(description)
        );
        // Plotters escapes text, but keeps characters that XML does not allow.
        Ok(Drawing { body: printable(body.strip_suffix("</svg>").unwrap_or(body)), attributes })
    }

    /// Returns the picture as a standalone SVG file.
    pub fn svg(&self) -> String {
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" {}>\n{}</svg>\n", self.attributes, self.body)
    }

    /// Returns the picture as an element for an HTML page.
    pub fn inline(&self) -> String {
        format!("<svg {}>\n{}</svg>\n", self.attributes, self.body)
    }
}
