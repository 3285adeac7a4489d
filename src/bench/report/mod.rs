//! Measurements of ours and of peers in tables, pictures and on a page: what `vcycle bench --json` and the peers of
//! `benches/baselines/` wrote. Keys and figures: docs/benchmarks.md.

mod case;
mod grid;
mod line;
mod operations;
mod roofline;
mod tables;

use crate::error::Result;
use crate::files::write_atomic;
use crate::report::canvas::Drawing;
use crate::report::page::Page;
use grid::Grid;
pub use line::{LONGEST, MOST_BYTES};
use operations::Operations;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// See the module.
pub struct Report {
    tables: Vec<Grid>,
    /// The table of operations, which stands beside its picture.
    operations: Option<Grid>,
    roofline: Option<Drawing>,
    step: Option<Drawing>,
    /// What a reader should know of all of it.
    notes: Vec<String>,
}

const TITLE: &str = "vcycle bench report";
const ROOFLINE: &str = "Operations under the roofline";
/// What the points are.
const ROOFLINE_HINT: &str = "Names are followed by GFLOP/s. FLOPs and bytes as the operations count them; the roof is the best that was measured in \
                             all files. Points above it were partly in cache.";

impl Report {
    /// Reads lines of JSON and makes all of the report.
    ///
    /// # Errors
    /// A file that cannot be read; a line that is no measurement, by file and number.
    pub fn of(paths: &[PathBuf]) -> Result<Self> {
        let cases = case::gather(paths)?;
        let operations = Operations::of(&cases);
        let contenders = || cases.iter().flat_map(case::Case::contenders);
        let lines = || contenders().flat_map(case::Contender::lines);
        let measured: BTreeSet<String> = lines()
            .map(|line| format!("{} {}", line.who(), line.version.as_deref().unwrap_or("of unknown version")))
            .collect();
        let mut notes = vec![format!("Measured: {}.", measured.into_iter().collect::<Vec<_>>().join(", "))];
        if contenders().any(|contender| !contender.is_timed()) {
            notes.push("Times of the emulator say nothing about speed.".to_string());
        }
        Ok(Report {
            tables: tables::ratios(&cases).into_iter().chain([tables::figures(&cases)]).collect(),
            operations: tables::operations(&operations),
            roofline: roofline::drawing(&cases)?,
            step: operations.drawing()?,
            notes,
        })
    }

    /// All tables.
    pub fn markdown(&self) -> String {
        self.document(false)
    }

    fn document(&self, pictures: bool) -> String {
        let mut text = format!("# {TITLE}\n");
        self.tables.iter().for_each(|table| text += &format!("\n{}", table.markdown()));
        if pictures && self.roofline.is_some() {
            text += &format!("\n## {ROOFLINE}\n\n![{ROOFLINE}](roofline.svg)\n\n{ROOFLINE_HINT}\n");
        }
        if let Some(table) = &self.operations {
            text += &format!("\n{}", table.markdown());
        }
        if pictures && self.step.is_some() {
            text += "\n![Where a step's time goes](step.svg)\n";
        }
        self.notes.iter().for_each(|note| text += &format!("\n{}\n", grid::markdown(note)));
        text
    }

    /// One page that needs nothing else.
    pub fn html(&self) -> String {
        let mut page = Page::new(TITLE);
        page.raw(&format!("<h1>{TITLE}</h1>\n"));
        self.tables.iter().for_each(|table| table.html(&mut page));
        if let Some(roofline) = &self.roofline {
            page.heading(ROOFLINE);
            page.picture(roofline);
            page.hint(ROOFLINE_HINT);
        }
        self.operations.iter().for_each(|table| table.html(&mut page));
        self.step.iter().for_each(|step| page.picture(step));
        self.notes.iter().for_each(|note| page.hint(note));
        page.finish()
    }

    /// Writes `report.md`, `report.html`, and the pictures that there are: `roofline.svg`, `step.svg`.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let pictures = [("roofline.svg", &self.roofline), ("step.svg", &self.step)];
        let pictures = pictures.into_iter().filter_map(|(name, drawing)| Some((name, drawing.as_ref()?.svg())));
        let texts = [("report.md", self.document(true)), ("report.html", self.html())];
        for (name, text) in pictures.chain(texts) {
            write_atomic(&folder.join(name), |out| out.write_all(text.as_bytes()))?;
        }
        Ok(())
    }
}
