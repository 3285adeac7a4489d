//! Writes `report.html` of a run: one self-contained file that needs no network and no scripts.

use super::page::Page;
use super::run::Run;
use super::text::escape;
use super::{curves, page};
use crate::error::Result;
use crate::files::write_atomic;
use std::path::Path;

/// Name of the report in a run folder.
pub const FILE: &str = "report.html";

/// Writes `report.html` into the folder of a run from the files there and replaces an earlier report.
///
/// # Errors
/// If metrics are missing or damaged (the message names file and line), or the folder cannot be written.
pub fn write(run_folder: &Path) -> Result<()> {
    let page = render(&Run::read(run_folder)?)?;
    write_atomic(&run_folder.join(FILE), |out| out.write_all(page.as_bytes()))
}

/// Returns the page as HTML.
///
/// # Errors
/// If a picture cannot be drawn.
pub fn render(run: &Run) -> Result<String> {
    let sides = run.sides();
    let mut page = Page::new(&format!("vcycle: {}", run.name));
    page.raw(&format!("<h1>{}</h1>\n", escape(&run.name)));
    page.raw(&format!("<p class=\"headline\">{}</p>\n", escape(&page::headline(run))));
    for note in sides.iter().filter_map(|side| side.note.as_deref()) {
        page.raw(&format!("<p class=\"note\">{}</p>\n", escape(note)));
    }
    let baselines: Vec<usize> = (0..sides.len()).filter(|&i| sides.len() > 1 && sides[i].is_scratch()).collect();
    page.heading("Held-out loss");
    page.picture(&curves::held_out(&sides, &baselines).drawing()?);
    page::savings(&mut page, run);
    if let Some(picture) = curves::measures(&sides) {
        page.heading("Metrics");
        page.picture(&picture.drawing()?);
        page::measures(&mut page, &sides);
    }
    page.heading("Stages");
    page::stages(&mut page, &sides);
    if let Some(picture) = curves::training(&sides) {
        page.heading("Training");
        page.picture(&picture.drawing()?);
    }
    page.heading("Speed and memory");
    page::speed(&mut page, &sides);
    page::operations(&mut page, &sides);
    page::samples(&mut page, &sides);
    page.heading("How it was run");
    page::about(&mut page, run);
    Ok(page.finish())
}
